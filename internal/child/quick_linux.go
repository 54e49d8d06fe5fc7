package child

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls that a command takes, made past the runtime, which does not learn
// of them (see nap). None of them may wait, but for a millisecond.

func quick(n uintptr, e unix.Errno) (int, error) {
	if e != 0 {
		return -1, e
	}
	return int(n), nil
}

func quickRead(fd int, b []byte) (int, error) {
	n, _, e := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return quick(n, e)
}

func quickWrite(fd int, b []byte) (int, error) {
	n, _, e := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return quick(n, e)
}

// quickSend writes to a socket, without a SIGPIPE.
func quickSend(fd int, b []byte) (int, error) {
	n, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_NOSIGNAL, 0, 0)
	return quick(n, e)
}

func quickOpen(path string, flags int) (int, error) {
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return -1, err
	}
	here := unix.AT_FDCWD
	n, _, e := unix.RawSyscall6(unix.SYS_OPENAT, uintptr(here), uintptr(unsafe.Pointer(name)), uintptr(flags|unix.O_LARGEFILE), 0, 0, 0)
	return quick(n, e)
}

func quickClose(fd int) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

func quickUnlink(path string) {
	if name, err := unix.BytePtrFromString(path); err == nil {
		here := unix.AT_FDCWD
		_, _, _ = unix.RawSyscall(unix.SYS_UNLINKAT, uintptr(here), uintptr(unsafe.Pointer(name)), 0)
	}
}

func quickReadlinkat(dir int, path string, b []byte) (int, error) {
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return -1, err
	}
	n, _, e := unix.RawSyscall6(unix.SYS_READLINKAT, uintptr(dir), uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0)
	return quick(n, e)
}

func quickSysinfo(si *unix.Sysinfo_t) error {
	n, _, e := unix.RawSyscall(unix.SYS_SYSINFO, uintptr(unsafe.Pointer(si)), 0, 0)
	_, err := quick(n, e)
	return err
}

// quickEvents takes what an epoll has, or gets within so many milliseconds.
func quickEvents(set int, events []unix.EpollEvent, patience int) (int, error) {
	n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(set), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(patience), 0, 0)
	return quick(n, e)
}
