package removal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What chattr has made immutable goes all the same, and so does what is in it.
func TestImmutableFilesGo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "used")
	deep := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(deep, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, flag := range map[string]uint32{file: 0x10, deep: 0x20, filepath.Dir(deep): 0x10, dir: 0x10} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		defer loosen(int(f.Fd()))
		if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flag)); err != nil {
			t.Skipf("by design: no such flags here: %v", err)
		}
	}
	if err := os.RemoveAll(dir); err == nil {
		t.Fatal("the flags hold nothing")
	}
	if err := All(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("it is there still")
	}
}
