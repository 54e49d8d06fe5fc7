package namespaces

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/inside"
)

// hostname is what the host is called inside.
const hostname = "sandbox"

// plan is how the inside is built: what is made, and then what is mounted on
// it. The mounts are for the agent to inherit.
func (d *Driver) plan(spec sandbox.Spec, h handle, program *agent.Program) (p plan, err error) {
	add := func(s ...agentwire.Step) { p.steps = append(p.steps, s...) }
	dir := func(path string, mode uint32) {
		add(agentwire.Step{Kind: agentwire.StepDir, Target: path, Mode: mode})
	}
	link := func(path, to string) {
		add(agentwire.Step{Kind: agentwire.StepLink, Target: path, Source: to})
	}
	add(agentwire.Step{Kind: agentwire.StepPrivate},
		agentwire.Step{Kind: agentwire.StepRoot, Data: []byte("mode=0755," + inside.Sized(inside.Scratch(spec.Limits)))})
	p.bash = "/bin/bash"
	var root []agentwire.Step
	if spec.Image == nil {
		root, err = inside.Root(spec)
	} else {
		root, p.bash, err = inside.Over(spec)
		if err == nil {
			err = d.lend(&p, agentwire.Step{Kind: agentwire.StepImage, Source: spec.Image.Root})
		}
	}
	if err != nil {
		return p, err
	}
	add(root...)
	dir("/dev/pts", 0o755)
	link("/dev/fd", "/proc/self/fd")
	link("/dev/stdin", "/proc/self/fd/0")
	link("/dev/stdout", "/proc/self/fd/1")
	link("/dev/stderr", "/proc/self/fd/2")
	link("/dev/ptmx", "pts/ptmx")
	dir("/proc", 0o755)
	own := map[string]uint32{"/dev/shm": 0o1777, "/run": 0o755, "/home": 0o755}
	for path, mode := range own {
		dir(path, mode)
	}
	devices := []string{"null", "zero", "full", "random", "urandom", "tty"}
	if spec.Image != nil {
		for _, name := range devices {
			add(agentwire.Step{Kind: agentwire.StepFile, Target: "/dev/" + name, Mode: 0o644})
		}
		for _, path := range agent.Places(spec) {
			dir(path, 0o755)
		}
		for _, m := range spec.Mounts {
			dir(m.Target, 0o755)
		}
		add(agentwire.Step{Kind: agentwire.StepOverlay})
	}
	for _, name := range devices {
		add(agentwire.Step{Kind: agentwire.StepBind, Source: "/dev/" + name, Target: "/dev/" + name, Devices: true, Optional: name == "tty"})
	}
	add(agentwire.Step{Kind: agentwire.StepPts, Target: "/dev/pts", Optional: true})
	add(agentwire.Step{Kind: agentwire.StepProc, Target: "/proc"})
	// The names of the user's keys; for the keys themselves see the agent.
	add(agentwire.Step{Kind: agentwire.StepBind, Source: "/dev/null", Target: "/proc/keys", Devices: true, ReadOnly: true, Optional: true})
	for path := range own {
		add(agentwire.Step{Kind: agentwire.StepSelf, Target: path})
	}
	// The shell's pipes have room of their own: a command that fills the rest
	// does not cut the agent off from its shell.
	add(agentwire.Step{Kind: agentwire.StepMemory, Target: inside.RunDir, Data: []byte("mode=0700,size=24m,nr_inodes=64")})
	if err = d.places(&p, spec, h, program); err != nil {
		return p, err
	}
	if spec.Image == nil { // the overlay is read-only as it is
		add(agentwire.Step{Kind: agentwire.StepFreeze})
	}
	add(agentwire.Step{Kind: agentwire.StepPivot})
	if h.Memory {
		add(memoryHidden...)
	}
	if spec.Network.Mode != sandbox.NetworkHost {
		add(agentwire.Step{Kind: agentwire.StepLoopback})
	}
	add(agentwire.Step{Kind: agentwire.StepHostname, Source: hostname}, agentwire.Step{Kind: agentwire.StepNoUsers, Optional: true})
	return p, nil
}

// plan is how an inside is built.
type plan struct {
	steps  []agentwire.Step
	mounts []*os.File // detached; the steps name them by number
	bash   string
}

func (p *plan) close() {
	for _, m := range p.mounts {
		m.Close()
	}
}

// lend adds a step with a directory of the host. Where the session's user
// cannot reach it by its path, which is the rule under root, it is cloned here
// and handed over detached.
func (d *Driver) lend(p *plan, s agentwire.Step) error {
	if d.power {
		m, err := clone(s.Source)
		if err != nil {
			return err
		}
		s.FD = agent.MountFD(len(p.mounts))
		p.mounts = append(p.mounts, m)
	}
	p.steps = append(p.steps, s)
	return nil
}

// places adds the tree's parts, the shared directory and the policy's mounts.
func (d *Driver) places(p *plan, spec sandbox.Spec, h handle, program *agent.Program) error {
	bind := func(source, target string, readOnly bool) error {
		return d.lend(p, agentwire.Step{Kind: agentwire.StepBind, Source: source, Target: target, ReadOnly: readOnly})
	}
	if h.Memory {
		p.steps = append(p.steps, memorySteps(spec)...)
	}
	for _, place := range agent.Places(spec) {
		if h.Memory || place == spec.Workdir && spec.Share != "" {
			continue
		}
		if err := bind(filepath.Join(spec.Tree, place), place, false); err != nil {
			return err
		}
	}
	for _, at := range agent.Frozen(spec) {
		if h.Memory {
			continue
		}
		if err := bind(filepath.Join(spec.Tree, at), at, true); err != nil {
			return err
		}
	}
	if spec.Network.Socket != "" {
		if err := bind(filepath.Dir(spec.Network.Socket), agent.EgressDir, true); err != nil {
			return err
		}
	}
	owned := slices.Clone(spec.Mounts)
	if spec.Share != "" {
		owned = append(owned, sandbox.Mount{Source: spec.Share, Target: spec.Workdir})
	}
	for _, m := range owned {
		if err := bind(m.Source, m.Target, m.ReadOnly); err != nil {
			return err
		}
		if !d.power {
			continue
		}
		// What can only be read may be shown as it is, too.
		if err := disguise(p.mounts[len(p.mounts)-1], m.Source, h, program); err != nil && !m.ReadOnly {
			return err
		}
	}
	return nil
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

// disguise shows the files of a directory's owner as the session's user's own:
// on disk they stay what they are.
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
