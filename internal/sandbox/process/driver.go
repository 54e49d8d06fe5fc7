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

// Capabilities promise nothing but a shell that outlives its worker, and the
// tree.
func (d *Driver) Capabilities() sandbox.Capabilities {
	return sandbox.Capabilities{Recover: recovers, Tree: true}
}

// tryMounts finds out whether the tree can be shown at its names.
func (d *Driver) tryMounts() bool {
	if d.cfg.Plain || !mountsPossible {
		return false
	}
	trial := &Driver{cfg: d.cfg, log: slog.New(slog.DiscardHandler), mounts: func() bool { return true }}
	err := agent.Try(context.Background(), trial)
	if err != nil {
		d.log.Warn("the session's directories cannot be mounted at their names; bash finds them by BERTH_WORKSPACE and BERTH_OUTPUTS", "err", err)
	}
	return err == nil
}

// handle is what a record says of a sandbox of this driver.
type handle struct {
	agent.Handle
	Group string `json:"group,omitempty"` // its cgroup's directory
}

// Start makes a sandbox that is none.
func (d *Driver) Start(ctx context.Context, spec sandbox.Spec) (_ sandbox.Sandbox, err error) {
	if spec, err = agent.Fill(spec); err != nil {
		return nil, err
	}
	program := d.cfg.Program
	if program == nil {
		if program, err = agent.Find(); err != nil {
			return nil, err
		}
	}
	files, err := tree.Open(tree.Config{Root: spec.Tree, Workdir: spec.Workdir, Share: spec.Share, UID: -1, GID: -1})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			files.Close()
			err = errors.Join(err, sandbox.Sweep(spec.Dir))
		}
	}()
	outputs := filepath.Join(spec.Tree, "mnt/session/outputs")
	if err := os.MkdirAll(outputs, 0o755); err != nil {
		return nil, err
	}
	home, name := whoami()
	boot := agentwire.Boot{
		Bash: bash, Workdir: spec.Workdir, Env: agent.Environ(spec, home, name),
		OutputBytes: spec.OutputBytes, OrphanTTL: spec.OrphanTTL,
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
		boot.Env = append(boot.Env, "BERTH_OUTPUTS="+outputs, "BERTH_WORKSPACE="+boot.Workdir)
	}
	group := newGroup(spec.SessionID)
	defer func() {
		if err != nil {
			group.remove()
		}
	}()
	attr.group = group
	if group.mark != "" {
		boot.Env = append(boot.Env, group.mark)
	}
	var rec sandbox.Record
	live, err := agent.Start(ctx, agent.Launch{
		Program: program, Dir: spec.Dir, Boot: boot, Sys: attr.sys(),
		Started: func(p *agent.Process) error {
			group.started()
			rec, err = agent.NewRecord(Name, spec, handle{Handle: p.Handle, Group: group.dir})
			if err != nil {
				return err
			}
			return sandbox.WriteRecord(rec)
		},
	})
	if err != nil {
		return nil, err
	}
	return agent.NewBox(live, files, rec, end(group)), nil
}

// Recover takes a shell over.
func (d *Driver) Recover(_ context.Context, rec sandbox.Record) (sandbox.Sandbox, error) {
	var h handle
	if err := json.Unmarshal(rec.Handle, &h); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	group := oldGroup(h.Group, rec.SessionID)
	live, err := agent.Recover(rec.Spec.Dir, h.Handle)
	if err != nil {
		if errors.Is(err, sandbox.ErrGone) {
			group.kill()
			group.remove()
			err = errors.Join(err, sandbox.Sweep(rec.Spec.Dir))
		}
		return nil, err
	}
	files, err := tree.Open(tree.Config{Root: rec.Spec.Tree, Workdir: rec.Spec.Workdir, Share: rec.Spec.Share, UID: -1, GID: -1})
	if err != nil {
		live.Close()
		return nil, err
	}
	return agent.NewBox(live, files, rec, end(group)), nil
}

// end has the agent kill what it adopted, and then kills the cgroup, which
// nothing can have left.
func end(g *group) func(context.Context, *agent.Live) error {
	return func(_ context.Context, l *agent.Live) error {
		if err := l.End(); err == nil {
			_ = l.Process().Wait(4 * time.Second) // it may have been stopped from inside
		}
		if err := l.Process().Kill(); err != nil {
			return err
		}
		g.kill()
		if err := l.Process().Wait(5 * time.Second); err != nil {
			return err
		}
		g.remove()
		return nil
	}
}

// whoami is the user's own home and name: nothing is isolated here.
func whoami() (home, name string) {
	u, err := osuser.Current()
	if err != nil {
		return "/", "user"
	}
	return u.HomeDir, u.Username
}
