package sandbox_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/mock"
	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
	"github.com/berthdev/berth/toolset"
)

func keeper(t *testing.T, d sandbox.Driver, dir string) *sandbox.Keeper {
	t.Helper()
	k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: d, Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return k
}

func open(t *testing.T, k *sandbox.Keeper, session string, wantLost bool) *sandbox.Held {
	t.Helper()
	h, lost, err := k.Open(t.Context(), session)
	if err != nil || lost != wantLost {
		t.Fatalf("open: lost %v, %v", lost, err)
	}
	return h
}

func closed(t *testing.T, h *sandbox.Held, forget bool) {
	t.Helper()
	for range 2 {
		if err := h.Close(t.Context(), forget); err != nil {
			t.Fatal(err)
		}
	}
}

func TestKeeperKeepsTheTree(t *testing.T) {
	d := mock.New(mock.Knobs{})
	dir := t.TempDir()
	k := keeper(t, d, dir)
	h := open(t, k, "sesn_1", false)
	if again := open(t, k, "sesn_1", false); again != h {
		t.Error("a second open gave another sandbox")
	}
	if err := h.Files().WriteFile("f", []byte("x")); err != nil {
		t.Fatal(err)
	}
	closed(t, h, false)
	if d.Live() != 0 {
		t.Error("the sandbox lives on")
	}
	h = open(t, k, "sesn_1", false)
	if _, err := h.Files().Stat("f"); err != nil {
		t.Errorf("the tree did not stay: %v", err)
	}
	closed(t, h, true)
	if _, err := os.Stat(filepath.Join(dir, "sesn_1")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("forgotten, but there: %v", err)
	}
	closed(t, open(t, k, "sesn_1", false), false)
	if err := os.RemoveAll(filepath.Join(dir, "sesn_1", "tree")); err != nil {
		t.Fatal(err)
	}
	closed(t, open(t, k, "sesn_1", true), false)
	if err := k.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := k.Open(t.Context(), "sesn_1"); err == nil {
		t.Error("opened after Stop")
	}
}

func TestKeeperTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := mock.New(mock.Knobs{})
		dir := t.TempDir()
		first := keeper(t, d, dir)
		if _, err := open(t, first, "sesn_1", false).Bash(t.Context(), toolset.Command{ID: "a", Text: "echo one"}); err != nil {
			t.Fatal(err)
		}
		open(t, first, "sesn_2", false)
		// The first worker is gone; sesn_3's sandbox died with it.
		dead := filepath.Join(dir, "sesn_3")
		if err := os.MkdirAll(filepath.Join(dead, "tree"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := sandbox.WriteRecord(sandbox.Record{Driver: mock.Name, SessionID: "sesn_3", Spec: sandbox.Spec{Dir: dead}}); err != nil {
			t.Fatal(err)
		}
		second := keeper(t, d, dir)
		if _, err := sandbox.ReadRecord(dead); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a dead sandbox's record stayed: %v", err)
		}
		h := open(t, second, "sesn_1", false)
		r, err := h.Bash(t.Context(), toolset.Command{ID: "a", Text: "echo two"})
		if err != nil || string(r.Head) != "one\n" {
			t.Errorf("after the takeover: %q %v", r.Head, err)
		}
		if starts := strings.Count(strings.Join(d.Log(), "\n"), "start "); starts != 2 {
			t.Errorf("%d sandboxes were started: %v", starts, d.Log())
		}
		// Nobody opens sesn_2: it is stopped in time, and sesn_1 is not.
		time.Sleep(sandbox.DefaultOrphanTTL + time.Second)
		synctest.Wait()
		if d.Live() != 1 {
			t.Errorf("%d sandboxes live", d.Live())
		}
		if err := second.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d.Live() != 0 {
			t.Error("a sandbox outlived the keeper")
		}
	})
}

func TestKeeperFails(t *testing.T) {
	boom := errors.New("boom")
	dir := t.TempDir()
	k := keeper(t, mock.New(mock.Knobs{StartError: boom}), dir)
	if _, _, err := k.Open(t.Context(), "sesn_1"); !errors.Is(err, boom) {
		t.Errorf("open: %v", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("a failed start left %v", entries)
	}
	if _, _, err := k.Open(t.Context(), ""); err == nil {
		t.Error("opened nothing")
	}
	k = keeper(t, mock.New(mock.Knobs{StopError: boom}), t.TempDir())
	h := open(t, k, "sesn_1", false)
	if err := h.Close(t.Context(), true); !errors.Is(err, boom) {
		t.Errorf("close: %v", err)
	}
	if _, err := h.Files().Stat("/workspace"); err != nil {
		t.Errorf("a failed close removed the tree: %v", err)
	}
}

func TestFolder(t *testing.T) {
	seen := map[string]string{}
	for _, s := range []string{"sesn_01AbC-x", "../../etc", "a/b", ".", "..", "a b", strings.Repeat("x", 300), "A\x00B", "é"} {
		f := sandbox.Folder(s)
		if f == "" || f != filepath.Base(f) || f == "." || f == ".." || len(f) > 110 {
			t.Errorf("%q becomes %q", s, f)
		}
		if other, ok := seen[f]; ok {
			t.Errorf("%q and %q share %q", s, other, f)
		}
		seen[f] = s
	}
}

// TestKeeperForgets has nothing left of a session that is over, neither in
// memory nor on disk, whatever it did to its directories.
func TestKeeperForgets(t *testing.T) {
	if os.Getuid() == 0 { // whom no mode keeps out
		sandboxtest.AsOrdinaryUser(t, "^TestKeeperForgets$")
		return
	}
	dir := t.TempDir()
	k := keeper(t, mock.New(mock.Knobs{}), dir)
	h := open(t, k, "sesn_1", false)
	if err := h.Files().WriteFile("a/b/c", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a/b", "a"} {
		if err := os.Chmod(filepath.Join(dir, "sesn_1/tree/workspace", name), 0); err != nil {
			t.Fatal(err)
		}
	}
	if k.Live() != 1 {
		t.Errorf("%d places while one is open", k.Live())
	}
	if err := h.Close(t.Context(), true); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "sesn_1")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the session's files are still there: %v", err)
	}
	if k.Live() != 0 {
		t.Errorf("%d places are left", k.Live())
	}
}
