package gvisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/crash"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/cgroup"
	"github.com/berthdev/berth/internal/sandbox/inside"
	"github.com/berthdev/berth/internal/sandbox/tree"
	"github.com/berthdev/berth/internal/slack"
)

// Driver makes sandboxes with runsc. Safe for concurrent use.
type Driver struct {
	cfg   Config
	log   *slog.Logger
	power bool // this process may map any user and mount what it likes
	ids   agent.Users

	runsc   *runsc // nil where there is none, and then missing says why
	missing error

	probing sync.Mutex
	probed  bool // the probe has been good once
}

var (
	_ sandbox.Driver  = (*Driver)(nil)
	_ sandbox.Cleaner = (*Driver)(nil)
)

// New makes the driver. Whether it works here is for Probe to say.
func New(cfg Config) *Driver {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	d := &Driver{cfg: cfg, log: cfg.Log, power: inside.Powerful()}
	d.runsc, d.missing = findRunsc(cfg.Runsc)
	return d
}

// Name is "gvisor".
func (d *Driver) Name() string { return Name }

// Capabilities says what is enforced.
func (d *Driver) Capabilities() sandbox.Capabilities {
	return sandbox.Capabilities{
		Processes: true, Files: true, Network: true, Privileges: true, Syscalls: true,
		Kernel: true, Recover: true, Tree: true, Images: true, Egress: true, Mounts: true, Users: true, Limits: limits(),
	}
}

// own are the limits that the sentry holds itself.
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

// Probe looks for runsc, asks for its version, starts a sandbox and runs a
// command in it, until that has worked once.
func (d *Driver) Probe(ctx context.Context) sandbox.Probe {
	d.probing.Lock()
	defer d.probing.Unlock()
	const get = "make runsc, or install gVisor's runsc of " + oldest + " or newer on the PATH"
	if d.missing != nil {
		return sandbox.Probe{Reason: d.missing.Error(), Cure: get}
	}
	version, err := d.runsc.check(ctx)
	switch {
	case err != nil:
		return sandbox.Probe{Reason: err.Error(), Cure: get, Version: version}
	case !d.power:
		return sandbox.Probe{Reason: "it needs root, to give each session a user of its own", Cure: "run the worker as root, or use --sandbox namespaces", Version: version}
	}
	p := sandbox.Probe{OK: true, Version: version}
	if d.probed {
		return p
	}
	if err := sandbox.Try(ctx, d, sandbox.Spec{}); err != nil {
		return sandbox.Probe{Reason: "a sandbox cannot be made here: " + err.Error(), Version: version,
			Cure: "inside a container, give it --privileged; else see what `" + d.runsc.path + " --network=none do true` says as root"}
	}
	d.probed = true
	return p
}

// handle is what a record says of a sandbox of this driver: the sentry, which
// is the agent's process as the host sees it, and the file server.
type handle struct {
	agent.Handle
	Gofer agent.Handle `json:"gofer"`
	UID   int          `json:"uid"` // the session's user on the host
	Group cgroup.Dirs  `json:"group,omitzero"`
}

// sentry is the user on the host as which the sentry and the file server run:
// neither the session's nor anybody else's.
func (h handle) sentry() int { return h.UID + agent.UserRange }

// runDir is where all of a sandbox is but its tree and its record.
func runDir(spec sandbox.Spec) string { return filepath.Join(spec.Dir, sandbox.RunDirName) }

// socketDir is where the agent's socket is, in a sandbox's folder.
const socketDir = sandbox.RunDirName + "/door"

