package cgroup

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/sandbox"
)

// hosts are the ways in which this machine's hierarchies can be used: as they
// are, and as on a machine without v2.
func hosts(t *testing.T) map[string]*host {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*host{"as it is": survey(string(mounts), string(self))}
	var v1 strings.Builder
	legacy := false
	for line := range strings.Lines(string(mounts)) {
		if !strings.Contains(line, " - cgroup2 ") {
			v1.WriteString(line)
			legacy = legacy || strings.Contains(line, " - cgroup ")
		}
	}
	if legacy {
		all["v1 alone"] = survey(v1.String(), string(self))
	}
	return all
}

// each runs a test on each of hosts that can make groups.
func each(t *testing.T, test func(t *testing.T, h *host)) {
	if os.Getuid() != 0 {
		t.Skip("needs root, or a delegated group, which TestDelegated makes")
	}
	for name, h := range hosts(t) {
		t.Run(name, func(t *testing.T) {
			if h.unified == "" && len(h.legacy) == 0 {
				t.Skip("no group can be made here")
			}
			test(t, h)
		})
	}
}

// within starts bash in a group and gives what it has printed.
func within(t *testing.T, g *Group, script string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.Command("/bin/bash", "-c", "read -r; "+script)
	if fd := g.FD(); fd >= 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := g.Enter(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(in)
	t.Cleanup(func() {
		_ = g.Kill()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
	})
	return cmd, bufio.NewReader(out)
}

func make1(t *testing.T, h *host, l sandbox.Limits) *Group {
	t.Helper()
	g, enforced, err := h.make(Prefix+"test-"+strconv.Itoa(os.Getpid()), l)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		limit sandbox.Limit
		asked bool
	}{{sandbox.LimitCPU, l.CPU > 0}, {sandbox.LimitMemory, l.Memory > 0}, {sandbox.LimitPIDs, l.PIDs > 0}} {
		able := slices.Contains(h.enforces(), want.limit)
		if got := slices.Contains(enforced, want.limit); got != (want.asked && able) {
			t.Errorf("%s: enforced is %v; asked for: %v; possible: %v", want.limit, got, want.asked, able)
		}
	}
	return g
}

// TestKill ends a tree of processes that keeps forking, and finds nothing left.
func TestKill(t *testing.T) {
	each(t, func(t *testing.T, h *host) {
		g := make1(t, h, sandbox.Limits{PIDs: 1000})
		_, out := within(t, g, "for i in {1..20}; do (setsid bash -c 'while :; do sleep 0.01 & sleep 0.01; done' &) >/dev/null 2>&1; done; echo up; sleep 1000")
		if line, err := out.ReadString('\n'); err != nil || line != "up\n" {
			t.Fatal(line, err)
		}
		if g.Empty() || g.Usage().PIDs < 2 && slices.Contains(h.enforces(), sandbox.LimitPIDs) {
			t.Error("nothing runs in the group")
		}
		if err := g.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := Open(g.Dirs).Remove(); err != nil {
			t.Fatal(err)
		}
		for _, dir := range g.Dirs.all() {
			if _, err := os.Lstat(dir); err == nil {
				t.Errorf("%s is still there", dir)
			}
		}
		if err := g.Kill(); err != nil {
			t.Errorf("to kill a group that is gone: %v", err)
		}
	})
}

// ends kills a group, what is in it, and removes it.
func ends(t *testing.T, g *Group, cmd *exec.Cmd) {
	t.Helper()
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Error(err)
	}
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
}

