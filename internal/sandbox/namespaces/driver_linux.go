package namespaces

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/crash"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/cgroup"
	"github.com/berthdev/berth/internal/sandbox/disk"
	"github.com/berthdev/berth/internal/sandbox/inside"
	"github.com/berthdev/berth/internal/sandbox/tree"
)

// Driver makes sandboxes of namespaces. Safe for concurrent use.
type Driver struct {
	cfg   Config
	log   *slog.Logger
	power bool // this process may map any user and clone any mount
	ids   agent.Users

	probing sync.Mutex
	probed  bool // the probe has been good once
}

var _ sandbox.Driver = (*Driver)(nil)

// New makes the driver. Whether it works here is for Probe to say.
func New(cfg Config) *Driver {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Driver{cfg: cfg, log: cfg.Log, power: inside.Powerful()}
}

// Name is "namespaces".
func (d *Driver) Name() string { return Name }

// filtered says whether the agent filters system calls on this machine.
const filtered = runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64"

// Capabilities says what is enforced.
func (d *Driver) Capabilities() sandbox.Capabilities {
	c := sandbox.Capabilities{Processes: true, Files: true, Network: true, Privileges: true, Syscalls: filtered, Recover: true, Tree: true, View: d.power, Images: true, Egress: true, Mounts: true, Users: true, HostNet: true, Limits: limits()}
	if !d.power { // else the keeper has disks
		c.Limits = append(c.Limits, sandbox.LimitDisk)
	}
	return c
}

// own are the limits that need no cgroup: each session has a user, or a user
// namespace, in which its processes are counted.
var own = []sandbox.Limit{sandbox.LimitPIDs, sandbox.LimitOpenFiles}

func limits() []sandbox.Limit {
	all := append(cgroup.Enforces(), sandbox.LimitCallTime, sandbox.LimitSessionTime)
	for _, l := range own {
		if !slices.Contains(all, l) {
			all = append(all, l)
		}
	}
	return all
}

// Leftovers are the cgroups of sandboxes that are gone: with the first process
// all else goes.
func (d *Driver) Leftovers(_ context.Context, live func(name string) bool) ([]sandbox.Leftover, error) {
	return cgroup.Stale(live)
}

// Probe starts a sandbox and runs a command in it, until that has worked once.
func (d *Driver) Probe(ctx context.Context) sandbox.Probe {
	d.probing.Lock()
	defer d.probing.Unlock()
	p := sandbox.Probe{OK: true, Version: kernel()}
	if d.probed {
		return p
	}
	if err := sandbox.Try(ctx, d, sandbox.Spec{}); err != nil {
		return sandbox.Probe{Reason: "a sandbox cannot be made here: " + err.Error(), Cure: cure(err, d.power), Version: kernel()}
	}
	d.probed = true
	return p
}

// cure is one line on how to make namespaces work.
func cure(err error, power bool) string {
	if !power {
		for name, bad := range map[string]string{
			"kernel/apparmor_restrict_unprivileged_userns": "1",
			"kernel/unprivileged_userns_clone":             "0",
			"user/max_user_namespaces":                     "0",
		} {
			if b, e := os.ReadFile("/proc/sys/" + name); e == nil && strings.TrimSpace(string(b)) == bad {
				good := map[string]string{"1": "0", "0": "1"}[bad]
				if name == "user/max_user_namespaces" {
					good = "10000"
				}
				return "let ordinary users make user namespaces: sysctl " + strings.ReplaceAll(name, "/", ".") + "=" + good + ", or run as root"
			}
		}
	}
	if errors.Is(err, unix.EPERM) || strings.Contains(err.Error(), "operation not permitted") {
		return "inside a container, give it --privileged or use --sandbox process there; elsewhere let this user make user namespaces, or run as root"
	}
	for path, cure := range map[string]string{"/bin/bash": "install bash", "/proc/self/exe": "mount /proc", "/dev/null": "mount or make /dev"} {
		if _, e := os.Lstat(path); e != nil {
			return cure
		}
	}
	return "it needs Linux 5.12 or newer with user namespaces, and bash"
}

// handle is what a record says of a sandbox of this driver.
type handle struct {
	agent.Handle
	UID    int         `json:"uid"`
	GID    int         `json:"gid"`
	Group  cgroup.Dirs `json:"group,omitzero"`
	Memory bool        `json:"memory,omitempty"` // the tree is in its memory
}

