package tree_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/berthdev/berth/internal/sandbox/tree"
	"github.com/berthdev/berth/toolset"
)

func TestLend(t *testing.T) {
	src := t.TempDir()
	put := func(dir, name, text string) {
		t.Helper()
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(src, "SKILL.md", "text")
	put(src, "bin/run", "run")
	if err := os.Symlink("/etc/passwd", filepath.Join(src, "out")); err != nil {
		t.Fatal(err)
	}
	root, share := t.TempDir(), t.TempDir()
	open := func(share string) *tree.Tree {
		t.Helper()
		f, err := tree.Open(tree.Config{Root: root, Share: share, UID: -1, GID: -1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	is := func(name, want string) {
		t.Helper()
		if text, err := os.ReadFile(name); string(text) != want {
			t.Errorf("%s is %q, %v", name, text, err)
		}
	}

	f := open("")
	lent := filepath.Join(root, "workspace/skills/x")
	put(root, "workspace/skills/x/old", "old")
	if err := f.Lend(t.Context(), src, "/workspace/skills/x"); err != nil {
		t.Fatal(err)
	}
	is(filepath.Join(lent, "SKILL.md"), "text")
	info, err := os.Stat(filepath.Join(lent, "bin/run"))
	if err != nil || info.Mode() != 0o555 {
		t.Errorf("bin/run: %v, %v", info.Mode(), err)
	}
	for _, gone := range []string{"old", "out"} {
		if _, err := os.Lstat(filepath.Join(lent, gone)); err == nil {
			t.Errorf("%s is there", gone)
		}
	}
	if err := f.WriteFile("skills/x/new", nil); !errors.Is(err, toolset.ErrReadOnly) {
		t.Errorf("write: %v", err)
	}
	if err := f.WriteFile("skills/new", nil); err != nil {
		t.Error(err)
	}
	// Again: what is the same stays, what has been changed is put right.
	f = open("")
	if err := f.Lend(t.Context(), src, "/workspace/skills/x"); err != nil {
		t.Fatal(err)
	}
	if again, err := os.Stat(filepath.Join(lent, "bin/run")); err != nil || !os.SameFile(info, again) {
		t.Errorf("written anew, %v", err)
	}
	if err := errors.Join(os.Remove(filepath.Join(lent, "bin/run")), os.WriteFile(filepath.Join(lent, "bin/run"), []byte("ran"), 0o555)); err != nil {
		t.Fatal(err)
	}
	if err := f.Lend(t.Context(), src, "/workspace/skills/x"); err != nil {
		t.Fatal(err)
	}
	is(filepath.Join(lent, "bin/run"), "run")

	for target, want := range map[string]error{"/tmp/x": toolset.ErrOutside, "/workspace": toolset.ErrOutside, "/workspace/../x": toolset.ErrOutside} {
		if err := f.Lend(t.Context(), src, target); !errors.Is(err, want) {
			t.Errorf("%s: %v", target, err)
		}
	}
	// A link in the way is nobody's way elsewhere.
	other := filepath.Join(root, "workspace/elsewhere/y/kept")
	put(root, "workspace/elsewhere/y/kept", "kept")
	if err := os.Symlink("elsewhere", filepath.Join(root, "workspace/linked")); err != nil {
		t.Fatal(err)
	}
	if err := f.Lend(t.Context(), src, "/workspace/linked/y"); !errors.Is(err, toolset.ErrNotDir) {
		t.Errorf("through a link: %v", err)
	}
	is(other, "kept")

	// A shared directory's own files are not touched.
	f = open(share)
	put(share, "skills/mine/SKILL.md", "mine")
	if err := f.Lend(t.Context(), src, "/workspace/skills/mine"); !errors.Is(err, tree.ErrTaken) {
		t.Errorf("over somebody's own: %v", err)
	}
	is(filepath.Join(share, "skills/mine/SKILL.md"), "mine")
	for range 2 { // two sessions
		if err := open(share).Lend(t.Context(), src, "/workspace/skills/x"); err != nil {
			t.Error(err)
		}
	}
	is(filepath.Join(share, "skills/x/SKILL.md"), "text")
}
