package removal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestBarred removes, as an ordinary user, what a session of that user has made
// unwritable or unreadable, however deep it is.
func TestBarred(t *testing.T) {
	for _, mode := range []fs.FileMode{0, 0o555} {
		top := t.TempDir()
		dir := filepath.Join(top, "gone")
		at := filepath.Join(dir, strings.TrimSuffix(strings.Repeat("d/", 3*maxOpen), "/"))
		err := os.MkdirAll(at, 0o755)
		err = errors.Join(err, os.WriteFile(filepath.Join(at, "f"), nil, 0o600), os.Chown(top, 65534, 65534), os.Chmod(filepath.Dir(top), 0o711))
		for ; at != top; at = filepath.Dir(at) {
			err = errors.Join(err, os.Chmod(at, mode), os.Chown(at, 65534, 65534))
		}
		if err != nil {
			t.Skipf("by design: only root can be another user: %v", err)
		}
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // and the thread ends with this
			if os.Getuid() == 0 {
				if err := unix.Setfsuid(65534); err != nil {
					done <- err
					return
				}
			}
			done <- All(dir)
		}()
		if err := <-done; err != nil {
			t.Errorf("%v: %v", mode, err)
		}
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v: it is there: %v", mode, err)
		}
	}
}

// TestInFIFO has a FIFO where a directory was: nobody will write to it.
func TestInFIFO(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err = errors.Join(err, unix.Mkfifo(filepath.Join(dir, "a"), 0o600)); err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	done := make(chan error, 1)
	go func() { done <- In(root, "a/gone") }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("something in a FIFO was removed")
		}
	case <-time.After(time.Minute):
		t.Error("it waits for the FIFO's other end")
	}
}
