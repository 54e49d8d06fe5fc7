package agent

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/sandbox"
)

// Process is an agent's process, held by a descriptor: its number cannot
// become somebody else's meanwhile.
type Process struct {
	Handle Handle
	Born   bool // it was born in Launch.Legacy
	child  bool

	mu    sync.Mutex
	pidfd int // -1 when released
}

// path is how the agent starts: through the descriptor it will have.
func (p *Program) path(fd int) string { return fdPath(fd) }

// environment is an agent's own.
var environment = []string{"GOMAXPROCS=1"}

// arguments tell an agent how many detached mounts it is given.
func arguments(files []*os.File) []string { return []string{name, strconv.Itoa(len(files) - 5)} }

func startProcess(path string, files []*os.File, sys *syscall.SysProcAttr) (*Process, error) {
	pidfd := -1
	sys.PidFD = &pidfd
	fds := make([]uintptr, len(files))
	for i, f := range files {
		fds[i] = f.Fd()
	}
	pid, err := syscall.ForkExec(path, arguments(files), &syscall.ProcAttr{Dir: "/", Env: environment, Files: fds, Sys: sys})
	if err != nil {
		return nil, err
	}
	if pidfd < 0 {
		if pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
			_ = unix.Kill(pid, unix.SIGKILL)
			_, _ = unix.Wait4(pid, nil, 0, nil)
			return nil, os.NewSyscallError("pidfd_open", err)
		}
	}
	return newProcess(pid, pidfd, true), nil
}

// newProcess is a process that was just started.
func newProcess(pid, pidfd int, child bool) *Process {
	p := &Process{Handle: Handle{PID: pid}, child: child, pidfd: pidfd}
	p.Handle.Boot, _ = bootID()
	p.Handle.Start, _ = startTicks(pid)
	return p
}

// FindProcess gives a process that something else has started, by its number.
func FindProcess(pid int) (*Process, error) {
	start, err := startTicks(pid)
	if err != nil {
		return nil, sandbox.ErrGone
	}
	boot, _ := bootID()
	return findProcess(Handle{PID: pid, Start: start, Boot: boot})
}

// findProcess opens the process of a handle, if it is still the same one. That
// this process is short of something says nothing of the other.
func findProcess(h Handle) (*Process, error) {
	boot, err := bootID()
	if short(err) {
		return nil, err
	}
	if h.PID <= 1 || h.Boot != boot {
		return nil, sandbox.ErrGone
	}
	fd, err := unix.PidfdOpen(h.PID, 0)
	if short(err) {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	if err != nil {
		return nil, sandbox.ErrGone
	}
	p := &Process{Handle: h, pidfd: fd}
	start, err := startTicks(h.PID)
	if err == nil && start == h.Start && p.Wait(0) != nil {
		return p, nil
	}
	p.Release()
	if short(err) {
		return nil, err
	}
	return nil, sandbox.ErrGone
}

// Kill kills the process. It is no error when it has ended.
func (p *Process) Kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd < 0 {
		return nil
	}
	if err := unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	return nil
}

// Ended says whether the process has ended, or is not held any more.
func (p *Process) Ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd < 0 {
		return true
	}
	fds := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// Wait waits until the process has ended and, of a child, collects it.
func (p *Process) Wait(d time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd < 0 {
		return nil
	}
	for end := time.Now().Add(d); ; {
		fds := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(max(time.Until(end), 0)/time.Millisecond))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("poll", err)
		}
		if n == 0 {
			return errors.New("agent: the process does not end")
		}
		if p.child {
			for {
				err := unix.Waitid(unix.P_PIDFD, p.pidfd, nil, unix.WEXITED, nil)
				if err != unix.EINTR {
					break
				}
			}
			p.child = false
		}
		return nil
	}
}

// Release gives up the descriptor. Twice is fine.
func (p *Process) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd >= 0 {
		unix.Close(p.pidfd)
		p.pidfd = -1
	}
}

var knownBoot atomic.Pointer[string]

// bootID names this run of the kernel; "" where that does not say it.
func bootID() (string, error) {
	if id := knownBoot.Load(); id != nil {
		return *id, nil
	}
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	id := strings.TrimSpace(string(b))
	knownBoot.Store(&id)
	return id, nil
}

// startTicks is when a process started.
func startTicks(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 20 {
		return 0, errors.New("agent: malformed stat")
	}
	return strconv.ParseUint(string(f[19]), 10, 64)
}

// listen makes the agent's socket in dir. The directory's descriptor stands
// for its path, which may be longer than a socket's name.
func listen(dir string) (*os.File, error) {
	d, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("agent: open %s: %w", dir, err)
	}
	defer unix.Close(d)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "agent.sock")
	if err := os.Remove(sandbox.SocketPath(dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		f.Close()
		return nil, fmt.Errorf("agent: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: sandbox.SocketPath(fdPath(d))}); err != nil {
		f.Close()
		return nil, fmt.Errorf("agent: make %s: %w", sandbox.SocketPath(dir), err)
	}
	if err := unix.Listen(fd, 8); err != nil {
		f.Close()
		return nil, os.NewSyscallError("listen", err)
	}
	return f, nil
}

func dial(dir string) (net.Conn, error) {
	d, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(d)
	return net.DialTimeout("unix", sandbox.SocketPath(fdPath(d)), dialTime)
}
