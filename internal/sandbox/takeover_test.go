package sandbox_test

import (
	"context"
	"errors"
	"io/fs"
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

// TestWhatCouldNotBeTakenOverIsEnded when nobody comes for it, and what its
// session left is kept.
func TestWhatCouldNotBeTakenOverIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &shy{stubborn: &stubborn{Driver: mock.New(mock.Knobs{})}}
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
		d.shy = errors.New("too many open files")
		k := begin()
		time.Sleep(sandbox.DefaultOrphanTTL + time.Second)
		d.shy, d.stop = nil, errors.New("the disk is full")
		time.Sleep(sandbox.DefaultOrphanTTL)
		if len(kept) > 0 || d.Live() != 1 {
			t.Errorf("kept %v; %d live", kept, d.Live())
		}
		d.stop = nil
		time.Sleep(sandbox.DefaultOrphanTTL)
		synctest.Wait()
		if _, err := sandbox.ReadRecord(k.Dir("sesn_1")); !errors.Is(err, fs.ErrNotExist) || !slices.Equal(kept, []string{"sesn_1"}) || d.Live() != 0 {
			t.Errorf("kept %v; %d live; the record: %v", kept, d.Live(), err)
		}
		if err := k.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