// TestKillWithoutFirstThread: the kernel's own way to kill a group passes over a
// process whose first thread has ended.
func TestKillWithoutFirstThread(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("python3 is missing: apt-get install python3")
	}
	each(t, func(t *testing.T, h *host) {
		g := make1(t, h, sandbox.Limits{PIDs: 100})
		cmd, out := within(t, g, `exec python3 -c 'import ctypes, os, threading, time
def second():
    while ") Z " not in open("/proc/%d/stat" % os.getpid()).read(): pass
    os.write(1, b"alone\n")
    time.sleep(1000)
threading.Thread(target=second).start()
ctypes.CDLL(None).pthread_exit(None)' `)
		if line, err := out.ReadString('\n'); line != "alone\n" {
			t.Fatalf("its first thread does not end: %q %v", line, err)
		}
		ends(t, g, cmd)
	})
}

// TestGroupsWithin: groups that a session has made in its own end with it, and
// what is in them.
func TestGroupsWithin(t *testing.T) {
	each(t, func(t *testing.T, h *host) {
		g := make1(t, h, sandbox.Limits{PIDs: 1000})
		before := g.Settings()
		var move strings.Builder
		for _, dir := range g.Dirs.all() {
			fmt.Fprintf(&move, "mkdir -p %[1]s/a/b %[1]s/c; echo $$ >%[1]s/a/b/cgroup.procs;", dir)
		}
		cmd, out := within(t, g, move.String()+"echo up; sleep 1000")
		if line, err := out.ReadString('\n'); err != nil || line != "up\n" {
			t.Fatal(line, err)
		}
		if g.Settings() == before {
			t.Error("groups within are not noticed")
		}
		ends(t, g, cmd)
	})
}

func TestProcesses(t *testing.T) {
	each(t, func(t *testing.T, h *host) {
		if !slices.Contains(h.enforces(), sandbox.LimitPIDs) {
			t.Skip("the pids controller is not to be had here")
		}
		g := make1(t, h, sandbox.Limits{PIDs: 10})
		_, out := within(t, g, `exec perl -e '$| = 1; for (1..30) { $p = fork; if (!defined $p) { print "$_\n"; sleep 1000 } if (!$p) { close STDOUT; sleep 1000 } } print "all\n"'`)
		if line, _ := out.ReadString('\n'); line != "10\n" {
			t.Errorf("of 10 processes the one refused is number %q", line)
		}
	})
}

// TestMemory has one process use too much: it alone is killed, and that is
// counted. A memory file system counts.
func TestMemory(t *testing.T) {
	each(t, func(t *testing.T, h *host) {
		if !slices.Contains(h.enforces(), sandbox.LimitMemory) {
			t.Skip("the memory controller is not to be had here")
		}
		dir := t.TempDir()
		if err := unix.Mount("x", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		defer unix.Unmount(dir, unix.MNT_DETACH)
		for name, script := range map[string]string{
			"a process":     "x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo no",
			"a file system": "head -c 200000000 /dev/zero >" + filepath.Join(dir, "f"),
		} {
			g := make1(t, h, sandbox.Limits{Memory: 32 << 20})
			if n := g.OOMs(); n != 0 {
				t.Errorf("%s: %d killed before", name, n)
			}
			_, out := within(t, g, "(echo 1000 >/proc/self/oom_score_adj; "+script+") 2>/dev/null; echo $?; sleep 1000")
			if line, _ := out.ReadString('\n'); line != "137\n" {
				t.Errorf("%s: it ended as %q", name, line)
			}
			if g.OOMs() == 0 {
				t.Errorf("%s: no kill was counted", name)
			}
			if u := g.Usage(); u.MemoryPeak > 32<<20 || u.MemoryPeak < 16<<20 || u.Memory <= 0 {
				t.Errorf("%s: usage %+v", name, u)
			}
			_ = os.Remove(filepath.Join(dir, "f"))
		}
	})
}

func TestProcessors(t *testing.T) {
	each(t, func(t *testing.T, h *host) {
		if !slices.Contains(h.enforces(), sandbox.LimitCPU) {
			t.Skip("the cpu controller is not to be had here")
		}
		g := make1(t, h, sandbox.Limits{CPU: 0.2})
		began := time.Now()
		_, out := within(t, g, "while [ $SECONDS -lt 2 ]; do :; done; echo done")
		_, _ = out.ReadString('\n')
		took := time.Since(began)
		if used := g.Usage().CPU; used > took*3/10+20*time.Millisecond || used == 0 {
			t.Errorf("%v of processor in %v, a fifth is allowed", used, took)
		}
	})
}

func TestFreeze(t *testing.T) {
	each(t, func(t *testing.T, h *host) {
		g := make1(t, h, sandbox.Limits{})
		cmd, out := within(t, g, "echo up; while read -r -t 1000 x; do echo $x; done")
		if line, _ := out.ReadString('\n'); line != "up\n" {
			t.Fatal(line)
		}
		if err := g.Freeze(true); err != nil {
			t.Fatal(err)
		}
		if !g.waitFrozen() {
			t.Error("it does not stop")
		}
		frozen := field(filepath.Join(g.Dirs.Unified, "cgroup.events"), "frozen") == 1
		if dir := g.Dirs.Legacy["freezer"]; dir != "" {
			frozen = words(filepath.Join(dir, "freezer.state"))[0] == "FROZEN"
		}
		if !frozen {
			t.Error("it is not frozen")
		}
		if err := g.Freeze(false); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
			t.Error(err)
		}
	})
}

