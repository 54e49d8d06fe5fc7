package sandboxtest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/toolset"
)

func contextOf(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithCancel(t.Context())
}

// forgetter is a sandbox whose supervisor can lose its memory.
type forgetter interface {
	Close()
	Process() *agent.Process
	Recall(ctx context.Context, id string) (toolset.Result, bool, error)
}

// testFlood checks that much output is quick, bounded, and keeps both ends.
func testFlood(t *testing.T, d sandbox.Driver) {
	w := Start(t, d, func(s *sandbox.Spec) { s.OutputBytes = 1000 })
	r := w.Do("seq 100000")
	var all bytes.Buffer
	for i := 1; i <= 100000; i++ {
		all.WriteString(strconv.Itoa(i) + "\n")
	}
	b := all.Bytes()
	if !bytes.Equal(r.Head, b[:500]) || !bytes.Equal(r.Tail, b[len(b)-500:]) || r.Dropped != int64(len(b)-1000) {
		t.Errorf("head %q, dropped %d of %d, tail %q", r.Head, r.Dropped, len(b), r.Tail)
	}
	const size = 200_000_000
	began := time.Now()
	r = w.long("yes 0123456789 | head -c " + strconv.Itoa(size) + "; printf END")
	took := time.Since(began)
	if got := int64(len(r.Head)+len(r.Tail)) + r.Dropped; got != size+3 || !bytes.HasSuffix(r.Tail, []byte("END")) || !bytes.HasPrefix(r.Head, []byte("0123456789\n")) {
		t.Errorf("of %d bytes %d are accounted for; head %.20q tail ends in %q", size+3, got, r.Head, r.Tail[len(r.Tail)-10:])
	}
	t.Logf("200 MB in %v: %.0f MB/s (bar: 100)", took, size/1e6/took.Seconds())
	if f, ok := w.Sandbox.(forgetter); ok && f.Process() != nil {
		status, err := os.ReadFile("/proc/" + strconv.Itoa(f.Process().Handle.PID) + "/status")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(status)) {
			if kb, ok := strings.CutPrefix(line, "VmHWM:"); ok {
				n, _ := strconv.Atoi(strings.Fields(kb)[0])
				t.Logf("the agent's memory at its highest: %d KiB", n)
				if n > 100<<10 {
					t.Errorf("the agent took %d KiB", n)
				}
			}
		}
	}
}

