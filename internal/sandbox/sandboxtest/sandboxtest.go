// Package sandboxtest is the suite that every sandbox driver passes: a shell
// that is right, sandboxes that start, come back and leave nothing, and the
// isolation that the driver promises, read back from inside.
package sandboxtest

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
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
	t.Run("flood", func(t *testing.T) { testFlood(t, d) })
	t.Run("life", func(t *testing.T) { testLife(t, driver) })
	t.Run("proof", func(t *testing.T) { testProof(t, d) })
	t.Run("limits", func(t *testing.T) { testLimits(t, d) })
	t.Run("disk", func(t *testing.T) {
		if os.Getuid() != 0 || !d.Capabilities().Tree {
			t.Log("disks are root's, and for drivers that show the tree")
			return
		}
		testDisk(t, driver)
	})
	t.Run("claim", func(t *testing.T) { testClaim(t, driver) })
	t.Run("isolation", func(t *testing.T) { testIsolation(t, d) })
	if d.Capabilities().View {
		t.Run("view", func(t *testing.T) { testView(t, driver) })
	}
	if d.Capabilities().Egress {
		t.Run("egress", func(t *testing.T) { testEgress(t, driver) })
		t.Run("attack 13", func(t *testing.T) { testAttack13(t, d) })
		t.Run("no egress by variable", func(t *testing.T) { testNoEgressByVariable(t, d) })
	}
}

var sessions atomic.Int64

// World is a sandbox under test.
type World struct {
	sandbox.Sandbox
	T    testing.TB
	Spec sandbox.Spec
}

// Start starts a sandbox in a folder of its own and stops it with the test.
func Start(t testing.TB, d sandbox.Driver, change func(*sandbox.Spec)) *World {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "sandbox")
	spec := sandbox.Spec{
		SessionID: "sesn_test" + strconv.FormatInt(sessions.Add(1), 10),
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
	return &World{Sandbox: sb, T: t, Spec: spec}
}

// Do runs a command with the default limit.
func (w *World) Do(text string) toolset.Result {
	w.T.Helper()
	return w.Call(toolset.Command{Text: text})
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
// each other at it.
type gate struct {
	w    *World
	name string
}

func (w *World) gate(name string) gate {
	w.T.Helper()
	w.Want("mkfifo -m 666 /workspace/"+name, "", toolset.Exited, 0)
	return gate{w, name}
}

func (g gate) host() string { return filepath.Join(g.w.Spec.Tree, "workspace", g.name) }

// reached waits until a command writes to the gate.
func (g gate) reached() {
	g.w.T.Helper()
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
	for end := time.Now().Add(5 * time.Second); ; {
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

func await(d time.Duration) { <-time.After(d) }

// nap is a duration for sleep that no other process uses.
func nap() string {
	return "3" + strconv.FormatInt(time.Now().UnixNano()%1e9+1e9, 10) + strconv.FormatInt(sessions.Add(1), 10)
}
