package child

import (
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/slack"
)

var comm = [16]byte(append([]byte(AgentName), 0, 0, 0, 0, 0))

// adoptOrphans makes the agent the parent of every process whose parent ends.
func adoptOrphans() error {
	// It was started through a descriptor, which gave it a number for a name.
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&comm[0])), 0, 0, 0)
	return fail("become a subreaper", unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
}

// deadly are the signals that end a Go program which does not take them; the
// others have no effect on it, or cannot be taken. To take one costs a start
// two switches between threads, so they are not all taken.
var deadly = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGBUS,
	unix.SIGFPE, unix.SIGSEGV, unix.SIGPIPE, unix.SIGSTKFLT, unix.SIGTERM, unix.SIGSYS,
}

// random fills b, which is at most 256 bytes.
func random(b []byte) error {
	_, err := unix.Getrandom(b, 0)
	return fail("getrandom", err)
}

// ticksPerSecond is USER_HZ, the unit of /proc/PID/stat; it is 100 wherever
// Go runs.
const ticksPerSecond = 100

// bootTicks is now in the unit and from the epoch of a process's start time.
func bootTicks() uint64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return uint64(ts.Nano()) / (1e9 / ticksPerSecond)
}

// waiting is how many bytes a pipe holds.
func waiting(fd int) int {
	n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	if err != nil {
		return 0
	}
	return n
}

// widen makes a busy pipe larger where the user's pipe budget allows.
func widen(fd int) { _, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, 1<<20) }

// keepFrom keeps every descriptor from the first on to this process. None is
// closed: an agent that is a whole berth has descriptors of its runtime there.
func keepFrom(first int) { _ = unix.CloseRange(uint(first), 1<<31, unix.CLOSE_RANGE_CLOEXEC) }

// idleLate is how late the timers of the runtime's own threads may be: next to
// nothing waits for another goroutine here.
const idleLate = 20 * time.Millisecond

// calm has them be late.
func calm() { slack.Allow(os.Getpid(), unix.Gettid(), idleLate) }

// neighbour says that who connects has a number among the processes seen here:
// the supervisor, which is outside, has none.
func neighbour(fd int) bool {
	who, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	return err != nil || who.Pid != 0
}

// oomScore has the kernel, when memory runs out, end what the tools have
// started before the agent. Nobody inside can go below the agent's own.
const oomScore = "600"

// shellTies have a shell end with its agent, however that ends: nobody else wakes
// it.
func shellTies() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
}

// bindShell bounds a shell and all that it will start.
func bindShell(pid, openFiles int) error {
	if fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", unix.O_WRONLY|unix.O_CLOEXEC, 0); err == nil {
		_, _ = unix.Write(fd, []byte(oomScore))
		unix.Close(fd)
	}
	if openFiles <= 0 {
		return nil
	}
	var now unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &now); err != nil {
		return fail("read the limit of descriptors", err)
	}
	most := min(uint64(openFiles), now.Max)
	return fail("limit descriptors", unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: min(most, max(now.Cur, 1024)), Max: most}, nil))
}

// cramped says of a shell that it may open fewer files than our redirections
// take.
func cramped(pid int) bool {
	const enough = 24
	var now unix.Rlimit
	return unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &now) == nil && now.Cur < enough
}
