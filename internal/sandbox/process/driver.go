package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	osuser "os/user"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/crash"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/cgroup"
	"github.com/berthdev/berth/internal/sandbox/tree"
)

// Driver runs shells on the host. Safe for concurrent use.
type Driver struct {
	cfg Config
	log *slog.Logger

	mounts func() bool // whether mounts of our own work here; asks once
}

var _ sandbox.Driver = (*Driver)(nil)

// New makes the driver.
func New(cfg Config) *Driver {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	d := &Driver{cfg: cfg, log: cfg.Log}
	d.mounts = sync.OnceValue(d.tryMounts)
	return d
}

// Name is "process".
func (d *Driver) Name() string { return Name }

// Probe needs nothing but bash.
func (d *Driver) Probe(context.Context) sandbox.Probe {
	if _, err := os.Stat(bash); err != nil {
		return sandbox.Probe{Reason: bash + " is missing", Cure: "install bash"}
	}
	return sandbox.Probe{OK: true, Version: "no isolation"}
}

const bash = "/bin/bash"

// Capabilities promise nothing but a shell that outlives its worker, the tree,
// and limits.
func (d *Driver) Capabilities() sandbox.Capabilities {
	return sandbox.Capabilities{Recover: recovers, Tree: true, View: mayView(),
		Limits: append(cgroup.Enforces(), sandbox.LimitOpenFiles, sandbox.LimitCallTime, sandbox.LimitSessionTime)}
}

// Leftovers are the cgroups of sandboxes that are gone.
func (d *Driver) Leftovers(_ context.Context, live func(name string) bool) ([]sandbox.Leftover, error) {
	return cgroup.Stale(live)
}

// tryMounts finds out whether the tree can be shown at its names.
func (d *Driver) tryMounts() bool {
	if d.cfg.Plain || !mountsPossible {
		return false
	}
	trial := &Driver{cfg: d.cfg, log: slog.New(slog.DiscardHandler), mounts: func() bool { return true }}
	err := sandbox.Try(context.Background(), trial, sandbox.Spec{})
	if err != nil {
		d.log.Warn("the session's directories cannot be mounted at their names; bash finds them by BERTH_WORKSPACE, BERTH_OUTPUTS and BERTH_MEMORY", "err", err)
	}
	return err == nil
}

// handle is what a record says of a sandbox of this driver.
type handle struct {
	agent.Handle
	Group cgroup.Dirs `json:"group,omitzero"`
	User  int         `json:"user,omitempty"` // see Config.User
}

// owner is whose the session's files are: a user's, or whoever makes them.
func owner(user int) int {
	if user == 0 {
		return -1
	}
	return user
}

// Start makes a sandbox that is none.
func (d *Driver) Start(ctx context.Context, spec sandbox.Spec) (_ sandbox.Sandbox, err error) {
	program, err := d.cfg.Program.Or()
	if err != nil {
		return nil, err
	}
	var undo sandbox.Undo
	defer undo.Run(&err)
	p, err := d.prepare(spec, program, sandbox.Label(spec.Dir))
	if err != nil {
		return nil, err
	}
	undo.Add(p.undo)
	group, held, err := cgroup.New(sandbox.Label(spec.Dir), spec.Limits)
	if err != nil {
		return nil, err
	}
	undo.Add(func() error { return errors.Join(group.Kill(), group.Remove()) })
	crash.At("process group")
	p.boot.Renews = p.boot.Renews && !group.Dirs.None()
	attr := attributes{user: d.cfg.User, mounts: d.mounts(), later: p.boot.Renews, group: group}
	var rec sandbox.Record
	live, err := agent.Start(ctx, agent.Launch{
		Program: program, Dir: spec.Dir, Boot: p.boot, Sys: attr.sys(),
		Started: func(proc *agent.Process) error {
			crash.At("process agent")
			rec, err = agent.NewRecord(Name, p.spec, handle{Handle: proc.Handle, Group: group.Dirs, User: d.cfg.User})
			if err != nil {
				return err
			}
			if err := sandbox.WriteRecord(rec); err != nil {
				return err
			}
			crash.At("process handle")
			return group.Enter(proc.Handle.PID)
		},
	})
	if err != nil {
		return nil, err
	}
	h := hold{group: group, limits: held}
	if p.boot.Renews {
		h.settings = group.Settings()
	}
	return d.box(live, p.files, rec, h), nil
}

// place is a session's files and what an agent has to make of them.
type place struct {
	spec  sandbox.Spec
	files *tree.Tree
	boot  agentwire.Boot
}

func (p *place) undo() error {
	return errors.Join(agent.CloseTree(p.spec, p.files), sandbox.Sweep(p.spec.Dir))
}

