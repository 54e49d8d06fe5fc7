package child

import (
	"bytes"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
)

// posture looks at what a tool's process is. The shell is one: its status says
// who it is. What children inherit is the same for the agent's own thread, and
// so is what may be done: that is tried here, by calls that change nothing
// even where they are allowed. An agent that is not sealed says who it is, and
// does not look further.
func (a *agent) posture(q agentwire.Probe) agentwire.Posture {
	var p agentwire.Posture
	credentials(&p)
	if !a.statusOf(a.shell.pid, &p) {
		sets(&p)
	}
	for _, r := range []uint32{unix.RLIMIT_CORE, unix.RLIMIT_NPROC, unix.RLIMIT_NOFILE} {
		var l unix.Rlimit
		if unix.Prlimit(a.shell.pid, int(r), nil, &l) == nil {
			p.Rlimits = append(p.Rlimits, agentwire.Rlimit{Resource: r, Max: l.Max})
		}
	}
	namespaces(&p)
	a.inherited(&p)
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		p.Hostname = unix.ByteSliceToString(u.Nodename[:])
	}
	if !a.boot.Seal { // nothing is promised that the rest could find missing
		return p
	}
	a.mounts(&p)
	a.interfaces(&p)
	p.Processes = visible()
	for _, path := range q.Hidden {
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil {
			p.Seen = append(p.Seen, path)
		}
	}
	for _, path := range q.Fixed {
		if unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, 0) == nil {
			p.Writable = append(p.Writable, path)
		}
	}
	a.try(&p)
	return p
}

// credentials are those of this thread.
func credentials(p *agentwire.Posture) {
	r, e, s := unix.Getresuid()
	p.UIDs = [4]uint32{uint32(r), uint32(e), uint32(s), uint32(e)}
	r, e, s = unix.Getresgid()
	p.GIDs = [4]uint32{uint32(r), uint32(e), uint32(s), uint32(e)}
	groups, err := unix.Getgroups()
	for _, g := range groups {
		p.Groups = append(p.Groups, uint32(g))
	}
	p.Cut = err != nil
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if unix.Capget(&hdr, &caps[0]) != nil {
		p.Cut = true
	}
	both := func(low, high uint32) uint64 { return uint64(high)<<32 | uint64(low) }
	p.Inheritable = both(caps[0].Inheritable, caps[1].Inheritable)
	p.Permitted = both(caps[0].Permitted, caps[1].Permitted)
	p.Effective = both(caps[0].Effective, caps[1].Effective)
	none, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	p.NoNewPrivs = err == nil && none == 1
	if mode, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0); err == nil {
		p.Seccomp = uint32(mode)
	}
}

// sets asks for the bounding and the ambient set of this thread, a call for each
// capability.
func sets(p *agentwire.Posture) {
	for c := uintptr(0); c < 64; c++ {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if err != nil {
			break
		}
		if has == 1 {
			p.Bounding |= 1 << c
		}
		if has, err := unix.PrctlRetInt(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_IS_SET, c, 0, 0); err == nil && has == 1 {
			p.Ambient |= 1 << c
		}
	}
}

// namespaces are those of this thread, or where /proc knows no threads of this
// process.
func namespaces(p *agentwire.Posture) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	dir, err := unix.Open("/proc/thread-self/ns", flags, 0)
	if err != nil {
		dir, err = unix.Open("/proc/self/ns", flags, 0)
	}
	if err != nil {
		return
	}
	defer unix.Close(dir)
	for _, name := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} {
		var st unix.Stat_t
		if unix.Fstatat(dir, name, &st, 0) == nil {
			p.Namespaces = append(p.Namespaces, agentwire.Namespace{Name: name, Inode: st.Ino})
		}
	}
}

// statusOf puts what a process's status says in the place of what this
// thread says. all says that the bounding and the ambient set were there.
func (a *agent) statusOf(pid int, p *agentwire.Posture) (all bool) {
	found := 0
	for line := range bytes.Lines(a.file("/proc/" + strconv.Itoa(pid) + "/status")) {
		key, value, _ := bytes.Cut(line, []byte(":"))
		f := bytes.Fields(value)
		if len(f) == 0 {
			continue
		}
		switch string(key) {
		case "CapInh":
			set(&p.Inheritable, f[0])
		case "CapPrm":
			set(&p.Permitted, f[0])
		case "CapEff":
			set(&p.Effective, f[0])
		case "CapBnd":
			found += set(&p.Bounding, f[0])
		case "CapAmb":
			found += set(&p.Ambient, f[0])
		case "Uid":
			ids(&p.UIDs, f)
		case "Gid":
			ids(&p.GIDs, f)
		case "NoNewPrivs":
			p.NoNewPrivs = string(f[0]) == "1"
		case "Seccomp":
			p.Seccomp = number(f[0])
		case "Seccomp_filters":
			p.Filters = number(f[0])
		}
	}
	return found == 2
}

// set reads a set of capabilities; it gives how many it could read.
func set(to *uint64, b []byte) int {
	v, err := strconv.ParseUint(string(b), 16, 64)
	if err != nil {
		return 0
	}
	*to = v
	return 1
}

func ids(to *[4]uint32, f [][]byte) {
	for i := range min(len(f), 4) {
		to[i] = number(f[i])
	}
}

