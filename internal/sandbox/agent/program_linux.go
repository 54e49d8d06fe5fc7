package agent

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

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

// UserNamespace makes a user namespace with one user and one group in it, and
// no process.
func (p *Program) UserNamespace(uid, gid syscall.SysProcIDMap) (*os.File, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	defer null.Close()
	// An agent on a pipe instead of a socket waits, until it is killed.
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	defer r.Close()
	defer w.Close()
	proc, err := startProcess(p.path(4), []*os.File{null, null, null, r, p.file}, &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, UidMappings: []syscall.SysProcIDMap{uid}, GidMappings: []syscall.SysProcIDMap{gid},
	})
	if err != nil {
		return nil, fmt.Errorf("agent: make a user namespace: %w", err)
	}
	defer proc.Release()
	ns, err := os.Open("/proc/" + strconv.Itoa(proc.Handle.PID) + "/ns/user")
	return ns, errors.Join(err, proc.Kill(), proc.Wait(10*time.Second))
}

// selfPath also finds a program that was replaced on disk while it runs.
func selfPath(string) string { return "/proc/self/exe" }
