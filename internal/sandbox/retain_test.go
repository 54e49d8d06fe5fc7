package sandbox_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/mock"
)

// TestWorkspacesAreKeptForATime: by age and by size, the oldest first, and
// never that of a session at work.
func TestWorkspacesAreKeptForATime(t *testing.T) {
	dir := t.TempDir()
	var seen int
	k, err := sandbox.NewKeeper(sandbox.KeeperConfig{
		Driver: mock.New(mock.Knobs{}), Dir: dir,
		Retain: sandbox.Retain{Age: 24 * time.Hour, Bytes: 5 << 20}, Retained: func(time.Time) { seen++ },
	})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for i, name := range []string{"live", "ancient", "a", "b", "c", "d"} {
		h := open(t, k, name, false)
		if err := h.Files().WriteFile("f", make([]byte, 2<<20)); err != nil {
			t.Fatal(err)
		}
		if name != "live" {
			closed(t, h, false)
		}
		at := now.Add(time.Duration(i-10) * time.Hour)
		if name == "ancient" || name == "live" {
			at = now.Add(-25 * time.Hour)
		}
		if err := os.Chtimes(filepath.Join(dir, name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	k.ForgetPast(t.Context(), now)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if got := strings.Join(left, " "); got != "c d live" {
		t.Errorf("left: %s", got)
	}
	if seen != 1 {
		t.Errorf("told %d times", seen)
	}
	closed(t, open(t, k, "a", false), false)
	if err := k.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := (sandbox.Retain{Age: 1}).Past(filepath.Join(dir, "none"), now, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
}

// TestAWorkspaceWhoseSandboxMayLiveIsKept however old it is: its record cannot be
// read, so nothing says that nobody is in it.
func TestAWorkspaceWhoseSandboxMayLiveIsKept(t *testing.T) {
	dir := t.TempDir()
	k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: mock.New(mock.Knobs{}), Dir: dir, Retain: sandbox.Retain{Age: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	at, old := filepath.Join(dir, "a"), time.Now().Add(-2*time.Hour)
	err = errors.Join(os.Mkdir(at, 0o700), os.WriteFile(filepath.Join(at, "record.json"), []byte("{"), 0o600), os.Chtimes(at, old, old))
	if err != nil {
		t.Fatal(err)
	}
	k.ForgetPast(t.Context(), time.Now())
	if _, err := os.Stat(at); err != nil {
		t.Error(err)
	}
}

// TestAWorkspaceInUseAgainIsKept: a session that comes back while it is looked
// for what is kept too long keeps its files, though its sandbox has ended again
// before they would be removed.
func TestAWorkspaceInUseAgainIsKept(t *testing.T) {
	dir := t.TempDir()
	k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: mock.New(mock.Knobs{}), Dir: dir, Retain: sandbox.Retain{Age: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * time.Hour)
	for _, name := range []string{"a", "b"} {
		closed(t, open(t, k, name, false), false)
		if err := os.Chtimes(filepath.Join(dir, name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	leave := k.Enter("a")
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.ForgetPast(t.Context(), time.Now())
	}()
	for tick := time.NewTicker(time.Millisecond); k.Users("a") < 2; { // it has listed both, and waits for a
		<-tick.C
	}
	closed(t, open(t, k, "b", false), false)
	leave()
	<-done
	if _, err := os.Stat(filepath.Join(dir, "b", "tree")); err != nil {
		t.Errorf("the files of a session that was here just now: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the files of a session that was not: %v", err)
	}
}
