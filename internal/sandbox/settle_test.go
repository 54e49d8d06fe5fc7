package sandbox_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/mock"
)

// TestWhatASessionLeftIsKept: once for every sandbox that was started, however
// it ended, and with its tree still there.
func TestWhatASessionLeftIsKept(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	var kept []string
	take := func() []string {
		mu.Lock()
		defer mu.Unlock()
		defer func() { kept = nil }()
		slices.Sort(kept)
		return kept
	}
	begin := func(d sandbox.Driver) *sandbox.Keeper {
		t.Helper()
		k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: d, Dir: dir, Ended: func(_ context.Context, session, dir string) error {
			if _, err := os.Stat(filepath.Join(dir, "tree")); err != nil {
				t.Errorf("%s: %v", session, err)
			}
			mu.Lock()
			kept = append(kept, session)
			mu.Unlock()
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		return k
	}
	same := func(what string, want ...string) {
		t.Helper()
		if got := take(); strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: kept %v, want %v", what, got, want)
		}
	}
	d := mock.New(mock.Knobs{})
	k := begin(d)
	closed(t, open(t, k, "sesn_1", false), false)
	same("closed", "sesn_1")
	closed(t, open(t, k, "sesn_1", false), true)
	same("forgotten", "sesn_1")
	open(t, k, "sesn_2", false)
	open(t, k, "a name that is none", false)
	if err := k.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	same("stopped", "a name that is none", "sesn_2")

	// A worker that is killed says nothing; its sandboxes die with the machine.
	k = begin(d)
	same("nothing is left")
	open(t, k, "sesn_3", false)
	k = begin(mock.New(mock.Knobs{})) // which knows nothing of the other's sandboxes
	same("after a crash", "sesn_3")
	if err := k.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	begin(mock.New(mock.Knobs{}))
	same("once")

	// It may be killed between the sandbox's end and the keeping.
	if err := os.WriteFile(filepath.Join(dir, "sesn_2", "unsettled"), []byte("sesn_2"), 0o600); err != nil {
		t.Fatal(err)
	}
	begin(mock.New(mock.Knobs{}))
	same("after a crash in between", "sesn_2")
}

// TestWhatCannotBeKeptStays in the session's tree, also of a session that is to
// be forgotten, until it can be kept.
func TestWhatCannotBeKeptStays(t *testing.T) {
	dir := t.TempDir()
	full := errors.New("the disk is full")
	fail, kept := full, 0
	ended := func(_ context.Context, _, dir string) error {
		if _, err := os.Stat(filepath.Join(dir, "tree", "workspace", "f")); err != nil {
			t.Error(err)
		}
		if fail == nil {
			kept++
		}
		return fail
	}
	begin := func() *sandbox.Keeper {
		t.Helper()
		k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: mock.New(mock.Knobs{}), Dir: dir, Ended: ended})
		if err == nil {
			err = k.Start(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	k := begin()
	h := open(t, k, "sesn_1", false)
	if err := h.Files().WriteFile("f", nil); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := h.Close(t.Context(), true); !errors.Is(err, full) {
			t.Fatalf("Close gives %v", err)
		}
	}
	closed(t, open(t, k, "sesn_1", false), false)
	if err := k.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	fail = nil
	k = begin()
	if kept != 1 {
		t.Errorf("kept %d times by the next worker", kept)
	}
	closed(t, open(t, k, "sesn_1", false), true)
	if _, err := os.Stat(filepath.Join(dir, "sesn_1")); !errors.Is(err, os.ErrNotExist) || kept != 2 {
		t.Errorf("forgotten: %v, kept %d times", err, kept)
	}
	if err := k.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}
