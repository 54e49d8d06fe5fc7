package sandboxtest

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/toolset"
)

// testClaim has a session take a sandbox that was ready: it is the session's
// own in all that follows, also for the next worker.
func testClaim(t *testing.T, driver func() sandbox.Driver) {
	d, dir := driver(), t.TempDir()
	k := warmKeeper(t, d, dir, 1)
	if k == nil {
		t.Skipf("by design: sandboxes of %s do not change hands here", d.Name())
	}
	h, _, err := k.Open(t.Context(), "sesn_claimed")
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "sesn_claimed")
	rec, err := sandbox.ReadRecord(at)
	if err != nil || rec.Label == sandbox.Label(at) {
		t.Fatalf("it was not taken from the pool: %v %q", err, rec.Label)
	}
	if own := h.Sandbox().Record(); !own.StartedAt.Equal(rec.StartedAt) || string(own.Handle) != string(rec.Handle) || own.SessionID != rec.SessionID {
		t.Errorf("the next worker would take it for another: %v %q, not %v %q", rec.StartedAt, rec.SessionID, own.StartedAt, own.SessionID)
	}
	w := &World{Sandbox: h.Sandbox(), T: t, Spec: rec.Spec, Kernel: d.Capabilities().Kernel}
	if r := w.Do("echo kept >f; cat f"); Output(r) != "kept\n" {
		t.Errorf("a command: %q", Output(r))
	}
	if d.Capabilities().Tree {
		if b, err := os.ReadFile(filepath.Join(at, "tree/workspace/f")); err != nil || string(b) != "kept\n" {
			t.Errorf("the tree: %q %v", b, err)
		}
	}
	if err := h.Files().WriteFile("g", []byte("x")); err != nil {
		t.Error(err)
	}
	w.Want("cat g", "x", toolset.Exited, 0)
	if _, err := sandbox.Prove(t.Context(), d, h.Sandbox(), false); err != nil {
		t.Errorf("once more proven: %v", err)
	}
	if r, err := sandbox.ReadReceipt(at); err != nil || r.Session != "sesn_claimed" {
		t.Errorf("the receipt: %+v %v", r, err)
	}
	if f, ok := h.Sandbox().(forgetter); ok && d.Capabilities().Recover {
		f.Close()
		again, err := driver().Recover(t.Context(), rec)
		if err != nil {
			t.Fatalf("recover: %v", err)
		}
		v := w.with(t)
		v.Sandbox = again
		v.Want("cat f", "kept\n", toolset.Exited, 0)
		if err := again.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	} else if err := h.Close(t.Context(), false); err != nil {
		t.Error(err)
	}
	if err := k.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "warm.") {
			t.Errorf("%s is left", e.Name())
		}
	}
}

// testDead has a sandbox die that is ready: the session that comes has one of
// its own.
func testDead(t *testing.T, driver func() sandbox.Driver) {
	d, dir := driver(), t.TempDir()
	k := warmKeeper(t, d, dir, 1)
	if k == nil {
		t.Skipf("by design: sandboxes of %s do not change hands here", d.Name())
	}
	defer k.Stop(context.WithoutCancel(t.Context()))
	warm, err := filepath.Glob(filepath.Join(dir, "warm.*"))
	if err != nil || len(warm) != 1 {
		t.Fatalf("ready: %v %v", warm, err)
	}
	rec, err := sandbox.ReadRecord(warm[0])
	if err != nil {
		t.Fatal(err)
	}
	var h agent.Handle
	if json.Unmarshal(rec.Handle, &h) != nil || h.PID == 0 {
		t.Skipf("by design: the host sees no process of a sandbox of %s", d.Name())
	}
	p, err := agent.OpenHandle(h)
	if err == nil {
		err = errors.Join(p.Kill(), p.Wait(patience))
	}
	if err != nil {
		t.Fatal(err)
	}
	held, _, err := k.Open(t.Context(), "sesn_claimed")
	if err != nil {
		t.Fatal(err)
	}
	if r, err := held.Bash(t.Context(), toolset.Command{Text: "echo x"}); err != nil || Output(r) != "x\n" {
		t.Errorf("its first command: %q %v", Output(r), err)
	}
}

// warmKeeper makes a keeper with sandboxes ready, nil where there will be none.
func warmKeeper(t testing.TB, d sandbox.Driver, dir string, size int) *sandbox.Keeper {
	t.Helper()
	probe := Start(t, d, nil)
	if _, ok := probe.Sandbox.(sandbox.Assignable); !ok {
		return nil
	}
	k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: d, Dir: dir, Warm: size})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	filled(t, k, size)
	return k
}

// filled waits until so many sandboxes are ready.
func filled(t testing.TB, k *sandbox.Keeper, n int) {
	t.Helper()
	for end := time.Now().Add(patience); k.Ready() < n; await(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("only %d sandboxes are ready", k.Ready())
		}
	}
}
