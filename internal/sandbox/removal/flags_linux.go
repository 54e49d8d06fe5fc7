package removal

import (
	"os"

	"golang.org/x/sys/unix"
)

// loosen takes the flags from a file that keep even root from removing it, or from
// changing what is in it.
func loosen(fd int) {
	const held = 0x10 | 0x20 // FS_IMMUTABLE_FL, FS_APPEND_FL
	if flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS); err == nil && flags&held != 0 {
		_ = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags&^held))
	}
}

// loosenIn is loosen for a directory and a name in it. Nothing but a file or a
// directory is opened for longer than it takes to see that.
func loosenIn(dir *os.File, name string) {
	loosen(int(dir.Fd()))
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return
	}
	if kind := st.Mode & unix.S_IFMT; kind == unix.S_IFREG || kind == unix.S_IFDIR {
		loosen(fd)
	}
}