func TestLeftovers(t *testing.T) {
	each(t, func(t *testing.T, h *host) {
		label := sandbox.Label(filepath.Join(t.TempDir(), "sesn_1"))
		g, _, err := h.make(label, sandbox.Limits{PIDs: 5, Memory: 1 << 30})
		if err != nil {
			t.Fatal(err)
		}
		found, err := h.find(label)
		if err != nil || len(found) != 1 || found[0].Name() != label || len(found[0].Dirs.all()) != len(g.Dirs.all()) {
			t.Errorf("%v %v", found, err)
		}
		for _, f := range found {
			if err := f.Remove(); err != nil {
				t.Error(err)
			}
		}
		if found, err := h.find(label); err != nil || len(found) != 0 {
			t.Errorf("after that %v %v", found, err)
		}
		if _, err := h.find("user"); err == nil {
			t.Error("it looks for groups of others")
		}
	})
}

// TestFailureLeavesNothing asks for a limit that the kernel refuses.
func TestFailureLeavesNothing(t *testing.T) {
	each(t, func(t *testing.T, h *host) {
		if !slices.Contains(h.enforces(), sandbox.LimitPIDs) {
			t.Skip("the pids controller is not to be had here")
		}
		name := Prefix + "refused-" + strconv.Itoa(os.Getpid())
		if _, _, err := h.make(name, sandbox.Limits{Memory: 1 << 30, PIDs: 1 << 40}); err == nil {
			t.Error("2⁴⁰ processes were allowed")
		}
		if left, err := h.find(name); err != nil || len(left) != 0 {
			t.Errorf("left: %v %v", left, err)
		}
	})
}

// TestTidy makes the group of a sandbox whose worker never came back: an old
// one goes, a young one and one in use stay.
func TestTidy(t *testing.T) {
	each(t, func(t *testing.T, h *host) {
		age := func(g *Group) {
			old := time.Now().Add(-2 * tidyAge)
			for _, dir := range g.Dirs.all() {
				if err := os.Chtimes(dir, old, old); err != nil {
					t.Skipf("a cgroup's time cannot be set here: %v", err)
				}
			}
		}
		idle, used := make1(t, h, sandbox.Limits{PIDs: 9}), make1(t, h, sandbox.Limits{PIDs: 9})
		defer idle.Remove()
		within(t, used, "sleep 1000")
		h.tidy()
		if idle.gone() {
			t.Error("a young group was removed")
		}
		age(idle)
		age(used)
		h.tidy()
		if !idle.gone() || used.gone() {
			t.Errorf("the old one is gone: %v; the one in use: %v", idle.gone(), used.gone())
		}
	})
}
