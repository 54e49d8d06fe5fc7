package sandbox

import (
	"os"

	"golang.org/x/sys/unix"
)

// topdir is FS_TOPDIR_FL of linux/fs.h.
const topdir = 0x20000

// keepApart tells the file system that the folders in dir have nothing to do
// with each other. ext4 puts them far apart then; side by side, each new inode
// would be looked for among those that ended sessions freed. Others refuse the
// hint, and need none.
func keepApart(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	fd := int(f.Fd())
	if flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS); err == nil && flags&topdir == 0 {
		_ = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags|topdir))
	}
}
