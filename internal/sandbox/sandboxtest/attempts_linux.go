package sandboxtest

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

// quick runs a command whose end is of no interest but that it comes.
func (w *World) quick(text string) {
	w.T.Helper()
	began := time.Now()
	_, _ = w.Bash(w.T.Context(), toolset.Command{Text: text, Timeout: 5 * time.Second})
	if took := time.Since(began); took > patience {
		w.T.Errorf("%q took %v", text, took)
	}
}

// testStormBeside has a neighbour work while processes and threads are made
// without end: however long that lasts, its calls go on.
func testStormBeside(t *testing.T, d sandbox.Driver) {
	const calls, storms = 20, 2 * time.Second // of each at least
	a, b := Bounded(t, d, sandbox.Limits{PIDs: 100}), Start(t, d, nil)
	b.Want("true", "", toolset.Exited, 0)
	measure := func(n int) []time.Duration {
		var took []time.Duration
		for range n {
			began := time.Now()
			b.Want("/bin/true", "", toolset.Exited, 0)
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		return took
	}
	calm := measure(100)
	var rough []time.Duration
	for _, storm := range []string{":(){ :|:& }; : 2>/dev/null; sleep 100", `python3 -c '
import threading, time
while True:
    try: threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
    except RuntimeError: time.sleep(0.01)' 2>/dev/null; sleep 100`} {
		ctx, end := context.WithCancel(context.WithoutCancel(t.Context()))
		ended := make(chan toolset.Result, 1)
		go func() {
			r, _ := a.Bash(ctx, toolset.Command{Text: storm, Timeout: patience})
			ended <- r
		}()
		n, over := 0, false
		for began := time.Now(); !over; {
			select {
			case r := <-ended:
				if over = true; r.End == toolset.TimedOut {
					t.Errorf("in %v of a storm a neighbour had %d calls", patience, n)
				}
			default:
				rough = append(rough, measure(1)...)
				if n++; n >= calls && time.Since(began) >= storms {
					end()
				}
			}
		}
		end()
	}
	slices.Sort(rough)
	n := len(rough)
	if n == 0 {
		t.Fatal("the neighbour did nothing during the storm")
	}
	t.Logf("a neighbour's /bin/true: %v before (p99 %v), %v during the storm (p99 %v of %d)", calm[50], calm[99], rough[n/2], rough[n*99/100], n)
}

// testNoise prints what could be taken for something else: by a terminal, by
// a program that looks for the end of the output.
func testNoise(t *testing.T, d sandbox.Driver) {
	w := Start(t, d, func(s *sandbox.Spec) { s.OutputBytes = 1000 })
	for text, want := range map[string]string{
		`printf '\e]0;title\a\e[2J\e[999999999b\r'`: "\x1b]0;title\a\x1b[2J\x1b[999999999b\r",
		`printf '\0\0\n__DONE__:0\n__berth 0\n'`:    "\x00\x00\n__DONE__:0\n__berth 0\n",
		`printf '{"kind":"exit","code":0}\n\0'`:     "{\"kind\":\"exit\",\"code\":0}\n\x00",
	} {
		w.Want(text+"; (exit 3)", want, toolset.Exited, 3)
	}
	r := w.long("head -c 100000000 /dev/zero; (exit 4)")
	if int64(len(r.Head)+len(r.Tail))+r.Dropped != 100_000_000 || len(r.Head)+len(r.Tail) > 1000 || r.ExitCode != 4 {
		t.Errorf("100 MB of NULs: kept %d and %d, dropped %d, code %d", len(r.Head), len(r.Tail), r.Dropped, r.ExitCode)
	}
}

// testJunk has a session write into all that the agent holds open.
func testJunk(t *testing.T, d sandbox.Driver) {
	w := Start(t, d, nil)
	w.quick("for p in 1 $PPID; do for f in /proc/$p/fd/*; do [ -c $f ] || echo junk 2>&- >$f & done; done; sleep 0.5; kill $(jobs -p)")
	w.Want("echo next", "next\n", toolset.Exited, 0)
}

// testNeighbourIPC looks for what a neighbour shares by other names than files.
func testNeighbourIPC(t *testing.T, d sandbox.Driver) {
	a, b := Start(t, d, nil), Start(t, d, nil)
	a.Perl("")
	name := "berth-attack-" + Nap()
	shared := `perl -e 'print defined shmget(471230, 4096, %) ? "there" : "none"'`
	a.Want(strings.ReplaceAll(shared, "%", "0666 | 01000"), "there", toolset.Exited, 0)
	b.Want(strings.ReplaceAll(shared, "%", "0"), "none", toolset.Exited, 0)
	a.Want(`perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0); bind(S, pack("S a*", AF_UNIX, "\0`+name+`")) && listen(S, 1) or die; close STDOUT; close STDERR; sleep 3600' & until grep -q `+name+` /proc/net/unix; do sleep 0.05; done`,
		"", toolset.Exited, 0)
	reach := `perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0); print connect(S, pack("S a*", AF_UNIX, "\0` + name + `")) ? "there" : "none"'`
	a.Want(reach, "there", toolset.Exited, 0)
	b.Want(reach, "none", toolset.Exited, 0)
}

// testRise plants programs that rise by their mode and by a capability, as an
// image or a skill may bring them.
func testRise(t *testing.T, d sandbox.Driver) {
	w := Start(t, d, nil)
	grep, err := os.ReadFile("/usr/bin/grep")
	if err != nil {
		t.Skip(err)
	}
	at := func(name string) string { return filepath.Join(w.Spec.Tree, "workspace", name) }
	for _, name := range []string{"suid", "capped"} {
		if err := os.WriteFile(at(name), grep, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if os.Getuid() == 0 {
		if err := os.Chown(at("suid"), 0, 0); err != nil {
			t.Fatal(err)
		}
		// Revision 2, effective, of every capability.
		rights := []byte{1, 0, 0, 2, 255, 255, 255, 255, 0, 0, 0, 0, 255, 1, 0, 0, 0, 0, 0, 0}
		if err := unix.Setxattr(at("capped"), "security.capability", rights, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(at("suid"), os.ModeSetuid|os.ModeSetgid|0o755); err != nil {
		t.Fatal(err)
	}
	user := strings.TrimSpace(Output(w.Do("id -u")))
	for _, name := range []string{"suid", "capped"} {
		r := w.Do("./" + name + " -E '^(Uid|Gid|CapPrm|CapEff|CapBnd|NoNewPrivs)' /proc/self/status")
		if r.ExitCode != 0 { // it may not run at all
			t.Logf("%s does not run: %q", name, Output(r))
			continue
		}
		got := strings.Join(strings.Fields(Output(r)), " ")
		ids := strings.TrimSpace(strings.Repeat(user+" ", 4))
		if !strings.Contains(got, "Uid: "+ids+" ") || strings.Contains(got, "Gid: 0 ") || strings.Count(got, "0000000000000000") != 3 {
			t.Errorf("%s rose: %s", name, got)
		}
	}
	w.Want("su -c id </dev/null 2>&- || sudo -n id 2>&- || newgrp root </dev/null 2>&- || pkexec id 2>&-; true", "", toolset.Exited, 0)
	w.Want("for f in /etc/passwd /etc/group /etc/sudoers.d/x /etc/ld.so.preload /etc/cron.d/x; do { echo x >>$f; } 2>&- && echo $f; done; true", "", toolset.Exited, 0)
}

// testSignals goes for the agent and for those behind it: with signals, by
// what it holds open, and from outside while a call runs.
func testSignals(t *testing.T, d sandbox.Driver) {
	w := Start(t, d, nil)
	for _, text := range []string{
		"kill -9 -1", "perl -e 'kill 9, -1'", "kill -STOP 1 $PPID; kill -TERM 1 $PPID", "kill -9 1 $PPID",
		"for i in $(seq 6000); do exec {f}</dev/null || break; done", "for f in /proc/self/fd/*; do f=${f##*/}; eval \"exec $f>&-\"; done",
		"perl -e 'for $p (1, getppid) { syscall(" + strconv.Itoa(unix.SYS_PTRACE) + ", 16, $p, 0, 0) == 0 and kill 9, $p }'",
	} {
		w.quick("{ " + text + "; } 2>/dev/null")
		w.Want("echo next", "next\n", toolset.Exited, 0)
	}
	w.Want("echo kept >kept", "", toolset.Exited, 0)
	f, ok := w.Sandbox.(forgetter)
	if !ok {
		return
	}
	g := w.gate("amid")
	back := make(chan error, 1)
	go func() {
		_, err := w.Bash(context.WithoutCancel(t.Context()), toolset.Command{Text: g.knock + "; sleep 1000"})
		back <- err
	}()
	g.reached()
	began := time.Now()
	if err := f.Process().Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-back; !errors.Is(err, sandbox.ErrGone) {
		t.Errorf("the call came back with %v", err)
	}
	if took := time.Since(began); took > patience/2 {
		t.Errorf("the call came back %v after the agent's end", took)
	}
	if err := w.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, err := d.Start(t.Context(), w.Spec)
	if err != nil {
		t.Fatal(err)
	}
	v := w.with(t)
	v.Sandbox = again
	v.Want("cat kept", "kept\n", toolset.Exited, 0)
	if err := again.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// testThreads has a session signal the agent by the numbers of its threads, in
// each way there is. Linux holds that back from the first process; gVisor knows
// no such process, and there the session ends its own sandbox and no more: the
// call says so within its time, the next sandbox has the same files.
func testThreads(t *testing.T, d sandbox.Driver) {
	w := Start(t, d, nil)
	word := Nap()
	w.Want("echo kept >kept; setsid sleep "+word+" &", "", toolset.Exited, 0)
	again := func(err error) {
		t.Helper()
		if !d.Capabilities().Kernel || !errors.Is(err, sandbox.ErrGone) || !strings.Contains(err.Error(), "fresh one with the same files") {
			t.Fatalf("the agent ended: %v", err)
		}
		if err := w.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		gone(t, word)
		only(t, w.Spec.Dir, "tree")
		if w.Sandbox, err = d.Start(t.Context(), w.Spec); err != nil {
			t.Fatal(err)
		}
	}
	calls := []string{
		"kill $s, $t", "syscall(" + strconv.Itoa(unix.SYS_TKILL) + ", $t, $s)", "syscall(" + strconv.Itoa(unix.SYS_TGKILL) + ", 1, $t, $s)",
		"syscall(" + strconv.Itoa(unix.SYS_TGKILL) + ", $t, $t, $s)", "syscall(" + strconv.Itoa(unix.SYS_RT_SIGQUEUEINFO) + ", $t, $s, $info)",
		"syscall(" + strconv.Itoa(unix.SYS_RT_TGSIGQUEUEINFO) + ", 1, $t, $s, $info)",
	}
	for _, call := range calls {
		r, err := w.Bash(t.Context(), toolset.Command{Timeout: patience, Text: `perl -e 'my $s = 9; my $info = pack("i! i! i! x116", $s, 0, -1);
			opendir my $d, "/proc/1/task"; my @t = grep /^[0-9]/, readdir $d; @t = (1..6) unless @t;
			for my $t (@t) { $t += 0; ` + call + ` }'`})
		if r.End == toolset.TimedOut {
			t.Errorf("%s: the call does not come back", call)
		}
		if err != nil {
			again(err)
		}
		w.Want("cat kept", "kept\n", toolset.Exited, 0)
	}
	if err := w.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// elsewhere makes a directory that is not below /tmp, which each session has
// of its own.
func elsewhere(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "berth-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func openKeyHunt(t *testing.T, d sandbox.Driver) {
	at := filepath.Join(elsewhere(t), "master.key")
	if err := os.WriteFile(at, []byte(secretA+secretB), 0o600); err != nil {
		t.Fatal(err)
	}
	Start(t, d, nil).Want("cat "+at, secretA+secretB, toolset.Exited, 0)
}

func openNeighbour(t *testing.T, d sandbox.Driver) {
	dir := elsewhere(t)
	a := Start(t, d, func(s *sandbox.Spec) { s.Dir, s.Tree = dir, filepath.Join(dir, "tree") })
	a.Want("echo private >f", "", toolset.Exited, 0)
	Start(t, d, nil).Want("cat "+filepath.Join(a.Spec.Tree, "workspace/f"), "private\n", toolset.Exited, 0)
}

func openDoors(t *testing.T, d sandbox.Driver) {
	w := Start(t, d, nil)
	w.Want("grep -q '^Seccomp:.0' /proc/self/status", "", toolset.Exited, 0)
	if os.Getuid() == 0 {
		w.Want("unshare -m true", "", toolset.Exited, 0)
	}
}

func openRise(t *testing.T, d sandbox.Driver) {
	Start(t, d, nil).Want("id -u", strconv.Itoa(os.Getuid())+"\n", toolset.Exited, 0)
}

func openSignals(t *testing.T, d sandbox.Driver) {
	Start(t, d, nil).Want("kill -0 "+strconv.Itoa(os.Getpid()), "", toolset.Exited, 0)
}

func openNetwork(t *testing.T, d sandbox.Driver) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	Start(t, d, nil).Want("(exec 3<>/dev/tcp/127.0.0.1/"+port+")", "", toolset.Exited, 0)
}

// refusesAllowList: a way out that a driver cannot make is not left open.
func refusesAllowList(t *testing.T, d sandbox.Driver) {
	dir := t.TempDir()
	spec := sandbox.Spec{
		SessionID: "sesn_allow", Dir: dir, Tree: filepath.Join(dir, "tree"),
		Network: sandbox.Network{Mode: sandbox.NetworkAllow, Socket: filepath.Join(dir, sandbox.EgressDirName, "proxy.sock")},
	}
	if err := os.Mkdir(spec.Tree, 0o755); err != nil {
		t.Fatal(err)
	}
	sb, err := d.Start(t.Context(), spec)
	if err == nil {
		t.Error("a session with an allow-list started")
		_ = sb.Stop(t.Context())
	}
}

// refusesRequired: a limit that is required and not held refuses the session.
func refusesRequired(t *testing.T, d sandbox.Driver) {
	limits := sandbox.Limits{Disk: 32 << 20, Required: []sandbox.Limit{sandbox.LimitDisk}}
	k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: d, Dir: t.TempDir(), Spec: sandbox.Spec{Limits: limits}})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := k.Open(t.Context(), "sesn_required"); err == nil {
		t.Error("a session without its required disk started")
	}
	if err := k.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
