package sandbox_test

import (
	"context"
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
		k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: d, Dir: dir, Ended: func(_ context.Context, session, dir string) {
			if _, err := os.Stat(filepath.Join(dir, "tree")); err != nil {
				t.Errorf("%s: %v", session, err)
			}
			mu.Lock()
			kept = append(kept, session)
			mu.Unlock()
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
