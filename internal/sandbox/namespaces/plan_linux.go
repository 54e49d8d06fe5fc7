package namespaces

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/inside"
)

// hostname is what the host is called inside.
const hostname = "sandbox"

// plan is how the inside is built. The mounts are for the agent to inherit.
func (d *Driver) plan(spec sandbox.Spec, h handle, program *agent.Program) (steps []agentwire.Step, mounts []*os.File, err error) {
	add := func(s ...agentwire.Step) { steps = append(steps, s...) }
	dir := func(path string, mode uint32) {
		add(agentwire.Step{Kind: agentwire.StepDir, Target: path, Mode: mode})
	}
	link := func(path, to string) {
		add(agentwire.Step{Kind: agentwire.StepLink, Target: path, Source: to})
	}
	add(agentwire.Step{Kind: agentwire.StepPrivate},
		agentwire.Step{Kind: agentwire.StepRoot, Data: []byte("mode=0755,nr_inodes=262144,size=" + strconv.FormatInt(inside.Scratch(spec.Limits), 10))})
	root, err := inside.Root()
	if err != nil {
		return nil, nil, err
	}
	add(root...)
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
	add(agentwire.Step{Kind: agentwire.StepMemory, Target: inside.RunDir, Data: []byte("mode=0700,size=24m,nr_inodes=64")})
	if mounts, err = d.places(spec, h, program, &steps); err != nil {
		return nil, mounts, err
	}
	add(agentwire.Step{Kind: agentwire.StepFreeze}, agentwire.Step{Kind: agentwire.StepPivot},
		agentwire.Step{Kind: agentwire.StepLoopback}, agentwire.Step{Kind: agentwire.StepHostname, Source: hostname},
		agentwire.Step{Kind: agentwire.StepNoUsers, Optional: true})
	return steps, mounts, nil
}

// places adds the tree's parts and the shared directory. Where the session's
// user cannot reach them by their paths, which is the rule under root, they
// are cloned here and handed over detached.
func (d *Driver) places(spec sandbox.Spec, h handle, program *agent.Program, steps *[]agentwire.Step) (mounts []*os.File, err error) {
	bind := func(source, target string, readOnly bool) error {
		s := agentwire.Step{Kind: agentwire.StepBind, Source: source, Target: target, ReadOnly: readOnly}
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
		if err := bind(filepath.Join(spec.Tree, place), place, false); err != nil {
			return mounts, err
		}
	}
	if spec.Network.Socket != "" {
		if err := bind(filepath.Dir(spec.Network.Socket), agent.EgressDir, true); err != nil {
			return mounts, err
		}
	}
	if spec.Share == "" {
		return mounts, nil
	}
	if err := bind(spec.Share, spec.Workdir, false); err != nil {
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