// prepare makes the place of a sandbox that bears a label. On error nothing is
// left.
func (d *Driver) prepare(spec sandbox.Spec, program *agent.Program, label string) (_ *place, err error) {
	if spec, err = agent.Fill(spec); err != nil {
		return nil, err
	}
	if spec.Network.Mode == sandbox.NetworkAllow {
		return nil, errors.New("nothing keeps a shell on the host to the hosts that its policy allows; use another --sandbox, or network: host")
	}
	files, err := agent.OpenTree(spec, owner(d.cfg.User), owner(d.cfg.User), program)
	if err != nil {
		return nil, err
	}
	p := &place{spec: spec, files: files}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.undo())
		}
	}()
	if err := makeHome(spec, d.cfg.User); err != nil {
		return nil, err
	}
	home, name := d.whoami(spec)
	p.boot = agentwire.Boot{
		Bash: bash, Workdir: spec.Workdir, Env: append(agent.Environ(spec, home, name), mark(label)),
		OutputBytes: spec.OutputBytes, OrphanTTL: spec.OrphanTTL, OpenFiles: spec.Limits.OpenFiles,
		Seal: d.cfg.User != 0, Processes: spec.Limits.PIDs, RunDir: runDir,
	}
	if d.mounts() {
		p.boot.Renews = d.renews(spec)
		p.boot.Steps, err = mountPlan(spec)
		return p, err
	}
	p.boot.RunDir = filepath.Join(spec.Dir, sandbox.RunDirName)
	if err := d.admit(spec, p.boot.RunDir); err != nil {
		return nil, err
	}
	p.boot.Workdir = filepath.Join(spec.Tree, spec.Workdir)
	if spec.Share != "" {
		p.boot.Workdir = spec.Share
	}
	p.boot.Env = append(p.boot.Env, "BERTH_OUTPUTS="+filepath.Join(spec.Tree, "mnt/session/outputs"), "BERTH_WORKSPACE="+p.boot.Workdir, "BERTH_MEMORY="+filepath.Join(spec.Tree, "mnt/memory"))
	return p, nil
}

// renews says whether the agent can make a session's mounts after another's: it
// keeps what that takes, and a disk must be free when its session ends.
func (d *Driver) renews(spec sandbox.Spec) bool {
	return d.cfg.User == 0 && mayReturn() && spec.Limits.Disk == 0 && spec.View == ""
}

// hold is what holds a sandbox.
type hold struct {
	group    *cgroup.Group
	limits   []sandbox.Limit // that hold
	settings string          // of the group before any session; "" where there will be one only
}

// box is a sandbox of this driver, held to its limits.
func (d *Driver) box(live *agent.Live, files *tree.Tree, rec sandbox.Record, h hold) sandbox.Sandbox {
	b := agent.NewBox(live, files, rec, end(h.group, mark(rec.Label)))
	b.Bound(agent.Bounds{Enforced: append([]sandbox.Limit{sandbox.LimitOpenFiles}, h.limits...), OOMs: h.group.OOMs})
	switch {
	case !d.mounts(): // the shell knows its directories by their paths on the host
		return b
	case h.settings != "":
		return &renewable{mounted{b}, d, h}
	}
	return &mounted{b}
}

// mounted is a sandbox whose shell does not know where its folder is.
type mounted struct{ *agent.Box }

// Assign gives it to a session.
func (m *mounted) Assign(session, dir string) error { return m.Box.Assign(session, dir, "") }

// renewable is one whose agent and group another sandbox can have after it.
type renewable struct {
	mounted
	driver *Driver
	hold
}

var (
	_ sandbox.Assignable = (*mounted)(nil)
	_ sandbox.Renewable  = (*renewable)(nil)
)

// Renew gives agent and group to a sandbox by spec.
func (r *renewable) Renew(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	return r.Box.Renew(func(l *agent.Live, rec sandbox.Record) (sandbox.Sandbox, error) { return r.renew(ctx, l, rec, spec) })
}

// renew makes the new sandbox. Its record is there before it has the agent's
// socket: whichever of the two a crash leaves, it names the group.
func (r *renewable) renew(ctx context.Context, l *agent.Live, old sandbox.Record, spec sandbox.Spec) (_ sandbox.Sandbox, err error) {
	var undo sandbox.Undo
	defer undo.Run(&err)
	program, err := r.driver.cfg.Program.Or()
	if err != nil {
		return nil, err
	}
	p, err := r.driver.prepare(spec, program, old.Label)
	if err != nil {
		return nil, err
	}
	undo.Add(p.undo)
	if !p.boot.Renews {
		return nil, errors.New("it cannot be renewed")
	}
	rec := old
	rec.SessionID, rec.Spec, rec.StartedAt = p.spec.SessionID, p.spec, time.Now().UTC()
	if err := sandbox.WriteRecord(rec); err != nil {
		return nil, err
	}
	crash.At("process record")
	if err := os.Rename(sandbox.SocketPath(old.Spec.Dir), sandbox.SocketPath(p.spec.Dir)); err != nil {
		return nil, err
	}
	crash.At("process socket")
	live, err := l.Renew(ctx, p.spec.Dir, p.boot)
	if err != nil {
		return nil, err
	}
	undo.Add(func() error { live.Close(); return nil })
	crash.At("process renewed")
	if err := r.clean(p.spec.Limits, live.Process().Handle.PID); err != nil {
		return nil, err
	}
	return r.driver.box(live, p.files, rec, r.hold), nil
}

