package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	osuser "os/user"
	"path/filepath"
	"sync"
	"time"

	"github.com/berthdev/berth/internal/agentwire"
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
	err := agent.Try(context.Background(), trial)
	if err != nil {
		d.log.Warn("the session's directories cannot be mounted at their names; bash finds them by BERTH_WORKSPACE, BERTH_OUTPUTS and BERTH_MEMORY", "err", err)
	}
	return err == nil
}

// handle is what a record says of a sandbox of this driver.
type handle struct {
	agent.Handle
	Group cgroup.Dirs `json:"group,omitzero"`
}

// Start makes a sandbox that is none.
func (d *Driver) Start(ctx context.Context, spec sandbox.Spec) (_ sandbox.Sandbox, err error) {
	if spec, err = agent.Fill(spec); err != nil {
		return nil, err
	}
	if spec.Network.Mode == sandbox.NetworkAllow {
		return nil, errors.New("nothing keeps a shell on the host to the hosts that its policy allows; use another --sandbox, or network: host")
	}
	program, err := d.cfg.Program.Or()
	if err != nil {
		return nil, err
	}
	var undo sandbox.Undo
	defer undo.Run(&err)
	files, err := agent.OpenTree(spec, -1, -1, program)
	if err != nil {
		return nil, err
	}
	undo.Add(func() error { return errors.Join(agent.CloseTree(spec, files), sandbox.Sweep(spec.Dir)) })
	home, name := whoami()
	boot := agentwire.Boot{
		Bash: bash, Workdir: spec.Workdir, Env: agent.Environ(spec, home, name),
		OutputBytes: spec.OutputBytes, OrphanTTL: spec.OrphanTTL, OpenFiles: spec.Limits.OpenFiles,
	}
	var attr attributes
	if d.mounts() {
		if boot.Steps, err = mountPlan(spec); err != nil {
			return nil, err
		}
		boot.RunDir = runDir
		attr.mounts = true
	} else {
		boot.RunDir = filepath.Join(spec.Dir, sandbox.RunDirName)
		if spec.Share != "" {
			boot.Workdir = spec.Share
		} else {
			boot.Workdir = filepath.Join(spec.Tree, spec.Workdir)
		}
		boot.Env = append(boot.Env, "BERTH_OUTPUTS="+filepath.Join(spec.Tree, "mnt/session/outputs"), "BERTH_WORKSPACE="+boot.Workdir, "BERTH_MEMORY="+filepath.Join(spec.Tree, "mnt/memory"))
	}
	boot.Env = append(boot.Env, mark(sandbox.Label(spec.Dir)))
	group, held, err := cgroup.New(sandbox.Label(spec.Dir), spec.Limits)
	if err != nil {
		return nil, err
	}
	undo.Add(func() error { return errors.Join(group.Kill(), group.Remove()) })
	attr.group = group
	var rec sandbox.Record
	live, err := agent.Start(ctx, agent.Launch{
		Program: program, Dir: spec.Dir, Boot: boot, Sys: attr.sys(),
		Started: func(p *agent.Process) error {
			rec, err = agent.NewRecord(Name, spec, handle{Handle: p.Handle, Group: group.Dirs})
			if err != nil {
				return err
			}
			if err := sandbox.WriteRecord(rec); err != nil {
				return err
			}
			return group.Enter(p.Handle.PID)
		},
	})
	if err != nil {
		return nil, err
	}
	return d.box(live, files, rec, group, held), nil
}

// box is a sandbox of this driver, held to its limits.
func (d *Driver) box(live *agent.Live, files *tree.Tree, rec sandbox.Record, group *cgroup.Group, held []sandbox.Limit) sandbox.Sandbox {
	b := agent.NewBox(live, files, rec, end(group, mark(rec.Label)))
	b.Bound(agent.Bounds{Enforced: append(held, sandbox.LimitOpenFiles), OOMs: group.OOMs})
	if !d.mounts() { // the shell knows its directories by their paths on the host
		return b
	}
	return &mounted{b}
}

// mounted is a sandbox whose shell does not know where its folder is.
type mounted struct{ *agent.Box }

var _ sandbox.Assignable = (*mounted)(nil)

// Assign gives it to a session.
func (m *mounted) Assign(session, dir string) error { return m.Box.Assign(session, dir, "") }

// mark is a variable that the sandbox's processes have and no other's.
func mark(label string) string { return "BERTH_SANDBOX=" + label }

// Recover takes a shell over.
func (d *Driver) Recover(ctx context.Context, rec sandbox.Record) (sandbox.Sandbox, error) {
	var h handle
	if err := json.Unmarshal(rec.Handle, &h); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	group := cgroup.Open(h.Group)
	live, files, err := agent.Takeover{
		Spec: rec.Spec, Agent: h.Handle, Socket: rec.Spec.Dir, Files: agent.Reopen(rec.Spec, -1, -1),
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
	return d.box(live, files, rec, group, held), nil
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
		if err := l.Process().Wait(5 * time.Second); err != nil {
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

// whoami is the user's own home and name: nothing is isolated here.
func whoami() (home, name string) {
	u, err := osuser.Current()
	if err != nil {
		return "/", "user"
	}
	return u.HomeDir, u.Username
}
