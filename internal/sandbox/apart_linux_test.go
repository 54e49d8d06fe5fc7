package sandbox_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/sandbox/mock"
)

func TestSessionsAreKeptApart(t *testing.T) {
	dir := t.TempDir()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type != unix.EXT4_SUPER_MAGIC {
		t.Skip("by design: only ext4 takes the hint")
	}
	keeper(t, mock.New(mock.Knobs{}), dir)
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil || flags&0x20000 == 0 {
		t.Errorf("the flags of the sessions' directory are %#x, %v; want the one of chattr +T", flags, err)
	}
}