// Start makes a sandbox.
func (d *Driver) Start(ctx context.Context, spec sandbox.Spec) (_ sandbox.Sandbox, err error) {
	if spec, err = agent.Fill(spec); err != nil {
		return nil, err
	}
	program, err := d.cfg.Program.Or()
	if err != nil {
		return nil, err
	}
	var undo sandbox.Undo
	defer undo.Run(&err)
	h := handle{UID: os.Getuid(), GID: os.Getgid()}
	if h.Memory, err = d.floats(spec); err != nil {
		return nil, err
	}
	if d.power {
		h.UID = d.ids.Take(spec.SessionID)
		h.GID = h.UID
		undo.Add(func() error { d.ids.Release(h.UID); return nil })
	}
	uid, gid := d.owner(h)
	files, err := agent.OpenTree(spec, uid, gid, program)
	if err != nil {
		return nil, err
	}
	undo.Add(func() error { return agent.CloseTree(spec, files) })
	p, err := d.plan(spec, h, program)
	defer p.close()
	if err != nil {
		return nil, err
	}
	group, held, err := d.group(spec)
	if err != nil {
		return nil, err
	}
	undo.Add(func() error { return errors.Join(group.Kill(), group.Remove()) })
	h.Group = group.Dirs
	crash.At("namespaces group")
	undo.Add(func() error { return sandbox.Sweep(spec.Dir) })
	var rec sandbox.Record
	live, err := agent.Start(ctx, agent.Launch{
		Program: program, Dir: spec.Dir, Mounts: p.mounts, Legacy: d.born(group), Sys: d.attributes(spec, h, group),
		Boot: agentwire.Boot{
			Steps: p.steps, Seal: true, Bash: p.bash, Workdir: spec.Workdir,
			Env: agent.Environ(spec, spec.User.Home(), spec.User.Name), RunDir: inside.RunDir,
			OutputBytes: spec.OutputBytes, OrphanTTL: spec.OrphanTTL, Egress: agent.Egress(spec.Network),
			Processes: spec.Limits.PIDs, OpenFiles: spec.Limits.OpenFiles,
		},
		Started: func(proc *agent.Process) error {
			crash.At("namespaces agent")
			h.Handle = proc.Handle
			rec, err = agent.NewRecord(Name, spec, h)
			if err != nil {
				return err
			}
			if err := sandbox.WriteRecord(rec); err != nil {
				return err
			}
			crash.At("namespaces record")
			if err := sandbox.Fault("cgroup enter"); err != nil {
				group.Close()
				if errors.Is(err, sandbox.ErrSkip) {
					return nil
				}
				return err
			}
			if proc.Born {
				group.Close()
				return nil
			}
			return group.Enter(proc.Handle.PID)
		},
	})
	if err != nil {
		return nil, err
	}
	undo.Add(func() error {
		live.Close()
		return errors.Join(live.Process().Kill(), live.Process().Wait(10*time.Second))
	})
	var memory *disk.Memory
	if h.Memory {
		if memory, files, err = d.float(ctx, spec, h, live, files); err != nil {
			return nil, err
		}
	}
	return d.box(live, files, memory, rec, h, group, held), nil
}

// owner is whose the session's files are on the host.
func (d *Driver) owner(h handle) (uid, gid int) {
	if !d.power {
		return -1, -1
	}
	return h.UID, h.GID
}

// born are the v1 cgroups that the agent starts in: to be moved into them later
// takes milliseconds.
func (d *Driver) born(group *cgroup.Group) []string {
	if sandbox.Fault("cgroup enter") != nil {
		return nil
	}
	return group.Dirs.V1()
}

// group makes the session's cgroup.
func (d *Driver) group(spec sandbox.Spec) (*cgroup.Group, []sandbox.Limit, error) {
	limits := spec.Limits
	switch err := sandbox.Fault("cgroup limits"); {
	case errors.Is(err, sandbox.ErrSkip):
		limits = sandbox.Limits{}
	case err != nil:
		return nil, nil, err
	}
	return cgroup.New(sandbox.Label(spec.Dir), limits)
}