// Start makes a sandbox.
func (d *Driver) Start(ctx context.Context, spec sandbox.Spec) (_ sandbox.Sandbox, err error) {
	if spec, err = agent.Fill(spec); err != nil {
		return nil, err
	}
	if d.missing != nil {
		return nil, d.missing
	}
	if _, err := d.runsc.check(ctx); err != nil {
		return nil, err
	}
	switch {
	case !d.power:
		return nil, errors.New("it needs root")
	case spec.Network.Mode == sandbox.NetworkHost:
		return nil, errors.New("the host's own network is nothing that it gives a session; allow hosts, or use --sandbox namespaces")
	}
	program, err := d.cfg.Program.Or()
	if err != nil {
		return nil, err
	}
	var undo sandbox.Undo
	defer undo.Run(&err)
	h := handle{UID: d.ids.Take(spec.SessionID)}
	undo.Add(func() error { d.ids.Release(h.UID); return nil })
	files, err := agent.OpenTree(spec, h.UID, h.UID, program)
	if err != nil {
		return nil, err
	}
	undo.Add(func() error { return agent.CloseTree(spec, files) })
	// The record is there before anything that a crash would leave.
	undo.Add(func() error { return errors.Join(wipe(sandbox.Label(spec.Dir), spec, nil), sandbox.Sweep(spec.Dir)) })
	if _, err := record(spec, h); err != nil {
		return nil, err
	}
	crash.At("gvisor record")
	plan, err := d.prepare(spec, h)
	if err != nil {
		return nil, err
	}
	group, held, err := newGroup(spec)
	if err != nil {
		return nil, err
	}
	undo.Add(func() error { return errors.Join(group.Kill(), killStrays(runDir(spec)), group.Remove()) })
	crash.At("gvisor group")
	h.Group = group.Dirs
	if _, err := record(spec, h); err != nil {
		return nil, err
	}
	sockets := "create"
	if spec.Network.Socket != "" {
		sockets = "all"
	}
	sentry, gofer, err := d.runsc.start(ctx, launch{run: runDir(spec), state: stateDir(sandbox.Label(spec.Dir)), program: program, sockets: sockets, group: group})
	if err != nil {
		return nil, err
	}
	crash.At("gvisor started")
	proc, err := agent.FindProcess(sentry)
	if err != nil {
		return nil, errors.New("the sandbox ended as soon as it began")
	}
	undo.Add(func() error { proc.Release(); return nil })
	h.Handle = proc.Handle
	if server, err := agent.FindProcess(gofer); err == nil {
		h.Gofer = server.Handle
		server.Release()
	}
	rec, err := record(spec, h)
	if err != nil {
		return nil, err
	}
	crash.At("gvisor handle")
	user := spec.User.Filled()
	live, err := agent.Attach(ctx, filepath.Join(spec.Dir, socketDir), agentwire.Boot{
		Steps: plan.steps, Seal: true, Bash: plan.bash, Workdir: spec.Workdir,
		Env: agent.Environ(spec, user.Home(), user.Name), RunDir: inside.RunDir,
		OutputBytes: spec.OutputBytes, OrphanTTL: spec.OrphanTTL, Egress: agent.Egress(spec.Network),
		Processes: spec.Limits.PIDs, OpenFiles: spec.Limits.OpenFiles,
		OwnKernel: true,
	}, proc, func(context.Context) error {
		if proc.Wait(0) == nil {
			return errors.New("the sandbox ended while it started")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slack.Allow(sentry, 0, slack.Late) // a session's sleeps among its timers
	return d.box(live, files, rec, h, group, held), nil
}

func record(spec sandbox.Spec, h handle) (sandbox.Record, error) {
	rec, err := agent.NewRecord(Name, spec, h)
	if err == nil {
		err = sandbox.WriteRecord(rec)
	}
	return rec, err
}

// newGroup makes the session's cgroup. A process of the session is two or three
// of the host's, one that has ended stays one for a while, and the sentry is
// some. Where the sentry gets no more it ends, and the sandbox with it; its own
// count of the session's processes comes first.
func newGroup(spec sandbox.Spec) (*cgroup.Group, []sandbox.Limit, error) {
	limits := spec.Limits
	limits.PIDs = 4*processes(spec) + 256
	switch err := sandbox.Fault("cgroup limits"); {
	case errors.Is(err, sandbox.ErrSkip):
		limits = sandbox.Limits{}
	case err != nil:
		return nil, nil, err
	}
	return cgroup.New(sandbox.Label(spec.Dir), limits)
}

// prepare makes the folder's own part and plans the inside.
func (d *Driver) prepare(spec sandbox.Spec, h handle) (*bundle, error) {
	run := runDir(spec)
	if err := os.RemoveAll(run); err != nil {
		return nil, err
	}
	socket := filepath.Join(spec.Dir, socketDir)
	if err := os.MkdirAll(socket, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chown(socket, h.UID, h.UID); err != nil {
		return nil, err
	}
	b, err := d.newBundle(spec, h, run)
	if err != nil {
		return nil, err
	}
	return b, b.write(filepath.Join(run, "bundle"))
}

// Recover takes a sandbox over.
func (d *Driver) Recover(ctx context.Context, rec sandbox.Record) (sandbox.Sandbox, error) {
	var h handle
	if err := json.Unmarshal(rec.Handle, &h); err != nil {
		return nil, agent.Lost(ctx, rec.Spec, err, func(context.Context) error {
			return errors.Join(agent.ClearGroups(rec.Label), wipe(rec.Label, rec.Spec, nil))
		})
	}
	group := cgroup.Open(h.Group)
	live, files, err := agent.Takeover{
		Spec: rec.Spec, Agent: h.Handle, Socket: filepath.Join(rec.Spec.Dir, socketDir), Files: agent.Reopen(rec.Spec, h.UID, h.UID),
		End:   d.end(h, group),
		Clear: func(context.Context) error { return wipe(rec.Label, rec.Spec, group) },
	}.Take(ctx)
	if err != nil {
		return nil, err
	}
	d.ids.Keep(h.UID)
	held, _ := group.Held(rec.Spec.Limits, h.PID)
	return d.box(live, files, rec, h, group, held), nil
}

// box is a sandbox of this driver.
type box struct {
	*agent.Box
	h     handle
	group *cgroup.Group
}

var (
	_ sandbox.Assignable = (*box)(nil)
	_ sandbox.Prover     = (*box)(nil)
	_ sandbox.Examined   = (*box)(nil)
)

// Assign gives it to a session.
func (b *box) Assign(session, dir string) error { return b.Box.Assign(session, dir, socketDir) }

// Usage is what the session uses, the sentry and the file server included.
func (b *box) Usage() cgroup.Usage { return b.group.Usage() }

func (d *Driver) box(live *agent.Live, files *tree.Tree, rec sandbox.Record, h handle, group *cgroup.Group, held []sandbox.Limit) *box {
	b := &box{Box: agent.NewBox(live, files, rec, d.end(h, group)), h: h, group: group}
	b.Bound(agent.Bounds{Enforced: append(held, own...), OOMs: group.OOMs})
	return b
}

// end ends a sandbox.
func (d *Driver) end(h handle, group *cgroup.Group) func(context.Context, *agent.Live) error {
	return func(_ context.Context, l *agent.Live) error {
		_ = group.Kill() // what it leaves is ended below
		if err := kill(l.Process(), h.Gofer); err != nil {
			return err
		}
		d.ids.Release(h.UID)
		return group.Remove()
	}
}

// endTime bounds the end of a process that was killed.
const endTime = 20 * time.Second

// kill kills the sentry, which is the first of its process namespace: the kernel
// ends the rest before that one is gone. The file server would follow by itself.
func kill(sentry *agent.Process, gofer agent.Handle) error {
	if err := sentry.Kill(); err != nil {
		return err
	}
	server, err := agent.OpenHandle(gofer)
	if err == nil {
		defer server.Release()
		if err := server.Kill(); err != nil {
			return err
		}
	}
	if err := sentry.Wait(endTime); err != nil {
		return err
	}
	if server != nil {
		return server.Wait(endTime)
	}
	return nil
}

func owner(path string) (uid, gid uint32, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", path, err)
	}
	return st.Uid, st.Gid, nil
}
