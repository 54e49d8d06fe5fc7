package command

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/berthdev/berth/toolset"
)

// left is a file at the far side.
type left struct {
	fs.DirEntry
	path string
}

func (l left) Open() (toolset.File, error) { return os.Open(l.path) }

// TestImpossibleOutputs: a name that the far side can have, or says that it has,
// and this machine cannot costs that file alone.
func TestImpossibleOutputs(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	f := &fetch{root: root, left: 100}
	f.until = f.until.AddDate(9000, 0, 0)
	if err := root.Mkdir(freshName, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{strings.Repeat("n", 300), "a", "a", "a/b", "c"} {
		if err := f.file(name, left{path: text}); err != nil {
			t.Errorf("%.10s ends the fetching: %v", name, err)
		}
	}
	for _, name := range []string{strings.Repeat("d", 300), "a", "d"} {
		if err := f.dir(name); err != nil {
			t.Errorf("%.10s ends the fetching: %v", name, err)
		}
	}
	if _, err := root.Stat(freshName + "/c"); err != nil || len(f.missing) != 5 {
		t.Errorf("%d missing: %+v %v", len(f.missing), f.missing, err)
	}
}

// TestDeepOutputsAreReplaced with few descriptors: the other sessions need some.
func TestDeepOutputsAreReplaced(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := errors.Join(root.MkdirAll("mnt/session/outputs"+strings.Repeat("/d", 900), 0o755), root.Mkdir(freshName, 0o755)); err != nil {
		t.Fatal(err)
	}
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	few := was
	few.Cur = 300
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	err = (&fetch{root: root}).publish()
	if e := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was); e != nil {
		t.Fatal(e)
	}
	if err != nil {
		t.Error(err)
	}
}
