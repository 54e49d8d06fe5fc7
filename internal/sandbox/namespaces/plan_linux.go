package namespaces

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
)

// Who and where one is inside.
const (
	userID = 1000
	user   = "agent"
	home   = "/home/agent"
	runDir = "/run/berth"
)

// etc are the parts of the host's /etc that its programs do not work without.
// They say nothing of the host's people or services.
var etc = []string{"alternatives", "ld.so.cache", "ssl/certs", "ssl/openssl.cnf", "pki", "fonts", "localtime"}

// plan is how the inside is built. The mounts are for the agent to inherit.
func (d *Driver) plan(spec sandbox.Spec, h handle, program *agent.Program) (steps []agentwire.Step, mounts []*os.File, err error) {
	add := func(s ...agentwire.Step) { steps = append(steps, s...) }
	dir := func(path string, mode uint32) {
		add(agentwire.Step{Kind: agentwire.StepDir, Target: path, Mode: mode})
	}
	file := func(path, text string) {
		add(agentwire.Step{Kind: agentwire.StepFile, Target: path, Data: []byte(text), Mode: 0o644})
	}
	link := func(path, to string) {
		add(agentwire.Step{Kind: agentwire.StepLink, Target: path, Source: to})
	}
	show := func(path string) {
		add(agentwire.Step{Kind: agentwire.StepBind, Source: path, Target: path, ReadOnly: true})
	}
	add(agentwire.Step{Kind: agentwire.StepPrivate},
		agentwire.Step{Kind: agentwire.StepRoot, Data: []byte("mode=0755,size=512m,nr_inodes=262144")})
	show("/usr")
	for _, name := range []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"} {
		st, err := os.Lstat(name)
		switch {
		case err != nil:
		case st.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(name)
			if err != nil {
				return nil, nil, err
			}
			link(name, to)
		case st.IsDir():
			show(name)
		}
	}
	dir("/etc/ssl", 0o755)
	for _, name := range etc {
		if st, err := os.Lstat("/etc/" + name); err == nil {
			if to, err := os.Readlink("/etc/" + name); err == nil && st.Mode()&fs.ModeSymlink != 0 {
				link("/etc/"+name, to)
				continue
			}
			show("/etc/" + name)
		}
	}
	file("/etc/passwd", "root:x:0:0:root:/root:/usr/sbin/nologin\nagent:x:1000:1000:agent:/home/agent:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n")
	file("/etc/group", "root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n")
	file("/etc/hosts", "127.0.0.1\tlocalhost sandbox\n::1\tlocalhost\n")
	file("/etc/hostname", "sandbox\n")
	file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")
	file("/etc/resolv.conf", "# there is no network here\n")
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		add(agentwire.Step{Kind: agentwire.StepBind, Source: "/dev/" + name, Target: "/dev/" + name, Devices: true, Optional: name == "tty"})
	}
	link("/dev/fd", "/proc/self/fd")
	link("/dev/stdin", "/proc/self/fd/0")
	link("/dev/stdout", "/proc/self/fd/1")
	link("/dev/stderr", "/proc/self/fd/2")
	link("/dev/ptmx", "pts/ptmx")
	dir("/dev/pts", 0o755)
	add(agentwire.Step{Kind: agentwire.StepPts, Target: "/dev/pts", Optional: true})
	dir("/proc", 0o755)
	add(agentwire.Step{Kind: agentwire.StepProc, Target: "/proc"})
	// The names of the user's keys; for the keys themselves see the agent.
	add(agentwire.Step{Kind: agentwire.StepBind, Source: "/dev/null", Target: "/proc/keys", Devices: true, ReadOnly: true, Optional: true})
	for path, mode := range map[string]uint32{"/dev/shm": 0o1777, "/run": 0o755, "/home": 0o755} {
		dir(path, mode)
		add(agentwire.Step{Kind: agentwire.StepSelf, Target: path})
	}
	// The shell's pipes have room of their own: a command that fills the rest
	// does not cut the agent off from its shell.
	add(agentwire.Step{Kind: agentwire.StepMemory, Target: runDir, Data: []byte("mode=0700,size=24m,nr_inodes=64")})
	dir(home, 0o755)
	dir("/var/lib", 0o755)
	link("/var/tmp", "/tmp")
	link("/var/run", "/run")
	dir("/opt", 0o755)
	if mounts, err = d.places(spec, h, program, &steps); err != nil {
		return nil, mounts, err
	}
	add(agentwire.Step{Kind: agentwire.StepFreeze}, agentwire.Step{Kind: agentwire.StepPivot},
		agentwire.Step{Kind: agentwire.StepLoopback}, agentwire.Step{Kind: agentwire.StepHostname, Source: "sandbox"},
		agentwire.Step{Kind: agentwire.StepNoUsers, Optional: true})
	return steps, mounts, nil
}

// places adds the tree's parts and the shared directory. Where the session's
// user cannot reach them by their paths, which is the rule under root, they
// are cloned here and handed over detached.
func (d *Driver) places(spec sandbox.Spec, h handle, program *agent.Program, steps *[]agentwire.Step) (mounts []*os.File, err error) {
	bind := func(source, target string) error {
		s := agentwire.Step{Kind: agentwire.StepBind, Source: source, Target: target}
		if d.power {
			m, err := clone(source)
			if err != nil {
				return err
			}
			s.FD = agent.MountFD(len(mounts))
			mounts = append(mounts, m)
		}
		*steps = append(*steps, s)
		return nil
	}
	for _, place := range agent.Places(spec) {
		if place == spec.Workdir && spec.Share != "" {
			continue
		}
		if err := bind(filepath.Join(spec.Tree, place), place); err != nil {
			return mounts, err
		}
	}
	if spec.Share == "" {
		return mounts, nil
	}
	if err := bind(spec.Share, spec.Workdir); err != nil {
		return mounts, err
	}
	if d.power {
		return mounts, disguise(mounts[len(mounts)-1], spec.Share, h, program)
	}
	return mounts, nil
}

// clone makes a detached mount of a directory.
func clone(source string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if errors.Is(err, unix.ENOSYS) {
		return nil, errors.New("the kernel is older than 5.12")
	}
	if err != nil {
		return nil, fmt.Errorf("clone %s: %w", source, err)
	}
	return os.NewFile(uintptr(fd), source), nil
}

// disguise shows the files of a shared directory's owner as the session's
// user's own: on disk they stay what they are.
func disguise(mount *os.File, share string, h handle, program *agent.Program) error {
	var st unix.Stat_t
	if err := unix.Stat(share, &st); err != nil {
		return fmt.Errorf("%s: %w", share, err)
	}
	ns, err := program.UserNamespace(
		syscall.SysProcIDMap{ContainerID: int(st.Uid), HostID: h.UID, Size: 1},
		syscall.SysProcIDMap{ContainerID: int(st.Gid), HostID: h.GID, Size: 1})
	if err != nil {
		return err
	}
	defer ns.Close()
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
	if err := unix.MountSetattr(int(mount.Fd()), "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("the file system of %s cannot lend its files to another user: %w", share, err)
	}
	return nil
}
