package child

import (
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// The descriptors that a supervisor hands over when it starts the agent
// itself: the listening socket, and the agent's own program, which it started
// through. Detached mounts follow.
const (
	listenFD  = 3
	programFD = 4
)

// station takes the place at which the supervisor finds the agent, as the
// arguments say: "stdio DIR", where the connection is the standard streams and
// there is never another, and DIR is the agent's own; "listen PATH", where the agent makes the socket; or
// the number of mounts handed over beside a socket.
func (a *agent) station() error {
	switch {
	case len(os.Args) == 3 && os.Args[1] == "stdio":
		keepFrom(3)
		a.home = os.Args[2]
		_ = os.Remove(a.home + "/" + AgentName) // it runs, and nobody needs it there
		return a.standardStreams()
	case len(os.Args) == 3 && os.Args[1] == "listen":
		keepFrom(3)
		a.guard = true
		return a.listenAt(os.Args[2])
	}
	// What the supervisor's own parents left open is not for a sandbox.
	unix.Close(programFD)
	keepFrom(programFD + 1 + mountCount())
	a.listen = listenFD
	unix.CloseOnExec(listenFD)
	return nil
}

// mountCount is how many detached mounts were handed over: the one argument.
func mountCount() int {
	if len(os.Args) < 2 {
		return 0
	}
	n, err := strconv.Atoi(os.Args[1])
	if err != nil || n < 0 || n > 64 {
		return 0
	}
	return n
}

// standardStreams makes the standard streams the connection and leaves nothing
// in their places.
func (a *agent) standardStreams() error {
	null, err := unix.Open(os.DevNull, unix.O_RDWR, 0)
	if err != nil {
		return fail("open /dev/null", err)
	}
	for i, at := range []*int{&a.conn, &a.reply} {
		fd, err := unix.FcntlInt(uintptr(i), unix.F_DUPFD_CLOEXEC, 10)
		if err != nil {
			return fail("take the standard streams", err)
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			return fail("take the standard streams", err)
		}
		if err := unix.Dup2(null, i); err != nil {
			return fail("take the standard streams", err)
		}
		*at = fd
	}
	return unix.Close(null)
}

// listenAt makes the socket. That its directory is the supervisor's alone is
// for the supervisor to see to.
func (a *agent) listenAt(path string) error {
	// Held for good: the socket's file system may be unmounted by a step, and
	// with gVisor it takes what was accepted with it when it is let go.
	var err error
	if a.door, err = unix.Open(filepath.Dir(path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fail("open "+filepath.Dir(path), err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return fail("socket", err)
	}
	unix.CloseOnExec(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return fail("make "+path, err)
	}
	if err := unix.Listen(fd, 8); err != nil {
		return fail("listen", err)
	}
	a.listen = fd
	return nil
}
