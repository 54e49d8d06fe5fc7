// Package sandboxtest is the suite that every sandbox driver passes: a shell
// that is right, sandboxes that start, come back and leave nothing, and the
// isolation that the driver promises, read back from inside.
package sandboxtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

// Run runs the suite. driver makes a driver each time it is called; the
// second one plays a worker that was started again.
func Run(t *testing.T, driver func() sandbox.Driver) {
	d := driver()
	if p := d.Probe(t.Context()); !p.OK {
		t.Skipf("%s cannot run here: %s (%s)", d.Name(), p.Reason, p.Cure)
	}
	t.Run("shell", func(t *testing.T) { testShell(t, d) })
	t.Run("ends", func(t *testing.T) { testEnds(t, d) })
	t.Run("a shell turned against us", func(t *testing.T) { testTurned(t, d) })
	t.Run("life", func(t *testing.T) { testLife(t, driver) })
	t.Run("programs", func(t *testing.T) { testPrograms(t, d, driver) })
	t.Run("parts", func(t *testing.T) { testParts(t, driver) })
	t.Run("proof", func(t *testing.T) { testProof(t, d) })
	t.Run("limits", func(t *testing.T) { testLimits(t, d) })
	if d.Capabilities().Recover {
		t.Run("a record that cannot be read", func(t *testing.T) { testUnread(t, driver) })
	}
	t.Run("claim", func(t *testing.T) { testClaim(t, driver) })
	t.Run("claim of a dead one", func(t *testing.T) { testDead(t, driver) })
	if d.Capabilities().View {
		t.Run("view", func(t *testing.T) { testView(t, driver) })
	}
	if d.Capabilities().Egress {
		t.Run("egress", func(t *testing.T) { testEgress(t, driver) })
	}
	t.Run("attacks", func(t *testing.T) { Attacks(t, d, driver) })
}

// patience is how long what is to come is waited for: on a machine that does
// much else, that is a while.
const patience = time.Minute

var sessions atomic.Int64

// World is a sandbox under test.
type World struct {
	sandbox.Sandbox
	T      testing.TB
	Spec   sandbox.Spec
	Kernel bool // of its own; see sandbox.Capabilities
}

// Start starts a sandbox in a folder of its own and stops it with the test.
func Start(t testing.TB, d sandbox.Driver, change func(*sandbox.Spec)) *World {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "sandbox")
	spec := sandbox.Spec{
		SessionID: "sesn_" + Nap(), // it says who the sandbox is on the host, too
		Dir:       dir, Tree: filepath.Join(dir, "tree"),
	}
	if change != nil {
		change(&spec)
	}
	if err := os.MkdirAll(spec.Tree, 0o755); err != nil {
		t.Fatal(err)
	}
	sb, err := d.Start(t.Context(), spec)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(func() {
		if err := sb.Stop(context.Background()); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return &World{Sandbox: sb, T: t, Spec: spec, Kernel: d.Capabilities().Kernel}
}

// with is the same world in a test of its own.
func (w *World) with(t testing.TB) *World {
	v := *w
	v.T = t
	return &v
}

// Do runs a command with the default limit.
func (w *World) Do(text string) toolset.Result {
	w.T.Helper()
	return w.Call(toolset.Command{Text: text})
}

// long is Do for what takes a while on a busy machine.
func (w *World) long(text string) toolset.Result {
	w.T.Helper()
	return w.Call(toolset.Command{Text: text, Timeout: 10 * patience})
}

// Call runs a command; an error of the host fails the test.
func (w *World) Call(c toolset.Command) toolset.Result {
	w.T.Helper()
	r, err := w.Bash(w.T.Context(), c)
	if err != nil {
		w.T.Fatalf("%q: %v", c.Text, err)
	}
	return r
}

// Want runs a command and checks all of its result.
func (w *World) Want(text, output string, end toolset.End, code int) {
	w.T.Helper()
	r := w.Do(text)
	if Output(r) != output || r.End != end || r.ExitCode != code {
		w.T.Errorf("%q\n got %q %s %d\nwant %q %s %d", text, Output(r), r.End, r.ExitCode, output, end, code)
	}
}

// Output is a result's output; what was dropped shows as a mark.
func Output(r toolset.Result) string {
	if r.Dropped > 0 {
		return string(r.Head) + "<dropped " + strconv.FormatInt(r.Dropped, 10) + ">" + string(r.Tail)
	}
	return string(r.Head) + string(r.Tail)
}

// gate is a FIFO in the session's workspace: a command and the test wait for
// each other at it. A kernel of the session's own keeps its FIFOs to itself;
// there it is a pair of files. knock and wait are what a command does at it.
type gate struct {
	w           *World
	name        string
	files       bool
	knock, wait string
}

func (w *World) gate(name string) gate {
	w.T.Helper()
	w.Want("mkfifo -m 666 /workspace/"+name, "", toolset.Exited, 0)
	g := gate{w: w, name: name, knock: "echo >/workspace/" + name, wait: "read x </workspace/" + name}
	if _, err := os.Lstat(g.host()); err != nil {
		g.files = true
		g.knock, g.wait = "echo >/workspace/"+name+".in", "until [ -e /workspace/"+name+".go ]; do sleep 0.02; done"
	}
	return g
}

func (g gate) host() string { return filepath.Join(g.w.Spec.Tree, "workspace", g.name) }

// reached waits until a command writes to the gate.
func (g gate) reached() {
	g.w.T.Helper()
	if g.files {
		for end := time.Now().Add(patience); ; {
			if _, err := os.Lstat(g.host() + ".in"); err == nil {
				return
			}
			if time.Now().After(end) {
				g.w.T.Fatal("nobody came to the gate")
			}
			await(5 * time.Millisecond)
		}
	}
	f, err := os.Open(g.host())
	if err != nil {
		g.w.T.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Read(make([]byte, 16)); err != nil {
		g.w.T.Fatalf("nobody came to the gate: %v", err)
	}
}

// open lets a command that reads from the gate go on.
func (g gate) open() {
	g.w.T.Helper()
	if g.files {
		if err := os.WriteFile(g.host()+".go", nil, 0o644); err != nil {
			g.w.T.Fatal(err)
		}
		return
	}
	f, err := os.OpenFile(g.host(), os.O_WRONLY, 0)
	if err != nil {
		g.w.T.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("go\n"); err != nil {
		g.w.T.Fatal(err)
	}
}

// running finds processes of the whole host by a word of their command line.
func running(t testing.TB, word string) (pids []int) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lines {
		b, err := os.ReadFile(path)
		if err != nil || !strings.Contains("\x00"+string(b)+"\x00", "\x00"+word+"\x00") {
			continue
		}
		pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
		pids = append(pids, pid)
	}
	return pids
}

// gone waits until no such process is left; the killed take a moment.
func gone(t testing.TB, word string) {
	t.Helper()
	reach(t, word, 0)
}

// reach waits until so many of these processes run.
func reach(t testing.TB, word string, n int) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		pids := running(t, word)
		if len(pids) == n {
			return
		}
		if time.Now().After(end) {
			t.Errorf("%d of %d processes with %q run: %v", len(pids), n, word, pids)
			return
		}
		await(10 * time.Millisecond)
	}
}

