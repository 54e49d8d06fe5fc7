package agent

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// sealed puts a program in memory where nobody can change it.
func sealed(b []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // an older kernel has no MFD_EXEC
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(b); err != nil {
		f.Close()
		return nil, err
	}
	seals := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, os.NewSyscallError("fcntl", err)
	}
	// The kernel runs no file that somebody has open for writing.
	defer f.Close()
	return os.Open("/proc/self/fd/" + strconv.Itoa(fd))
}

// selfPath also finds a program that was replaced on disk while it runs.
func selfPath(string) string { return "/proc/self/exe" }
