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
