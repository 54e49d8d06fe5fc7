package process

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/cgroup"
)

const (
	recovers       = true
	mountsPossible = true
	// runDir is where the shell's pipes are when the root is ours to make.
	runDir = "/.berth"
)

// attributes says how the agent is started.
type attributes struct {
	mounts bool
	later  bool // the agent itself gives its mounts a namespace
	group  *cgroup.Group
	user   int
}

func (a attributes) sys() *syscall.SysProcAttr {
	sys := &syscall.SysProcAttr{}
	if fd := a.group.FD(); fd >= 0 {
		sys.UseCgroupFD, sys.CgroupFD = true, fd
	}
	if a.user != 0 {
		// What it needs to build and to seal, and gives up with the seal.
		sys.Credential = &syscall.Credential{Uid: uint32(a.user), Gid: uint32(a.user)}
		sys.AmbientCaps = []uintptr{unix.CAP_SETPCAP}
		if a.mounts {
			sys.AmbientCaps = append(sys.AmbientCaps, unix.CAP_SYS_ADMIN, unix.CAP_DAC_READ_SEARCH)
		}
	}
	if !a.mounts || a.later {
		return sys
	}
	sys.Cloneflags = unix.CLONE_NEWNS
	if !mayMount() && a.user == 0 {
		// The mounts need a user namespace, in which we stay who we are.
		uid, gid := os.Getuid(), os.Getgid()
		sys.Cloneflags |= unix.CLONE_NEWUSER
		sys.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		sys.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		sys.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN}
		// With a credential the spawner makes it: a process that is not
		// dumpable cannot write its children's maps.
		sys.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), NoSetGroups: true}
	}
	return sys
}

// mayView says whether views can be mounted in the tree.
func mayView() bool { return mayMount() }

// mayMount says whether this process has CAP_SYS_ADMIN.
func mayMount() bool { return has(unix.CAP_SYS_ADMIN) }

// mayReturn says whether a process like this one can go from one mount namespace
// to another.
func mayReturn() bool { return has(unix.CAP_SYS_ADMIN) && has(unix.CAP_SYS_CHROOT) }

func has(capability int) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<capability) != 0
}

// mountPlan is the host's root again, with the tree's parts at their names. A
// directory is made anew, with all of its entries, where a name to be made in
// it is missing; the host's own are never written to.
func mountPlan(spec sandbox.Spec) ([]agentwire.Step, error) {
	places := map[string]string{} // where inside: what of the host
	for _, p := range agent.Places(spec) {
		places[p] = filepath.Join(spec.Tree, p)
	}
	if spec.Share != "" {
		places[spec.Workdir] = spec.Share
	}
	steps := []agentwire.Step{{Kind: agentwire.StepSlave}, {Kind: agentwire.StepRoot, Data: []byte("mode=0755,size=64m")}}
	if err := compose(&steps, "/", places); err != nil {
		return nil, err
	}
	// A place below another is mounted after it.
	for _, p := range byDepth(places) {
		steps = append(steps, agentwire.Step{Kind: agentwire.StepBind, Source: places[p], Target: p, Devices: true, Setuid: true})
	}
	for _, at := range agent.Frozen(spec) {
		steps = append(steps, agentwire.Step{Kind: agentwire.StepBind, Source: filepath.Join(spec.Tree, at), Target: at, ReadOnly: true, Devices: true, Setuid: true})
	}
	return append(steps, agentwire.Step{Kind: agentwire.StepPivot}, agentwire.Step{Kind: agentwire.StepPlain, Optional: true}), nil
}

// compose shows the entries of a directory of the host in one of ours.
func compose(steps *[]agentwire.Step, dir string, places map[string]string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if _, ok := places[name]; ok {
			continue
		}
		switch {
		case e.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(name)
			if err != nil {
				continue
			}
			*steps = append(*steps, agentwire.Step{Kind: agentwire.StepLink, Source: to, Target: name, Optional: true})
		case e.IsDir() && lacks(name, places):
			*steps = append(*steps, agentwire.Step{Kind: agentwire.StepDir, Target: name, Mode: 0o755})
			if err := compose(steps, name, places); err != nil {
				return err
			}
		default:
			s := agentwire.Step{Kind: agentwire.StepBind, Source: name, Target: name, Devices: true, Setuid: true, Optional: true}
			if e.IsDir() {
				s.Mode = unix.S_IFDIR
			}
			*steps = append(*steps, s)
		}
	}
	return nil
}

// lacks says whether a directory of the host misses a place below it.
func lacks(dir string, places map[string]string) bool {
	for p := range places {
		if strings.HasPrefix(p, dir+"/") {
			if st, err := os.Stat(p); err != nil || !st.IsDir() {
				return true
			}
		}
	}
	return false
}

func byDepth(places map[string]string) []string {
	var names []string
	for p := range places {
		names = append(names, p)
	}
	for i := range names {
		for j := i; j > 0 && len(names[j]) < len(names[j-1]); j-- {
			names[j], names[j-1] = names[j-1], names[j]
		}
	}
	return names
}
