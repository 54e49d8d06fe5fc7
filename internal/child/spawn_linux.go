package child

import (
	"errors"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
)

// maxSpawn bounds a request, and maxPassed its descriptors.
const (
	maxSpawn  = 64 << 10
	maxPassed = 96
)

// spawn starts processes in new user namespaces on the worker's behalf, until
// the worker's end of the socket is closed. The kernel copies the page tables of
// whoever starts such a process: this program has few.
func spawn() int {
	unix.Close(programFD)
	keepFrom(listenFD)
	name := [16]byte([]byte("berth-spawner\x00\x00\x00"))
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0)
	// Those that end are collected by the kernel; the worker has descriptors.
	signal.Ignore(unix.SIGCHLD)
	// A thread is in cgroups of its own, and its children are born there.
	runtime.LockOSThread()
	body, space := make([]byte, maxSpawn), make([]byte, unix.CmsgSpace(4*maxPassed))
	for {
		n, oob, _, _, err := unix.Recvmsg(listenFD, body, space, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return 0
		}
		fds := passed(space[:oob])
		pid, pidfd, err := spawnOne(body[:n], fds)
		stuck := errors.Is(err, errStuck)
		for _, fd := range fds {
			unix.Close(fd)
		}
		m := agentwire.Spawned{PID: pid}
		var rights []byte
		switch e, ok := err.(syscall.Errno); {
		case ok:
			m.Errno = uint32(e)
		case err == nil:
			rights = unix.UnixRights(pidfd)
		default:
			m.Errno = uint32(unix.EIO)
		}
		_, err = unix.SendmsgN(listenFD, m.Encode(), rights, nil, unix.MSG_NOSIGNAL)
		if pidfd >= 0 {
			unix.Close(pidfd)
		}
		if err != nil {
			kill(pid) // nobody will know of it
		}
		if err != nil || stuck {
			return 1
		}
	}
}

// passed takes the descriptors out of a message.
func passed(oob []byte) (fds []int) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if more, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, more...)
		}
	}
	return fds
}

func spawnOne(body []byte, fds []int) (pid, pidfd int, err error) {
	m, err := agentwire.DecodeSpawn(body)
	want := m.Files
	if m.Cgroup {
		want++
	}
	if err != nil || want != len(fds) || len(m.Args) == 0 {
		return 0, -1, unix.EINVAL
	}
	pidfd = -1
	sys := &syscall.SysProcAttr{
		Setsid: true, PidFD: &pidfd, Cloneflags: uintptr(m.Flags),
		UidMappings:                []syscall.SysProcIDMap{{ContainerID: int(m.UID[0]), HostID: int(m.UID[1]), Size: 1}},
		GidMappings:                []syscall.SysProcIDMap{{ContainerID: int(m.GID[0]), HostID: int(m.GID[1]), Size: 1}},
		GidMappingsEnableSetgroups: m.Groups,
		Credential:                 &syscall.Credential{Uid: m.UID[0], Gid: m.GID[0], NoSetGroups: !m.Groups},
	}
	for _, c := range m.Ambient {
		sys.AmbientCaps = append(sys.AmbientCaps, uintptr(c))
	}
	if m.Cgroup {
		sys.UseCgroupFD, sys.CgroupFD = true, fds[m.Files]
	}
	for i, dir := range m.Legacy {
		if err := join(dir); err != nil {
			return 0, -1, errors.Join(err, leave(m.Legacy[:i]))
		}
	}
	files := make([]uintptr, m.Files)
	for i := range files {
		files[i] = uintptr(fds[i])
	}
	pid, err = syscall.ForkExec(m.Path, m.Args, &syscall.ProcAttr{Dir: "/", Env: m.Env, Files: files, Sys: sys})
	if err == nil && pidfd < 0 {
		if pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
			kill(pid)
		}
	}
	if out := leave(m.Legacy); out != nil {
		if err == nil {
			kill(pid)
			unix.Close(pidfd)
		}
		return 0, -1, out
	}
	return pid, pidfd, err
}

// errStuck is the end of a spawner that cannot leave a session's cgroup.
var errStuck = errors.New("the spawner is stuck in a cgroup")

// join moves this thread into a v1 cgroup. Unlike any other move it does not
// wait until no process of the machine is being started.
func join(dir string) error {
	fd, err := unix.Open(dir+"/tasks", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte("0"))
	return err
}

// leave moves this thread to the parents of v1 cgroups, where the spawner is.
func leave(dirs []string) error {
	for _, dir := range dirs {
		if join(dir[:max(strings.LastIndexByte(dir, '/'), 0)]) != nil {
			return errStuck
		}
	}
	return nil
}
