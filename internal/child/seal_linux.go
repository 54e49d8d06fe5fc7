package child

import (
	"errors"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
)

// resumeVar marks the second start of an agent that had to start itself again
// to be rid of its threads' privileges. The connection is then at connFD (and
// at replyFD, for a pipe), the Boot at bootFD and the socket's directory at
// doorFD.
const (
	resumeVar = "BERTH_AGENT_SEALED=1"
	connFD    = 4
	bootFD    = 5
	doorFD    = 7
	replyFD   = 6
)

// maxProcesses bounds the processes and threads of a sandbox, where each has a
// user or a user namespace of its own.
const maxProcesses = 2048

// seal gives up every privilege for good: the bounding set, all capabilities,
// privileges that a program could bring, the supervisor's keys, system calls
// that no tool needs, and being looked into.
func (a *agent) seal() error {
	if err := a.part("keyring", leaveKeyring); err != nil {
		return err
	}
	if err := a.part("rlimits", a.limit); err != nil {
		return err
	}
	if err := a.part("bounding set", a.dropBounding); err != nil {
		return err
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	err := a.part("no_new_privs", func() error { return allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0) })
	if err == nil {
		err = a.part("capabilities", func() error {
			return allThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&none[0])), 0)
		})
	}
	if errors.Is(err, errors.ErrUnsupported) {
		// A program with C in it cannot speak for all its threads. A fresh
		// image has one thread and what this one has left.
		if err := a.part("no_new_privs", func() error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }); err != nil {
			return fail("no_new_privs", err)
		}
		if err := a.part("capabilities", func() error { return unix.Capset(&hdr, &none[0]) }); err != nil {
			return fail("drop capabilities", err)
		}
		return a.again()
	}
	if err != nil {
		return fail("drop privileges", err)
	}
	return a.closeEyes()
}

// part does a part of the seal, unless a test has it fail or left out.
func (a *agent) part(name string, do func() error) error {
	switch a.boot.Fault {
	case "fail " + name:
		return errors.New(name + ": a test has it fail")
	case "skip " + name:
		return nil
	}
	return do()
}

// leaveKeyring joins one that is empty. A keyring passes to children; a kernel
// without keys has nothing to pass, and where whoever started the agent filters
// keys away already, nobody inside can use one.
func leaveKeyring() error {
	_, err := unix.KeyctlJoinSessionKeyring("sandbox")
	if err == unix.ENOSYS {
		return nil
	}
	if mode, e := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0); err == unix.EPERM && e == nil && mode == 2 {
		return nil
	}
	return fail("leave the keyring", err)
}

// limit bounds what needs no cgroup.
func (a *agent) limit() error {
	processes := uint64(maxProcesses)
	if a.boot.Processes > 0 {
		processes = uint64(a.boot.Processes)
	}
	for resource, most := range map[int]uint64{
		unix.RLIMIT_CORE:  1, // no dump, nor one to a program of the host, as 0 would allow
		unix.RLIMIT_NPROC: processes,
	} {
		var now unix.Rlimit
		err := unix.Prlimit(0, resource, nil, &now)
		if most = min(most, now.Max); err == nil {
			err = unix.Prlimit(0, resource, &unix.Rlimit{Cur: most, Max: most}, nil)
		}
		if err != nil {
			return fail("set limits", err)
		}
	}
	return nil
}

// dropBounding empties the bounding set. One that is empty already needs no
// privilege to be so. Where more threads than this one are to make children, it
// is all of them's: the sandbox has a kernel of its own, and few capabilities.
func (a *agent) dropBounding() error {
	drop := func(c uintptr) error { return unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0) }
	if a.boot.OwnKernel {
		drop = func(c uintptr) error {
			err := allThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0)
			if errors.Is(err, errors.ErrUnsupported) {
				return unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
			}
			return err
		}
	}
	for c := uintptr(0); c <= 63; c++ {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if err == unix.EINVAL && c > 0 {
			break // the kernel knows no more
		}
		if err == nil && has != 0 {
			err = drop(c)
		}
		if err != nil {
			return fail("drop the bounding set", err)
		}
	}
	return nil
}

// closeEyes keeps others of the same user out of the agent's memory, and all
// from system calls that are not for them.
func (a *agent) closeEyes() error {
	if err := a.part("undumpable", func() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }); err != nil {
		return fail("become undumpable", err)
	}
	return a.part("filter", filterCalls)
}

func allThreads(trap, a1, a2, a3 uintptr) error {
	if _, _, e := syscall.AllThreadsSyscall(trap, a1, a2, a3); e != 0 {
		return e
	}
	return nil
}

// again starts the agent's program afresh in this process.
func (a *agent) again() error {
	fd, err := unix.MemfdCreate("boot", unix.MFD_CLOEXEC)
	if err != nil {
		return fail("memfd", err)
	}
	for boot := a.boot.Encode(); len(boot) > 0; {
		n, err := unix.Write(fd, boot)
		if err != nil {
			return fail("memfd", err)
		}
		boot = boot[n:]
	}
	// Any of them may lie where another is to go.
	high := func(fd int) int {
		n, _ := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 64)
		return n
	}
	args := []string{AgentName}
	moves := map[int]int{connFD: high(a.conn), bootFD: high(fd)}
	if a.listen >= 0 {
		moves[listenFD] = high(a.listen)
	}
	if a.reply != a.conn {
		moves[replyFD] = high(a.reply)
		args = append(args, "stdio", a.home)
	}
	if a.guard {
		moves[doorFD] = high(a.door)
		args = append(args, "listen")
	}
	for to, from := range moves {
		if err := unix.Dup3(from, to, 0); err != nil {
			return fail("dup", err)
		}
	}
	return fail("start the agent again", unix.Exec("/proc/self/exe", args, []string{resumeVar, "GOMAXPROCS=1"}))
}

// resume takes up what again left.
func (a *agent) resume() (bool, error) {
	if env := os.Environ(); len(env) == 0 || env[0] != resumeVar {
		return false, nil
	}
	a.conn, a.reply, a.listen = connFD, connFD, listenFD
	if len(os.Args) > 2 && os.Args[1] == "stdio" {
		a.reply, a.listen, a.home = replyFD, -1, os.Args[2]
	}
	a.door = -1
	if a.guard = len(os.Args) > 1 && os.Args[1] == "listen"; a.guard {
		a.door = doorFD
	}
	for _, fd := range []int{a.conn, a.reply, a.listen, a.door} {
		if fd >= 0 {
			unix.CloseOnExec(fd)
		}
	}
	f := os.NewFile(bootFD, "boot")
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return true, fail("boot", err)
	}
	body := make([]byte, st.Size())
	if _, err := f.ReadAt(body, 0); err != nil {
		return true, fail("boot", err)
	}
	if a.boot, err = agentwire.DecodeBoot(body); err != nil {
		return true, err
	}
	return true, a.closeEyes()
}