// reach waits until so many of these processes run in the sandbox: as the host
// sees it, or, with a kernel of its own, as the sandbox does.
func (w *World) reach(word string, n int) {
	w.T.Helper()
	if !w.Kernel {
		reach(w.T, word, n)
		return
	}
	count := "a=" + word[:3] + "; b=" + word[3:] + "; n=0; for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f 2>&- | grep -q \"$a$b\" && n=$((n+1)); done; echo $n"
	got := ""
	for end := time.Now().Add(patience); time.Now().Before(end); await(10 * time.Millisecond) {
		if got = strings.TrimSpace(Output(w.Do(count))); got == strconv.Itoa(n) {
			return
		}
	}
	w.T.Errorf("%s of %d processes with %q run", got, n, word)
}

func await(d time.Duration) { <-time.After(d) }

// Nap is a duration for sleep that no other process uses, of this test or
// another one that runs beside it.
func Nap() string {
	return fmt.Sprintf("3%07d%03d%d", os.Getpid(), time.Now().UnixMilli()%1000, sessions.Add(1))
}

// Loopback is an address that no other process uses: a port of it stays free
// until it is taken.
func Loopback() netip.Addr {
	pid := os.Getpid()
	return netip.AddrFrom4([4]byte{127, 64 + byte(pid>>16), byte(pid >> 8), byte(pid)})
}

// Groups lists the cgroups of the sandboxes of a directory.
func Groups(t testing.TB, dir string) (found []string) {
	t.Helper()
	label := strings.TrimSuffix(sandbox.Label(filepath.Join(dir, "x")), "x")
	err := filepath.WalkDir("/sys/fs/cgroup", func(p string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ENODEV): // groups come and go
			return nil
		case err == nil && strings.HasPrefix(e.Name(), label):
			found = append(found, p)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return found
}

// Sessions is how many sessions a driver whose sandboxes start slowly has in
// NothingSurvives, by the variable BERTH_SOAK: 50, and with 1 (make soak)
// 1,000; a larger number is it itself.
func Sessions(soak string) int {
	n, _ := strconv.Atoi(soak)
	switch {
	case n > 1:
		return n
	case soak != "":
		return 1000
	}
	return 50
}
