//go:build linux && (amd64 || arm64)

package child

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// denied are the system calls that no tool in a sandbox needs and that reach
// parts of the kernel where its bugs are found: mounts, namespaces, programs
// for the kernel, keys, modules. What is left out on purpose: ptrace, with
// which a debugger looks at processes of its own.
var denied = append([]uint32{
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT,
	unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR,
	unix.SYS_UNSHARE, unix.SYS_SETNS,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_FANOTIFY_INIT,
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
	unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
	unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_SYSLOG,
	unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PIDFD_GETFD, unix.SYS_KCMP,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME,
}, deniedHere...)

// families are the kinds of sockets that a network namespace holds back.
var families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// signals are the calls that send one to a process whose number comes first,
// with the place of the signal among their arguments.
var signals = map[uint32]uint32{
	unix.SYS_KILL: 1, unix.SYS_TKILL: 1, unix.SYS_TGKILL: 2, unix.SYS_RT_SIGQUEUEINFO: 1, unix.SYS_RT_TGSIGQUEUEINFO: 2,
}

// newSpaces are the flags of clone that make namespaces.
const newSpaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// filter is the program that the kernel runs for each system call. It sees the
// call's number (at 0), the machine it is meant for (at 4) and, from 16 on,
// its arguments of eight bytes, their lower halves first.
func filter() []unix.SockFilter {
	var p []unix.SockFilter
	load := func(at uint32) {
		p = append(p, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at})
	}
	end := func(what uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: what}
	}
	fail := func(e unix.Errno) unix.SockFilter { return end(unix.SECCOMP_RET_ERRNO | uint32(e)) }
	// when does the steps if the comparison with k holds, else goes on.
	when := func(code uint16, k uint32, do ...unix.SockFilter) {
		p = append(p, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | code, Jf: uint8(len(do)), K: k})
		p = append(p, do...)
	}
	allow := end(unix.SECCOMP_RET_ALLOW)

	load(4)
	p = append(p, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | unix.BPF_JEQ, Jt: 1, K: machine}, fail(unix.ENOSYS))
	load(0)
	when(unix.BPF_JGE, 0x40000000, fail(unix.ENOSYS)) // another way to count them
	for _, nr := range denied {
		when(unix.BPF_JEQ, nr, fail(unix.EPERM))
	}
	// Its flags are in memory, where no filter can look; libraries fall back.
	when(unix.BPF_JEQ, unix.SYS_CLONE3, fail(unix.ENOSYS))
	flags := unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 16}
	when(unix.BPF_JEQ, unix.SYS_CLONE, flags,
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | unix.BPF_JSET, Jf: 1, K: newSpaces}, fail(unix.EPERM), allow)
	// The agent is the first process. Linux keeps such a one from what would kill
	// or stop it; gVisor does not.
	argument := func(i uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 16 + 8*i}
	}
	is := func(k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | unix.BPF_JEQ, Jt: yes, Jf: no, K: k}
	}
	for nr, signal := range signals {
		when(unix.BPF_JEQ, nr, argument(0), is(1, 0, 4), argument(signal), is(uint32(unix.SIGKILL), 1, 0), is(uint32(unix.SIGSTOP), 0, 1), fail(unix.EPERM), allow)
	}
	when(unix.BPF_JEQ, unix.SYS_PIDFD_OPEN, argument(0), is(1, 0, 1), fail(unix.EPERM), allow)
	p = append(p, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | unix.BPF_JEQ, Jt: 1, K: unix.SYS_SOCKET}, allow)
	load(16)
	for _, f := range families {
		when(unix.BPF_JEQ, f, allow)
	}
	return append(p, fail(unix.EAFNOSUPPORT))
}

// filterCalls has the kernel refuse what filter says, to all threads of this
// process and all that they start, for good.
func filterCalls() error {
	p := filter()
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	install := func(flags uintptr) unix.Errno {
		_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
		return e
	}
	e := install(unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW)
	if e == unix.EINVAL { // gVisor has no speculation to speak of
		e = install(unix.SECCOMP_FILTER_FLAG_TSYNC)
	}
	runtime.KeepAlive(p)
	if e != 0 {
		return fail("filter system calls", e)
	}
	return nil
}
