package tree

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestClosed uses a tree when its session has ended and another one's tree is
// open, whose descriptor has the number that this one's had.
func TestClosed(t *testing.T) {
	open := func() (*Tree, string) {
		dir := t.TempDir()
		tr, err := Open(Config{Root: dir, UID: -1, GID: -1})
		if err != nil {
			t.Fatal(err)
		}
		return tr, dir
	}
	ended, _ := open()
	folder, err := ended.Folder("/mnt/memory")
	if err := errors.Join(err, ended.Close()); err != nil {
		t.Fatal(err)
	}
	other, dir := open()
	defer other.Close()
	if err := other.WriteFile("theirs", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := ended.Open("theirs"); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("open: %v", err)
	}
	if err := errors.Join(ended.WriteFile("f", nil), folder.Write("f", nil)); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("write: %v", err)
	}
	for _, at := range []string{"workspace/f", "mnt/memory/f"} {
		if _, err := os.Lstat(filepath.Join(dir, at)); err == nil {
			t.Errorf("another session has %s", at)
		}
	}
}
