package process_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/berthdev/berth/internal/crash"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/cgroup"
	"github.com/berthdev/berth/internal/sandbox/process"
	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
	"github.com/berthdev/berth/toolset"
)

// untidy is a session that leaves what it can, processes with a word that no
// others have among it.
func untidy(word string) string {
	return `set -u; export LEFT=1; left() { :; }; alias ls=false; umask 0; trap 'echo ended' EXIT; exec 5>/tmp/open 6<>/workspace/f
	echo a >/workspace/f; echo b >/tmp/f; echo c >/mnt/session/outputs/f; mount -t tmpfs left /srv; cd /tmp
	(while :; do echo noise; read -rt 0.01 <> <(:); done &) 2>&-; (trap '' TERM HUP INT; setsid sleep ` + word + ` >&- 2>&- &); (setsid -f sleep ` + word + `); sleep ` + word + ` &
	echo $PPID >/workspace/pid`
}

// tidy says what a session finds of an earlier one.
func tidy(word string) string {
	return `echo ${LEFT-none}; type -t left; alias ls 2>/dev/null; umask; trap -p; jobs; ls -d /proc/$$/fd/[3456] 2>/dev/null
	ls -A /workspace /tmp /mnt/session/outputs /mnt/memory; pwd; set -o | grep nounset; grep -c 'tmpfs left ' /proc/self/mountinfo; pgrep -fx 'sleep ` + word + `'; echo $PPID`
}

// gone wants no process with the word to be left.
func gone(t *testing.T, word string) {
	t.Helper()
	if out, err := exec.Command("pgrep", "-fx", "sleep "+word).Output(); err == nil {
		t.Errorf("still running: %s", out)
	}
}

// TestRenewal has sessions follow each other around one agent: each finds what a
// first one does, whatever the last one has left, and the agent holds no more
// than before.
func TestRenewal(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("by design: an ordinary user's agent is renewed by no other session")
	}
	d := process.New(process.Config{})
	first := sandboxtest.Start(t, d, limited)
	word := sandboxtest.Nap()
	tidy, untidy := tidy(word), untidy(word)
	pid, clean := keeperOf(t, first), sandboxtest.Output(first.Do(tidy))
	if !strings.HasSuffix(clean, pid+"\n") || !strings.Contains(clean, "/workspace:\n/workspace\n") {
		t.Fatalf("%q", clean)
	}
	first.Do(untidy)
	if left := sandboxtest.Output(first.Do(tidy)); left == clean {
		t.Fatal("it leaves nothing")
	}
	const renewals, early = 20, 5
	var fds, tasks, held, threads int
	for i, w := 0, first; i < renewals; i++ {
		next := renew(t, w, fmt.Sprintf("sesn_renewed%d", i))
		if r, err := w.Bash(t.Context(), toolset.Command{Text: "echo no"}); err == nil {
			t.Errorf("the earlier session still has a shell: %q", sandboxtest.Output(r))
		}
		if _, err := os.Stat(sandbox.SocketPath(w.Spec.Dir)); err == nil {
			t.Error("the earlier session's socket is still there")
		}
		if b, err := os.ReadFile(filepath.Join(w.Spec.Tree, "mnt/session/outputs/f")); string(b) != "c\n" {
			t.Errorf("the earlier session's output: %q %v", b, err)
		}
		next.Want(tidy, clean, toolset.Exited, 0)
		fds, tasks = len(list(t, "/proc/"+pid+"/fd")), len(list(t, "/proc/"+pid+"/task"))
		if i < early {
			held, threads = max(held, fds), max(threads, tasks)
		}
		if r := next.Call(toolset.Command{ID: "call", Text: untidy}); r.End != toolset.Exited {
			t.Errorf("an id that an earlier session has used: %s %q", r.End, sandboxtest.Output(r))
		}
		w = next
	}
	// Outputs may still be drained, and a busy machine has Go start a thread more.
	if most := (renewals - early) / 2; fds > held+most || tasks > threads+most {
		t.Errorf("the agent has %d descriptors and %d threads, at first it had %d and %d", fds, tasks, held, threads)
	}
}

