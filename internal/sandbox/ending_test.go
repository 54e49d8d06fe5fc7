package sandbox_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/disk"
	"github.com/berthdev/berth/internal/sandbox/mock"
)

// stubborn is a driver whose sandboxes do not stop while stop is an error, and
// cannot be proven while unproven is set.
type stubborn struct {
	*mock.Driver
	stop     error
	few      atomic.Int32 // further stops that fail
	unproven bool
}

type stubbornBox struct {
	sandbox.Sandbox
	d *stubborn
}

func (d *stubborn) Start(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	sb, err := d.Driver.Start(ctx, spec)
	if err == nil && d.unproven { // nothing can be written there
		err = os.MkdirAll(filepath.Join(spec.Dir, "receipt.json", "x"), 0o755)
	}
	return stubbornBox{sb, d}, err
}

func (b stubbornBox) Stop(ctx context.Context) error {
	if b.d.stop != nil {
		return b.d.stop
	}
	if b.d.few.Add(-1) >= 0 {
		return errBusy
	}
	return b.Sandbox.Stop(ctx)
}

var errBusy = errors.New("it is busy")

// TestSandboxThatDoesNotStop is nobody's any more, and is stopped before its
// session gets another one on the same files.
func TestSandboxThatDoesNotStop(t *testing.T) {
	full := errors.New("the disk is full")
	d := &stubborn{Driver: mock.New(mock.Knobs{}), stop: full}
	dir := t.TempDir()
	k := keeper(t, d, dir)
	h := open(t, k, "sesn_1", false)
	if err := h.Files().WriteFile("f", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(t.Context(), false); !errors.Is(err, full) {
		t.Errorf("Close gives %v", err)
	}
	if _, _, err := k.Open(t.Context(), "sesn_1"); !errors.Is(err, full) {
		t.Errorf("Open gives %v", err)
	}
	d.stop = nil
	again := open(t, k, "sesn_1", false)
	if again == h {
		t.Error("the session got the sandbox that was stopped")
	}
	if f, err := again.Files().Open("f"); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}

	d.stop, d.unproven = full, true
	if _, _, err := k.Open(t.Context(), "sesn_2"); !errors.Is(err, full) {
		t.Errorf("one that is not proven gives %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "sesn_2", "tree")); err != nil {
		t.Errorf("it may run, and its folder: %v", err)
	}
	d.stop, d.unproven = nil, false
	if err := k.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestSandboxThatStopsLater does so although nobody asks for it again.
func TestSandboxThatStopsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &stubborn{Driver: mock.New(mock.Knobs{})}
		d.few.Store(3)
		k := keeper(t, d, t.TempDir())
		h := open(t, k, "sesn_1", false)
		if err := h.Close(t.Context(), true); !errors.Is(err, errBusy) {
			t.Errorf("Close gives %v", err)
		}
		time.Sleep(3*sandbox.DefaultOrphanTTL + time.Second)
		synctest.Wait()
		if d.Live() != 0 || k.Live() != 0 {
			t.Errorf("%d sandboxes and %d places are left", d.Live(), k.Live())
		}
		if err := k.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestLostOutputsAreTold to who keeps what a session left.
func TestLostOutputsAreTold(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "sesn_1")
	if err := os.MkdirAll(filepath.Join(folder, "tree"), 0o755); err != nil {
		t.Fatal(err)
	}
	err := errors.Join(os.WriteFile(filepath.Join(folder, "unsettled"), []byte("sesn_1"), 0o600),
		os.Chmod(filepath.Join(folder, "tree"), 0o755|os.ModeSticky))
	if err != nil {
		t.Fatal(err)
	}
	if !disk.Adrift(folder) {
		t.Skip("by design: no disk is in memory but on Linux")
	}
	var told []sandbox.Unfetched
	k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: mock.New(mock.Knobs{}), Dir: dir, Ended: func(_ context.Context, _, dir string) error {
		told, err = sandbox.ReadUnfetched(dir)
		return err
	}})
	if err == nil {
		err = k.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(told) != 1 || string(told[0].Name) != "." || told[0].Reason == "" {
		t.Errorf("told of %+v", told)
	}
	open(t, k, "sesn_1", true)
	if err := k.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