// sharedPart is the part of its memory that a session may leave to the next in
// files of the host that are in memory.
const sharedPart = 32

// clean says why the group is not one for another session: one that is root may
// have changed what holds it, or have moved into it what does not descend from
// the agent.
func (r *renewable) clean(l sandbox.Limits, agent int) error {
	const shell = 1
	switch {
	case r.group.Settings() != r.settings:
		return errors.New("its group is not what it was")
	case !r.group.Only(agent, shell):
		return errors.New("its group has other processes than its own")
	case l.Memory > 0 && r.group.Shared() > l.Memory/sharedPart:
		return errors.New("files in memory that it has left count as its group's")
	}
	return nil
}

// mark is a variable that the sandbox's processes have and no other's.
func mark(label string) string { return "BERTH_SANDBOX=" + label }

// Recover takes a shell over.
func (d *Driver) Recover(ctx context.Context, rec sandbox.Record) (sandbox.Sandbox, error) {
	var h handle
	if err := json.Unmarshal(rec.Handle, &h); err != nil {
		return nil, agent.Lost(ctx, rec.Spec, err, func(context.Context) error {
			killMarked(mark(rec.Label))
			return agent.ClearGroups(rec.Label)
		})
	}
	group := cgroup.Open(h.Group)
	live, files, err := agent.Takeover{
		Spec: rec.Spec, Agent: h.Handle, Socket: rec.Spec.Dir, Files: agent.Reopen(rec.Spec, owner(h.User), owner(h.User)),
		End: end(group, mark(rec.Label)),
		Clear: func(context.Context) error {
			killAll(group, mark(rec.Label))
			return group.Remove()
		},
	}.Take(ctx)
	if err != nil {
		return nil, err
	}
	held, _ := group.Held(rec.Spec.Limits, h.PID)
	return d.box(live, files, rec, hold{group: group, limits: held}), nil
}

// end has the agent kill what it adopted, and then kills the cgroup, which
// nothing can have left.
func end(g *cgroup.Group, mark string) func(context.Context, *agent.Live) error {
	return func(_ context.Context, l *agent.Live) error {
		if err := l.End(); err == nil {
			_ = l.Process().Wait(4 * time.Second) // it may have been stopped from inside
		}
		if err := l.Process().Kill(); err != nil {
			return err
		}
		killAll(g, mark)
		if err := l.Process().Wait(20 * time.Second); err != nil {
			return err
		}
		return g.Remove()
	}
}

// killAll kills what is in the group and, where there is none, what bears the
// mark.
func killAll(g *cgroup.Group, mark string) {
	if g.Dirs.None() {
		killMarked(mark)
		return
	}
	_ = g.Kill() // Remove says what is left
}

// homeName is the home of tools that are another user, in the session's /tmp.
const homeName = "tmp/home"

// makeHome makes it, unless something has the name: that is the session's.
func makeHome(spec sandbox.Spec, user int) error {
	if user == 0 {
		return nil
	}
	home := filepath.Join(spec.Tree, homeName)
	err := os.Mkdir(home, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	f, err := os.OpenFile(home, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Chown(user, user)
}

// admit lets the tools' user into what it has of the host's directories, where
// those are not shown to it elsewhere.
func (d *Driver) admit(spec sandbox.Spec, run string) error {
	if d.cfg.User == 0 {
		return nil
	}
	if err := os.Mkdir(run, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Chown(run, d.cfg.User, d.cfg.User); err != nil {
		return err
	}
	// It may pass, and not list; the session's folder is for no other user.
	if err := os.Chown(spec.Dir, -1, d.cfg.User); err != nil {
		return err
	}
	if err := os.Chmod(spec.Dir, 0o710); err != nil {
		return err
	}
	if err := os.Chmod(filepath.Dir(spec.Dir), 0o711); err != nil {
		return err
	}
	for dir := spec.Tree; dir != "/"; dir = filepath.Dir(dir) {
		if dir == spec.Dir {
			continue
		}
		st, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if st.Mode()&0o001 == 0 {
			return fmt.Errorf("the tools' user %d cannot pass %s on its way to the session's files; choose another --state-dir, or --tool-user root", d.cfg.User, dir)
		}
	}
	return nil
}

// whoami is the tools' home and name.
func (d *Driver) whoami(spec sandbox.Spec) (home, name string) {
	if d.cfg.User != 0 {
		if d.mounts() {
			return "/" + homeName, "agent"
		}
		return filepath.Join(spec.Tree, homeName), "agent"
	}
	u, err := osuser.Current()
	if err != nil {
		return "/", "user"
	}
	return u.HomeDir, u.Username
}