// keeperOf is the pid of a sandbox's agent.
func keeperOf(t *testing.T, w *sandboxtest.World) string {
	t.Helper()
	return strings.TrimSpace(sandboxtest.Output(w.Do("echo $PPID")))
}

// group is the directory of a sandbox's cgroup that has a controller.
func group(t *testing.T, w *sandboxtest.World, controller string) string {
	t.Helper()
	var h struct{ Group cgroup.Dirs }
	if err := json.Unmarshal(w.Sandbox.Record().Handle, &h); err != nil {
		t.Fatal(err)
	}
	if dir := h.Group.Legacy[controller]; dir != "" {
		return dir
	}
	return h.Group.Unified
}

func limited(s *sandbox.Spec) {
	s.Limits = sandbox.Limits{PIDs: 100, Memory: 256 << 20, OpenFiles: 200}
}

// renew gives the sandbox that follows a world's.
func renew(t *testing.T, w *sandboxtest.World, session string) *sandboxtest.World {
	t.Helper()
	r, ok := w.Sandbox.(sandbox.Renewable)
	if !ok {
		t.Fatal("it cannot be renewed")
	}
	spec := w.Spec
	spec.SessionID, spec.Dir = session, filepath.Join(filepath.Dir(w.Spec.Dir), session)
	spec.Tree = filepath.Join(spec.Dir, "tree")
	if err := os.MkdirAll(spec.Tree, 0o755); err != nil {
		t.Fatal(err)
	}
	sb, err := r.Renew(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sb.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return &sandboxtest.World{Sandbox: sb, T: t, Spec: spec}
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestNoRenewal: a sandbox whose agent or group are not what they were is still
// to be stopped, and the one that it was to be is not there.
func TestNoRenewal(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("by design: an ordinary user's agent is renewed by no other session")
	}
	word := sandboxtest.Nap()
	does := func(text string) func(*sandboxtest.World) {
		return func(w *sandboxtest.World) {
			w.Want("pids="+group(t, w, "pids")+"; "+text, "", toolset.Exited, 0)
		}
	}
	for name, spoil := range map[string]func(*sandboxtest.World){
		"dead":       func(w *sandboxtest.World) { w.Bash(t.Context(), toolset.Command{Text: "kill -9 $PPID"}) },
		"stopped":    func(w *sandboxtest.World) { pid, _ := strconv.Atoi(keeperOf(t, w)); syscall.Kill(pid, syscall.SIGSTOP) },
		"moved":      func(w *sandboxtest.World) { os.Remove(sandbox.SocketPath(w.Spec.Dir)) },
		"unbound":    does("echo max >$pids/pids.max"),
		"bound":      does("echo 50 >$pids/pids.max"),
		"divided":    does("mkdir -p $pids/in/in && echo $BASHPID >$pids/in/in/cgroup.procs"),
		"elsewhere":  does("mkdir $pids/in && echo $PPID >$pids/in/cgroup.procs && rmdir $pids/in 2>&- || :"),
		"limited":    does("prlimit --pid $PPID --nofile=100:100"),
		"nice":       does("renice -n 5 -p $PPID >/dev/null"),
		"idle":       does("chrt -i -p 0 $PPID"),
		"idle disk":  does("ionice -c 3 -p $PPID"),
		"bound to 0": does("taskset -p 1 $PPID >/dev/null"),
		"preferred":  does("echo 1000 >/proc/$PPID/oom_score_adj"),
		"late":       does("echo 5000000 >/proc/$PPID/timerslack_ns"),
		"full": func(w *sandboxtest.World) {
			name := filepath.Join("/dev/shm", filepath.Base(group(t, w, "pids")))
			t.Cleanup(func() { os.Remove(name) })
			w.Want("head -c 100M /dev/zero >"+name, "", toolset.Exited, 0)
		},
		"shared": func(w *sandboxtest.World) {
			outside := exec.Command("unshare", "--pid", "--fork", "--kill-child", "sh", "-c", "echo; exec sleep 100000")
			out, err := outside.StdoutPipe()
			if err == nil {
				err = outside.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { outside.Process.Kill(); outside.Wait() })
			if _, err := out.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			// What is left to the first process of a namespace is not left to the agent.
			w.Want(fmt.Sprintf("nsenter -t $(pgrep -P %d) -p sh -c 'setsid sleep %s & echo'", outside.Process.Pid, word), "\n", toolset.Exited, 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := sandboxtest.Start(t, process.New(process.Config{}), limited)
			spoil(w)
			spec := w.Spec
			spec.Dir = filepath.Join(filepath.Dir(w.Spec.Dir), "next")
			spec.Tree = filepath.Join(spec.Dir, "tree")
			if err := os.MkdirAll(spec.Tree, 0o755); err != nil {
				t.Fatal(err)
			}
			if sb, err := w.Sandbox.(sandbox.Renewable).Renew(t.Context(), spec); err == nil {
				t.Errorf("it was renewed: %v", sb.Stop(t.Context()))
			}
			if left := list(t, spec.Dir); len(left) != 1 || left[0] != "tree" {
				t.Errorf("left: %v", left)
			}
			if err := w.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			if left := list(t, w.Spec.Dir); len(left) != 1 || left[0] != "tree" {
				t.Errorf("left of the first: %v", left)
			}
			gone(t, word)
		})
	}
}

// TestKilledWhileRenewing kills a worker at each step of a renewal by its pool:
// the next one keeps what the session has left, and nothing else is there.
func TestKilledWhileRenewing(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("by design: an ordinary user's agent is renewed by no other session")
	}
	if flag.NArg() == 4 && flag.Arg(0) == "renewing" {
		k := keeper(t, flag.Arg(1), nil)
		h, _, err := k.Open(t.Context(), "sesn_1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Bash(t.Context(), toolset.Command{Text: untidy(flag.Arg(3))}); err != nil {
			t.Fatal(err)
		}
		if err := crash.Arm(flag.Arg(2)); err != nil {
			t.Fatal(err)
		}
		t.Fatalf("the worker was not killed: %v", h.Close(t.Context(), false))
	}
	for _, mark := range []string{"process record", "process socket", "process renewed"} {
		t.Run(mark, func(t *testing.T) {
			dir, word := filepath.Join(t.TempDir(), "boxes"), sandboxtest.Nap()
			sandboxtest.Killed(t, "^TestKilledWhileRenewing$", "renewing", dir, mark, word)
			var ended []string
			k := keeper(t, dir, func(_ context.Context, session, dir string) error {
				b, err := os.ReadFile(filepath.Join(dir, "tree/mnt/session/outputs/f"))
				ended = append(ended, session+" left "+string(b))
				return err
			})
			if _, _, err := k.Open(t.Context(), "sesn_1"); err != nil { // ended when it was taken over, or now
				t.Fatal(err)
			}
			if err := k.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			if len(ended) == 0 || ended[0] != "sesn_1 left c\n" {
				t.Errorf("kept: %q", ended)
			}
			if left := list(t, dir); len(left) != 1 || left[0] != "sesn_1" {
				t.Errorf("left: %v", left)
			}
			gone(t, word)
			if groups := sandboxtest.Groups(t, dir); len(groups) > 0 {
				t.Errorf("cgroups are left: %v", groups)
			}
		})
	}
}

// keeper keeps two sandboxes ready.
func keeper(t *testing.T, dir string, ended func(context.Context, string, string) error) *sandbox.Keeper {
	t.Helper()
	k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: process.New(process.Config{}), Dir: dir, Warm: 2, Ended: ended})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return k
}
