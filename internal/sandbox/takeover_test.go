package sandbox_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/mock"
)

// shy is a driver that cannot recover while shy is an error.
type shy struct {
	*stubborn
	shy error
}

func (d *shy) Recover(ctx context.Context, rec sandbox.Record) (sandbox.Sandbox, error) {
	if d.shy != nil {
		return nil, d.shy
	}
	sb, err := d.Driver.Recover(ctx, rec)
	if err != nil {
		return nil, err
	}
	return stubbornBox{sb, d.stubborn}, nil
}

// TestASecondSandboxIsNotStarted beside one that lives, or that has a session's
// files, and could not be taken over: that is tried again.
func TestASecondSandboxIsNotStarted(t *testing.T) {
	d := &shy{stubborn: &stubborn{Driver: mock.New(mock.Knobs{})}}
	dir := t.TempDir()
	begin := func(policy string) *sandbox.Keeper {
		t.Helper()
		k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: d, Dir: dir, Spec: sandbox.Spec{Policy: policy}})
		if err == nil {
			err = k.Start(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	starts := func() (n int) {
		for _, line := range d.Log() {
			if line == "start sesn_1" {
				n++
			}
		}
		return n
	}
	refused := func(k *sandbox.Keeper, why error) {
		t.Helper()
		if _, _, err := k.Open(t.Context(), "sesn_1"); !errors.Is(err, why) || starts() != 1 {
			t.Errorf("Open gives %v; %v", err, d.Log())
		}
	}
	open(t, begin(""), "sesn_1", false) // a worker that is killed

	few := errors.New("too many open files")
	d.shy = few
	k := begin("")
	refused(k, few)
	d.shy = nil
	open(t, k, "sesn_1", false)
	if starts() != 1 || !slices.Contains(d.Log(), "recover sesn_1") {
		t.Errorf("%v", d.Log())
	}

	full := errors.New("the disk is full")
	d.stop = full
	k = begin("another")
	refused(k, full)
	d.stop = nil
	open(t, k, "sesn_1", false)
	if starts() != 2 || d.Live() != 1 {
		t.Errorf("%d live; %v", d.Live(), d.Log())
	}
	if err := k.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// late is a driver that recovers and stops sandboxes from some time on.
type late struct {
	*mock.Driver
	recovers, stops time.Time
}

type lateBox struct {
	sandbox.Sandbox
	d *late
}

func (d *late) Recover(ctx context.Context, rec sandbox.Record) (sandbox.Sandbox, error) {
	if time.Now().Before(d.recovers) {
		return nil, errors.New("too many open files")
	}
	sb, err := d.Driver.Recover(ctx, rec)
	if err != nil {
		return nil, err
	}
	return lateBox{sb, d}, nil
}

func (b lateBox) Stop(ctx context.Context) error {
	if time.Now().Before(b.d.stops) {
		return errors.New("the disk is full")
	}
	return b.Sandbox.Stop(ctx)
}

// TestWhatCouldNotBeTakenOverIsEnded when nobody comes for it, and what its
// session left is kept.
func TestWhatCouldNotBeTakenOverIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl = sandbox.DefaultOrphanTTL
		d := &late{Driver: mock.New(mock.Knobs{}), recovers: time.Now().Add(ttl * 3 / 2), stops: time.Now().Add(ttl * 5 / 2)}
		dir := t.TempDir()
		var kept []string
		begin := func() *sandbox.Keeper {
			t.Helper()
			k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: d, Dir: dir, Ended: func(_ context.Context, session, _ string) error {
				kept = append(kept, session)
				return nil
			}})
			if err == nil {
				err = k.Start(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
			return k
		}
		open(t, begin(), "sesn_1", false) // a worker that is killed
		k := begin()
		for tries, live := range []int{1, 1, 0} {
			time.Sleep(ttl)
			synctest.Wait()
			if d.Live() != live {
				t.Errorf("%d live after %d tries: %v", d.Live(), tries+1, d.Log())
			}
		}
		if _, err := sandbox.ReadRecord(k.Dir("sesn_1")); !errors.Is(err, fs.ErrNotExist) || !slices.Equal(kept, []string{"sesn_1"}) {
			t.Errorf("kept %v; the record: %v", kept, err)
		}
		if err := k.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestReadyOneThatCannotBeEnded keeps its folder: it may be alive.
func TestReadyOneThatCannotBeEnded(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "warm.one")
	if err := errors.Join(os.Mkdir(at, 0o700), sandbox.WriteRecord(sandbox.Record{Driver: mock.Name, Spec: sandbox.Spec{Dir: at}})); err != nil {
		t.Fatal(err)
	}
	gone := &fs.PathError{Op: "fork/exec", Path: "/nowhere/runsc", Err: fs.ErrNotExist}
	k := keeper(t, &shy{&stubborn{Driver: mock.New(mock.Knobs{})}, gone}, dir)
	if _, err := os.Stat(at); err != nil {
		t.Error(err)
	}
	if err := k.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
