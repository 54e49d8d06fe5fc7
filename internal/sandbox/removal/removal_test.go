package removal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// TestDeep removes what a session has nested deeper than a process may
// have files open, and what it has made unreadable.
func TestDeep(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	deep(t, dir, 900)
	for i := range 3000 {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("/", filepath.Join(dir, "link")), os.Chmod(filepath.Join(dir, "d"), 0)); err != nil {
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
	err := All(dir)
	if e := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was); e != nil {
		t.Fatal(e)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := All(dir); err != nil {
		t.Errorf("nothing to remove: %v", err)
	}
}

// TestIn removes a path in a directory, whatever is there, and nothing beside it.
func TestIn(t *testing.T) {
	dir := t.TempDir()
	err := os.MkdirAll(filepath.Join(dir, "a/gone/b"), 0o755)
	err = errors.Join(err, os.WriteFile(filepath.Join(dir, "a/file"), nil, 0o600), os.Mkdir(filepath.Join(dir, "gone"), 0o755),
		os.Symlink("gone", filepath.Join(dir, "a/link")))
	root, e := os.OpenRoot(dir)
	if err = errors.Join(err, e); err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, at := range []string{"a/gone", "a/file", "a/link", "a/none", "none/gone"} {
		if err := In(root, at); err != nil {
			t.Errorf("%s: %v", at, err)
		}
		if _, err := root.Lstat(at); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", at, err)
		}
	}
	if _, err := root.Stat("gone"); err != nil {
		t.Error(err)
	}
}

// deep makes directories in each other, and a file in the last.
func deep(t *testing.T, dir string, n int) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	at, err := os.OpenRoot(dir)
	for i := 0; err == nil && i < n; i++ {
		if err = at.Mkdir("d", 0o755); err == nil {
			var next *os.Root
			if next, err = at.OpenRoot("d"); err == nil {
				at.Close()
				at = next
			}
		}
	}
	if err == nil {
		err = at.WriteFile("f", nil, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	at.Close()
}

// TestLimit has no time: it ends with an error, which costs nothing but another
// try.
func TestLimit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	deep(t, dir, 3)
	was := limit
	limit = -1
	err := All(dir)
	limit = was
	if !errors.Is(err, ErrLong) {
		t.Errorf("without any time: %v", err)
	}
	if err := All(dir); err != nil {
		t.Error(err)
	}
}

// TestRest empties a directory but for what is to stay.
func TestRest(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"stays", "goes"} {
		deep(t, filepath.Join(dir, d), 3*maxOpen)
	}
	err := os.Symlink("stays", filepath.Join(dir, "link"))
	f, e := os.Open(dir)
	if err = errors.Join(err, e); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Rest(f, func(name string) bool { return name == "stays" }); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "stays" {
		t.Errorf("%v %v", entries, err)
	}
	if inner, err := os.ReadDir(filepath.Join(dir, "stays")); err != nil || len(inner) != 1 {
		t.Errorf("in what stays: %v %v", inner, err)
	}
}
