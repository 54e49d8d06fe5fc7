package stage

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// openBelow opens a regular file below a root; links are followed only as long
// as they stay below it.
func openBelow(root, rel string) (*os.File, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	}
	// A FIFO or a device is looked at before it is opened.
	look := how
	look.Flags = unix.O_PATH | unix.O_CLOEXEC
	pinned, err := unix.Openat2(dir, rel, &look)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return openPortable(root, rel)
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(pinned, &st)
	unix.Close(pinned)
	if err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errNotRegular
	}
	fd, err := unix.Openat2(dir, rel, &how)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), filepath.Base(rel)), nil
}

// leavesRoot says of an error of openBelow that the path leads out.
func leavesRoot(err error) bool {
	return errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ELOOP) || strings.Contains(err.Error(), "escapes")
}

// worthReserving is the smallest file that room is made for beforehand.
const worthReserving = 1 << 20

// reserve makes room for a file that is about to be written whole. On ext4 that
// takes a fifth off the writing, which otherwise looks for room page by page; and
// a full disk is found at once.
func reserve(to *os.File, size int64) error {
	var of unix.Statfs_t
	if size < worthReserving || unix.Fstatfs(int(to.Fd()), &of) != nil || of.Type != unix.EXT4_SUPER_MAGIC {
		return nil
	}
	if size > int64(of.Bavail)*of.Bsize { // nor is the disk filled to find out
		return unix.ENOSPC
	}
	err := unix.Fallocate(int(to.Fd()), 0, 0, size)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return err
	}
	return nil
}