func number(b []byte) uint32 {
	n, err := strconv.ParseUint(string(b), 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// file reads a file of /proc, as much as there is room for.
func (a *agent) file(path string) []byte {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	b := a.room()
	at := 0
	for at < len(b) {
		n, err := unix.Read(fd, b[at:])
		if err == unix.EINTR {
			continue
		}
		if n <= 0 {
			break
		}
		at += n
	}
	return b[:at]
}

// maxMountBytes is how much of the mounts a posture takes.
const maxMountBytes = agentwire.MaxPosture / 2

func (a *agent) mounts(p *agentwire.Posture) {
	size := 0
	for line := range bytes.Lines(a.file("/proc/self/mountinfo")) {
		before, after, _ := bytes.Cut(line, []byte(" - "))
		f, g := bytes.Fields(before), bytes.Fields(after)
		if len(f) < 6 || len(g) < 2 {
			p.Cut = true
			continue
		}
		m := agentwire.Mount{Target: string(f[4]), Options: string(f[5]), Type: string(g[0])}
		// A file system that is read-only as a whole says so at its end.
		if super := g[len(g)-1]; bytes.HasPrefix(super, []byte("ro")) && len(m.Options) > 2 && m.Options[:2] == "rw" {
			m.Options = "ro" + m.Options[2:]
		}
		if size += len(m.Target) + len(m.Options) + len(m.Type) + 6; size > maxMountBytes {
			p.Cut = true
			return
		}
		p.Mounts = append(p.Mounts, m)
	}
}

// inherited lists the descriptors that an exec does not close. The shell gets
// its first three anew.
func (a *agent) inherited(p *agentwire.Posture) {
	names, err := entries("/proc/self/fd")
	if err != nil {
		p.Cut = true
	}
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil || fd <= 2 {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue
		}
		to, _ := os.Readlink("/proc/self/fd/" + name)
		p.Inherited = append(p.Inherited, name+" "+to[:min(len(to), 200)])
	}
}

// interfaces lists those of the network that are up. One that cannot be looked
// at counts.
func (a *agent) interfaces(p *agentwire.Posture) {
	b := a.file("/proc/net/dev")
	if b == nil {
		p.Interfaces = []string{"unknown"}
		return
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
	}
	for line := range bytes.Lines(b) {
		name, _, ok := bytes.Cut(bytes.TrimSpace(line), []byte(":"))
		if !ok || len(p.Interfaces) > 100 {
			continue
		}
		ifr, errName := unix.NewIfreq(string(name))
		if err == nil && errName == nil && unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr) == nil && ifr.Uint16()&unix.IFF_UP == 0 {
			continue
		}
		p.Interfaces = append(p.Interfaces, string(name))
	}
}

// visible counts the processes that can be seen.
func visible() (n uint32) {
	names, _ := entries("/proc")
	for _, name := range names {
		if name[0] >= '1' && name[0] <= '9' {
			n++
		}
	}
	return n
}

// try makes the calls that no tool should get anything from. Each is made so
// that it has no effect where it is allowed, but for those that are undone.
func (a *agent) try(p *agentwire.Posture) {
	note := func(name string, e unix.Errno) {
		p.Tries = append(p.Tries, agentwire.Try{Name: name, Errno: uint32(e)})
	}
	call := func(name string, nr, a1, a2, a3, a4 uintptr) {
		_, _, e := unix.RawSyscall6(nr, a1, a2, a3, a4, 0, 0)
		note(name, e)
	}
	open := func(name string, family, kind, proto int) {
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto)
		if err == nil {
			unix.Close(fd)
		}
		note(name, errno(err))
	}
	nothing := [1]byte{}
	root := [2]byte{'/'}
	// To move a mount from nowhere fails for whoever may mount, later.
	call("mount", unix.SYS_MOUNT, uintptr(unsafe.Pointer(&nothing)), uintptr(unsafe.Pointer(&root)), uintptr(unsafe.Pointer(&nothing)), unix.MS_MOVE)
	// A process of several threads cannot change its user namespace.
	call("unshare", unix.SYS_UNSHARE, unix.CLONE_NEWUSER, 0, 0, 0)
	call("bpf", unix.SYS_BPF, 0, 0, 0, 0)
	call("perf_event_open", unix.SYS_PERF_EVENT_OPEN, 0, 0, 0, 0)
	call("io_uring_setup", unix.SYS_IO_URING_SETUP, 0, 0, 0, 0)
	session := unix.KEY_SPEC_SESSION_KEYRING
	call("keyctl", unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID, uintptr(session), 0, 0)
	open("vsock", unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	open("raw socket", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	if p.Effective&(1<<unix.CAP_NET_RAW) != 0 && p.Filters == 0 && p.Seccomp == 0 {
		note("packet socket", 0) // nothing would refuse it, and to close one waits 15 ms for the kernel's readers
	} else {
		open("packet socket", unix.AF_PACKET, unix.SOCK_RAW, 0)
	}

	keep := ^uintptr(0)
	_, _, e := unix.RawSyscall(unix.SYS_SETRESUID, keep, 0, keep)
	if e == 0 {
		_, _, _ = unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(p.UIDs[1]), keep)
	}
	note("setuid", e)

	device := a.boot.RunDir + "/device"
	err := unix.Mknod(device, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3)))
	if err == nil {
		_ = unix.Unlink(device)
	}
	note("mknod", errno(err))
	note("metadata address", route([4]byte{169, 254, 169, 254}))
	note("a public address", route([4]byte{1, 1, 1, 1}))
}

// route asks for the way to an address; nothing is sent.
func route(to [4]byte) unix.Errno {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return errno(err)
	}
	defer unix.Close(fd)
	return errno(unix.Connect(fd, &unix.SockaddrInet4{Addr: to, Port: 80}))
}

func errno(err error) unix.Errno {
	e, _ := err.(unix.Errno)
	return e
}
