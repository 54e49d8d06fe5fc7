//go:build !linux

package child

import (
	"crypto/rand"
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
)

// Elsewhere than on Linux the agent builds nothing and seals nothing: it can
// only hold a shell on the host.

var errLinux = errors.New("isolation needs Linux")

func build(steps []agentwire.Step, _ *ground) error {
	if len(steps) > 0 {
		return errLinux
	}
	return nil
}

func (a *agent) seal() error { return errLinux }

type ground struct{}

func newGround() (*ground, error) { return nil, errLinux }

func (*ground) stand() error { return errLinux }

type bearer struct{}

func newBearer() (*bearer, error) { return nil, errLinux }

func (*bearer) same() bool { return false }

func calm() {}

// posture finds nothing: nothing is promised here.
func (a *agent) posture(agentwire.Probe) agentwire.Posture { return agentwire.Posture{} }

func (a *agent) resume() (bool, error) { return false, nil }

func adoptOrphans() error { return nil }

// deadly are the signals that end a Go program which does not take them.
var deadly = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGBUS,
	unix.SIGFPE, unix.SIGSEGV, unix.SIGPIPE, unix.SIGTERM, unix.SIGSYS,
}

func random(b []byte) error {
	_, err := rand.Read(b)
	return err
}

func bootTicks() uint64 { return 0 }

// forwarder is for sandboxes with a network of their own.
type forwarder struct{}

func (a *agent) startForwarder() error {
	if a.boot.Egress != "" {
		return errLinux
	}
	return nil
}

// keeps is for sandboxes with a kernel of their own.
type keeps struct {
	seen, out  int
	has, alone bool
}

func (a *agent) settle() {}

// nap is for those, too.
type nap struct{}

func newNap() (*nap, error) { return nil, errLinux }
func (n *nap) again()       {}
func (n *nap) changed()     {}

func (a *agent) pause(now time.Time) error {
	_, err := unix.Poll(a.polls, a.patience(now))
	return err
}

func (s *shell) keep() (int, error)             { return -1, errLinux }
func (k *keeps) close()                         {}
func (k *keeps) reportOf(_, _, _ string) string { return "" }
func (k *keeps) reports([]byte, string) []byte  { return nil }
func (k *keeps) tidy()                          {}
func (k *keeps) loud() bool                     { return false }
func (k *keeps) heed(string)                    {}
func (k *keeps) still(*shell, bool) bool        { return false }
func (a *agent) lonely() bool                   { return false }

func (f *forwarder) is(int) bool    { return false }
func (f *forwarder) ended(int)      {}
func (f *forwarder) tend(time.Time) {}
func (f *forwarder) due() time.Time { return time.Time{} }
func (f *forwarder) stop()          {}

func forwardingTo() (string, bool) { return "", false }

func forward(string) int { return 1 }

// sweep kills the shell's process group; a job that has left it escapes.
func sweep(shell int, _ uint64, _ func(int) bool) { _ = unix.Kill(-shell, unix.SIGKILL) }

func sweepTree(root int) { _ = unix.Kill(-root, unix.SIGKILL) }

func waiting(fd int) int {
	const fionread = 0x4004667f
	n, err := unix.IoctlGetInt(fd, fionread)
	if err != nil {
		return 0
	}
	return n
}

func widen(int) {}

func quickRead(fd int, b []byte) (int, error)  { return unix.Read(fd, b) }
func quickWrite(fd int, b []byte) (int, error) { return unix.Write(fd, b) }
func quickSend(fd int, b []byte) (int, error)  { return unix.Write(fd, b) }
func quickOpen(path string, flags int) (int, error) {
	return unix.Open(path, flags, 0)
}
func quickClose(fd int) { unix.Close(fd) }

func keepFrom(first int) {
	for fd := first; fd < 1024; fd++ {
		unix.CloseOnExec(fd)
	}
}

func neighbour(int) bool { return false }

func shellTies() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

func bindShell(int, int) error { return nil }

func cramped(int) bool { return false }

func spawn() int { return 1 }

func (a *agent) serveFile(r agentwire.FileRequest) agentwire.FileReply {
	return agentwire.FileReply{ID: r.ID, Errno: uint32(unix.ENOSYS)}
}
