package agent

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
)

// spawner is a small process that starts agents in new user namespaces for this
// one: the kernel copies the page tables of whoever does, and holds up all of
// its threads meanwhile. It is started with the first such agent, ends with this
// process, and is started again when it has ended. Safe for concurrent use.
type spawner struct {
	mu   sync.Mutex
	proc *Process // nil when there is none
	sock int
}

// spawnTime bounds one start.
const spawnTime = 30 * time.Second

// start starts the agent, by the spawner when it is to have a user namespace.
func (p *Program) start(files []*os.File, sys *syscall.SysProcAttr, legacy []string) (*Process, error) {
	m, ok := spawnable(files, sys)
	if !ok {
		return startProcess(p.path(4), files, sys)
	}
	m.Path, m.Legacy = p.path(4), legacy
	p.spawn.mu.Lock()
	defer p.spawn.mu.Unlock()
	for again := false; ; again = true {
		if err := p.spawn.begin(p); err != nil {
			return nil, fmt.Errorf("start the spawner: %w", err)
		}
		proc, err := p.spawn.ask(m, files, sys)
		var lost *lostError
		if !errors.As(err, &lost) {
			return proc, err
		}
		p.spawn.end()
		if again {
			return nil, err
		}
	}
}

// spawnable is what to ask of the spawner; ok is false for what it does not do.
func spawnable(files []*os.File, sys *syscall.SysProcAttr) (m agentwire.Spawn, ok bool) {
	c := sys.Credential
	if len(sys.UidMappings) != 1 || len(sys.GidMappings) != 1 || c == nil || sys.UidMappings[0].Size != 1 || sys.GidMappings[0].Size != 1 ||
		sys.Cloneflags&unix.CLONE_NEWUSER == 0 || int(c.Uid) != sys.UidMappings[0].ContainerID || int(c.Gid) != sys.GidMappings[0].ContainerID ||
		c.NoSetGroups == sys.GidMappingsEnableSetgroups {
		return m, false
	}
	m = agentwire.Spawn{
		Args: arguments(files), Env: environment, Flags: uint64(sys.Cloneflags), Groups: sys.GidMappingsEnableSetgroups,
		UID:   [2]uint32{c.Uid, uint32(sys.UidMappings[0].HostID)},
		GID:   [2]uint32{c.Gid, uint32(sys.GidMappings[0].HostID)},
		Files: len(files), Cgroup: sys.UseCgroupFD,
	}
	for _, a := range sys.AmbientCaps {
		m.Ambient = append(m.Ambient, uint32(a))
	}
	return m, true
}

// begin starts the spawner, unless there is one.
func (s *spawner) begin(p *Program) error {
	if s.proc != nil {
		return nil
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	far := os.NewFile(uintptr(pair[1]), "spawner")
	defer far.Close()
	limit := unix.NsecToTimeval(spawnTime.Nanoseconds())
	if err := unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		unix.Close(pair[0])
		return os.NewSyscallError("setsockopt", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		unix.Close(pair[0])
		return err
	}
	defer null.Close()
	pidfd := -1
	pid, err := syscall.ForkExec(p.path(4), []string{name, agentwire.SpawnWord}, &syscall.ProcAttr{
		Dir: "/", Env: environment, Files: []uintptr{null.Fd(), null.Fd(), null.Fd(), far.Fd(), p.file.Fd()},
		Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd},
	})
	if err != nil {
		unix.Close(pair[0])
		return err
	}
	s.proc, s.sock = &Process{Handle: Handle{PID: pid}, child: true, pidfd: pidfd}, pair[0]
	return nil
}

// end gives the spawner up.
func (s *spawner) end() {
	unix.Close(s.sock)
	_ = s.proc.Kill()
	_ = s.proc.Wait(spawnTime)
	s.proc.Release()
	s.proc = nil
}

// lostError is a spawner that does not answer.
type lostError struct{ error }

// ask has it start one process.
func (s *spawner) ask(m agentwire.Spawn, files []*os.File, sys *syscall.SysProcAttr) (*Process, error) {
	fds := make([]int, 0, len(files)+1)
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	if m.Cgroup {
		fds = append(fds, sys.CgroupFD)
	}
	if _, err := unix.SendmsgN(s.sock, m.Encode(), unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL); err != nil {
		return nil, &lostError{os.NewSyscallError("ask the spawner", err)}
	}
	body, space := make([]byte, 64), make([]byte, unix.CmsgSpace(4))
	var n, oob int
	var err error
	for {
		if n, oob, _, _, err = unix.Recvmsg(s.sock, body, space, unix.MSG_CMSG_CLOEXEC); err != unix.EINTR {
			break
		}
	}
	if err != nil || n == 0 {
		return nil, &lostError{fmt.Errorf("the spawner does not answer (%v)", err)}
	}
	r, err := agentwire.DecodeSpawned(body[:n])
	if err != nil {
		return nil, &lostError{err}
	}
	if r.Errno != 0 {
		return nil, syscall.Errno(r.Errno)
	}
	messages, err := unix.ParseSocketControlMessage(space[:oob])
	if err != nil || len(messages) != 1 {
		return nil, &lostError{errors.New("the spawner gave no process")}
	}
	rights, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(rights) != 1 {
		return nil, &lostError{errors.New("the spawner gave no process")}
	}
	p := newProcess(r.PID, rights[0], false)
	p.Born = true
	return p, nil
}