// testLife checks the beginning and the end of sandboxes, and coming back.
func testLife(t *testing.T, driver func() sandbox.Driver) {
	d := driver()
	t.Run("files and shell see the same", func(t *testing.T) {
		w := Start(t, d, nil)
		for _, name := range []string{"/workspace/sub/a", "/mnt/session/outputs/b", "/tmp/c", "rel"} {
			if err := w.Files().WriteFile(name, []byte("from outside\n")); err != nil {
				t.Fatal(err)
			}
		}
		w.Want("cat sub/a /mnt/session/outputs/b /tmp/c rel && echo more >>rel && mv rel /mnt/session/outputs/moved",
			strings.Repeat("from outside\n", 4), toolset.Exited, 0)
		b, err := os.ReadFile(filepath.Join(w.Spec.Tree, "mnt/session/outputs/moved"))
		if err != nil || string(b) != "from outside\nmore\n" {
			t.Errorf("%q %v", b, err)
		}
		if w.Workdir() != "/workspace" {
			t.Errorf("workdir %q", w.Workdir())
		}
	})
	t.Run("another working directory", func(t *testing.T) {
		w := Start(t, d, func(s *sandbox.Spec) { s.Workdir = "/srv/berth-test/app" })
		w.Want("pwd; echo x >f; cat /srv/berth-test/app/f", "/srv/berth-test/app\nx\n", toolset.Exited, 0)
		f, err := w.Files().Open("f")
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		if _, err := os.Stat("/srv/berth-test"); err == nil {
			t.Error("the host got a directory")
		}
	})
	t.Run("a shared directory", func(t *testing.T) {
		if d.Name() == "command" {
			t.Skip("by design: no directory of this machine is where a command leads")
		}
		share := t.TempDir()
		if err := os.WriteFile(filepath.Join(share, "there"), []byte("here\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if d.Name() == "docker" && os.Geteuid() == 0 {
			// It has no way to lend root's files to another user, and refuses.
			if err := os.Chown(share, 54321, 54321); err != nil {
				t.Fatal(err)
			}
		}
		w := Start(t, d, func(s *sandbox.Spec) { s.Workdir, s.Share = share, share })
		w.Want("pwd; cat there; echo back >new", share+"\nhere\n", toolset.Exited, 0)
		if b, err := os.ReadFile(filepath.Join(share, "new")); err != nil || string(b) != "back\n" {
			t.Errorf("%q %v", b, err)
		}
		if err := w.Files().WriteFile("tool", []byte("x")); err != nil {
			t.Error(err)
		}
		w.Want("cat tool", "x", toolset.Exited, 0)
	})
	t.Run("a spec that makes no sense", func(t *testing.T) {
		for _, s := range []sandbox.Spec{
			{}, {SessionID: "s", Workdir: "relative"}, {SessionID: "s", Workdir: "/usr/x"}, {SessionID: "s", Share: "/nowhere/at/all"},
			{SessionID: "s", Env: map[string]string{"A=B": ""}},
		} {
			s.Dir = t.TempDir()
			s.Tree = filepath.Join(s.Dir, "tree")
			if err := os.Mkdir(s.Tree, 0o755); err != nil {
				t.Fatal(err)
			}
			if sb, err := d.Start(t.Context(), s); err == nil {
				t.Errorf("%+v started", s)
				_ = sb.Stop(t.Context())
			}
			only(t, s.Dir, "tree")
		}
	})
	t.Run("a long path", func(t *testing.T) {
		long := filepath.Join(t.TempDir(), strings.Repeat("d", 100), strings.Repeat("e", 100))
		w := Start(t, d, func(s *sandbox.Spec) { s.Dir, s.Tree = long, filepath.Join(long, "tree") })
		w.Want("echo ok", "ok\n", toolset.Exited, 0)
	})
	t.Run("stop leaves nothing", func(t *testing.T) {
		Start(t, d, nil).Want("true", "", toolset.Exited, 0) // whatever is made once is made now
		fds := descriptors(t, d)
		stay := Nap()
		w := Start(t, d, nil)
		w.Want("echo kept >f; sleep "+stay+" & setsid nohup sleep "+stay+" >&- 2>&- & (setsid sleep "+stay+" &); trap '' TERM HUP INT", "", toolset.Exited, 0)
		busy := make(chan error, 1)
		go func() {
			_, err := w.Bash(context.Background(), toolset.Command{Text: "sleep " + stay})
			busy <- err
		}()
		began := time.Now()
		if err := w.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Logf("stop took %v", time.Since(began))
		<-busy // it came back, with whatever it makes of it
		if err := w.Stop(t.Context()); err != nil {
			t.Errorf("a second stop: %v", err)
		}
		if left := running(t, stay); len(left) > 0 {
			t.Errorf("processes are left: %v", left)
		}
		if _, err := w.Bash(t.Context(), toolset.Command{Text: "true"}); !errors.Is(err, sandbox.ErrGone) {
			t.Errorf("a command after the end: %v", err)
		}
		only(t, w.Spec.Dir, "tree")
		if b, err := os.ReadFile(filepath.Join(w.Spec.Tree, "workspace/f")); err != nil || string(b) != "kept\n" {
			t.Errorf("the tree: %q %v", b, err)
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		for m := range strings.Lines(string(mounts)) { // others of the host come and go
			if strings.Contains(m, filepath.Dir(w.Spec.Dir)) || strings.Contains(m, sandbox.Label(w.Spec.Dir)) {
				t.Errorf("a mount is left: %s", m)
			}
		}
		if after := atMost(t, d, fds); after > fds {
			t.Errorf("%d descriptors before, %d after", fds, after)
		}
	})
	if !d.Capabilities().Recover {
		return
	}
	t.Run("a worker comes back", func(t *testing.T) { testRecover(t, d, driver()) })
	t.Run("a worker comes back without descriptors", func(t *testing.T) {
		w := Start(t, d, nil)
		w.Want("x=kept", "", toolset.Exited, 0)
		rec := w.Record()
		w.Sandbox.(forgetter).Close()
		var was syscall.Rlimit
		must(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was))
		var sb sandbox.Sandbox
		next := driver()
		for few := was; sb == nil; few.Cur++ {
			if few.Cur == was.Cur {
				few.Cur = 3
			}
			must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few))
			var err error
			sb, err = next.Recover(t.Context(), rec)
			must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was))
			if errors.Is(err, sandbox.ErrGone) || err == nil && few.Cur == 3 || few.Cur > 200 {
				t.Fatalf("with %d descriptors: %v", few.Cur, err)
			}
		}
		w.Sandbox = sb
		t.Cleanup(func() { must(t, sb.Stop(context.Background())) })
		w.Want("echo $x", "kept\n", toolset.Exited, 0)
	})
	t.Run("what cannot be taken over is ended", func(t *testing.T) {
		stay := Nap()
		w := Start(t, d, nil)
		w.Want("setsid sleep "+stay+" &", "", toolset.Exited, 0)
		f := w.Sandbox.(forgetter)
		rec, tree := w.Record(), w.Spec.Tree
		f.Close()
		// The tree cannot be opened: something else is in its place.
		if err := errors.Join(os.Rename(tree, tree+".away"), os.WriteFile(tree, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		sb, err := driver().Recover(t.Context(), rec)
		if !errors.Is(err, sandbox.ErrGone) {
			t.Errorf("it was taken over: %v, %v", sb, err)
		}
		if err := errors.Join(os.Remove(tree), os.Rename(tree+".away", tree)); err != nil {
			t.Fatal(err)
		}
		if err := f.Process().Wait(0); err != nil {
			t.Error(err)
		}
		gone(t, stay)
		only(t, w.Spec.Dir, "tree")
	})
	t.Run("nobody comes back", func(t *testing.T) {
		stay := Nap()
		w := Start(t, d, func(s *sandbox.Spec) { s.OrphanTTL = 200 * time.Millisecond })
		w.Want("setsid sleep "+stay+" & sleep "+stay+" &", "", toolset.Exited, 0)
		f := w.Sandbox.(forgetter)
		rec := w.Record()
		f.Close()
		if err := f.Process().Wait(patience); err != nil {
			t.Fatal(err)
		}
		gone(t, stay)
		if _, err := driver().Recover(t.Context(), rec); !errors.Is(err, sandbox.ErrGone) {
			t.Errorf("recovered what is gone: %v", err)
		}
		only(t, w.Spec.Dir, "tree")
	})
	t.Run("the agent is killed", func(t *testing.T) {
		stay := Nap()
		w := Start(t, d, nil)
		w.Want("setsid sleep "+stay+" &", "", toolset.Exited, 0)
		if err := w.Sandbox.(forgetter).Process().Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Bash(t.Context(), toolset.Command{Text: "true"}); !errors.Is(err, sandbox.ErrGone) {
			t.Errorf("a command after the agent's death: %v", err)
		}
		if err := w.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		gone(t, stay)
	})
}

// testRecover checks that a second worker finds what the first one left.
func testRecover(t *testing.T, d, d2 sandbox.Driver) {
	w := Start(t, d, nil)
	w.Call(toolset.Command{ID: "a", Text: "x=kept; echo run >>runs; echo first"})
	rec, err := sandbox.ReadRecord(w.Spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	w.Sandbox.(forgetter).Close()
	again, err := d2.Recover(t.Context(), rec)
	if err != nil {
		t.Fatal(err)
	}
	v := w.with(t)
	v.Sandbox = again
	r, known, err := again.(forgetter).Recall(t.Context(), "a")
	if err != nil || !known || Output(r) != "first\n" {
		t.Errorf("recall: %q %v %v", Output(r), known, err)
	}
	if r := v.Call(toolset.Command{ID: "a", Text: "echo run >>runs; echo second"}); Output(r) != "first\n" {
		t.Errorf("a repeated id: %q", Output(r))
	}
	if _, known, err := again.(forgetter).Recall(t.Context(), "never"); known || err != nil {
		t.Errorf("recall of what never ran: %v %v", known, err)
	}
	v.Want("echo $x; cat runs", "kept\nrun\n", toolset.Exited, 0)
	if err := again.Files().WriteFile("f", []byte("ok")); err != nil {
		t.Error(err)
	}

	// The worker goes while a command runs; the next one waits for its result.
	g := v.gate("gate")
	lost := make(chan error, 1)
	go func() {
		_, err := again.Bash(context.Background(), toolset.Command{ID: "b", Text: g.knock + "; " + g.wait + "; echo run >>runs; echo long"})
		lost <- err
	}()
	g.reached()
	again.(forgetter).Close()
	if err := <-lost; !errors.Is(err, sandbox.ErrGone) {
		t.Errorf("the call of the lost worker: %v", err)
	}
	third, err := d.Recover(t.Context(), rec)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan toolset.Result, 1)
	go func() {
		r, _ := third.Bash(context.Background(), toolset.Command{ID: "b", Text: "echo run >>runs"})
		got <- r
	}()
	g.open()
	if r := <-got; Output(r) != "long\n" || r.End != toolset.Exited {
		t.Errorf("the running command's result: %q %s", Output(r), r.End)
	}
	u := w.with(t)
	u.Sandbox = third
	u.Want("cat runs", "run\nrun\n", toolset.Exited, 0)
	stay := Nap()
	u.Want("setsid sleep "+stay+" &", "", toolset.Exited, 0)
	if err := third.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	gone(t, stay)
	only(t, w.Spec.Dir, "tree")
}

// only checks that a folder holds one thing.
func only(t *testing.T, dir, name string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != name {
			t.Errorf("%s is left in the sandbox's folder", e.Name())
		}
	}
}

// closeIdle closes what the driver keeps open for its next question.
func closeIdle(d sandbox.Driver) {
	if c, ok := d.(interface{ CloseIdle() }); ok {
		c.CloseIdle()
	}
}

// descriptors counts the process's open descriptors but those that the driver
// keeps for its next question.
func descriptors(t *testing.T, d sandbox.Driver) int {
	t.Helper()
	closeIdle(d)
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// atMost counts descriptors until there are no more than n: connections are
// closed a moment after their last answer.
func atMost(t *testing.T, d sandbox.Driver, n int) (now int) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if now = descriptors(t, d); now <= n || time.Now().After(end) {
			return now
		}
	}
}