func (d *Driver) box(live *agent.Live, files *tree.Tree, memory *disk.Memory, rec sandbox.Record, h handle, group *cgroup.Group, held []sandbox.Limit) *box {
	b := &box{Box: agent.NewBox(live, files, rec, d.end(h, group)), h: h, group: group, tree: files, memory: memory, log: d.log}
	held = append(held, own...)
	if memory != nil {
		held = append(held, sandbox.LimitDisk)
	}
	b.Bound(agent.Bounds{Enforced: held, OOMs: group.OOMs})
	return b
}

// box is a sandbox of this driver.
type box struct {
	*agent.Box
	h      handle
	group  *cgroup.Group
	tree   *tree.Tree
	memory *disk.Memory // has the tree; nil where that is on disk
	log    *slog.Logger

	keeping sync.Mutex
	kept    bool // what was in memory is on disk
}

// Usage is what the session uses.
func (b *box) Usage() cgroup.Usage { return b.group.Usage() }

var (
	_ sandbox.Assignable = (*box)(nil)
	_ sandbox.Prover     = (*box)(nil)
	_ sandbox.Examined   = (*box)(nil)
)

// Assign gives it to a session.
func (b *box) Assign(session, dir string) error { return b.Box.Assign(session, dir, "") }

// Recover takes a sandbox over.
func (d *Driver) Recover(ctx context.Context, rec sandbox.Record) (sandbox.Sandbox, error) {
	var h handle
	if err := json.Unmarshal(rec.Handle, &h); err != nil {
		return nil, agent.Lost(ctx, rec.Spec, err, func(context.Context) error { return agent.ClearGroups(rec.Label) })
	}
	group := cgroup.Open(h.Group)
	memory, proc, unreached := reach(rec.Spec, h)
	live, files, err := agent.Takeover{
		Spec: rec.Spec, Agent: h.Handle, Socket: rec.Spec.Dir,
		Files: func(*agent.Live) (*tree.Tree, error) {
			switch {
			case unreached != nil:
				return nil, unreached
			case h.Memory && memory == nil:
				return nil, errors.New("it was cut off while it started")
			}
			return tree.Open(config(rec.Spec, h, memory))
		},
		End:   d.end(h, group),
		Clear: func(context.Context) error { return errors.Join(group.Kill(), group.Remove()) },
	}.Take(ctx)
	if err != nil {
		if memory != nil {
			return d.rescue(rec, h, group, memory, proc, err)
		}
		return nil, err
	}
	if memory != nil {
		proc.Release()
	}
	if d.power {
		d.ids.Keep(h.UID)
	}
	held, _ := group.Held(rec.Spec.Limits, h.PID)
	return d.box(live, files, memory, rec, h, group, held), nil
}

// end kills the first process; the kernel ends the rest of its namespace
// before that one is gone. The cgroup kills all of them at once.
func (d *Driver) end(h handle, group *cgroup.Group) func(context.Context, *agent.Live) error {
	return func(_ context.Context, l *agent.Live) error {
		_ = group.Kill() // what it leaves is the namespace's to end
		if err := l.Process().Kill(); err != nil {
			return err
		}
		if err := l.Process().Wait(20 * time.Second); err != nil {
			return err
		}
		if d.power {
			d.ids.Release(h.UID)
		}
		return group.Remove()
	}
}

// attributes are the namespaces and the user. Inside there is one user,
// whoever that is outside. The capabilities are those of the new user
// namespace, for the steps; the agent gives them up.
func (d *Driver) attributes(spec sandbox.Spec, h handle, group *cgroup.Group) *syscall.SysProcAttr {
	sys := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
			unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP,
		UidMappings:                []syscall.SysProcIDMap{{ContainerID: spec.User.UID, HostID: h.UID, Size: 1}},
		GidMappings:                []syscall.SysProcIDMap{{ContainerID: spec.User.UID, HostID: h.GID, Size: 1}},
		GidMappingsEnableSetgroups: d.power,
		Credential:                 &syscall.Credential{Uid: uint32(spec.User.UID), Gid: uint32(spec.User.UID), NoSetGroups: !d.power},
		AmbientCaps:                []uintptr{unix.CAP_SETPCAP, unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_SYS_RESOURCE},
	}
	if spec.Network.Mode == sandbox.NetworkHost {
		sys.Cloneflags &^= unix.CLONE_NEWNET
	}
	if fd := group.FD(); fd >= 0 {
		sys.UseCgroupFD, sys.CgroupFD = true, fd
	}
	return sys
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return "Linux " + unix.ByteSliceToString(u.Release[:])
}
