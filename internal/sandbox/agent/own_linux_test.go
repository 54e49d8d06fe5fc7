package agent

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOwnCutOff goes on where it was cut off, as it is when the worker is
// killed meanwhile.
func TestOwnCutOff(t *testing.T) {
	spec := ownTree(t)
	f, err := os.Create(filepath.Join(spec.Tree, "workspace", "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const immutable = 0x10 // FS_IMMUTABLE_FL of linux/fs.h
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, immutable); err != nil {
		t.Skipf("by design: no file is immutable on this file system: %v", err)
	}
	err = Own(spec, FirstUser, FirstUser)
	if e := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0); e != nil {
		t.Fatal(e)
	}
	if err == nil {
		t.Fatal("a file that nobody can change was given away")
	}
	if err := Own(spec, FirstUser, FirstUser); err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != FirstUser {
		t.Errorf("%+v %v", info, err)
	}
}
