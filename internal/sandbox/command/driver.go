package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/tree"
)

// Driver makes sandboxes by a command. Safe for concurrent use.
type Driver struct {
	cfg Config
	log *slog.Logger

	mu     sync.Mutex
	probed bool // the probe has been good once
}

var _ sandbox.Driver = (*Driver)(nil)

// New makes the driver. Whether the command leads anywhere is for Probe to say.
func New(cfg Config) *Driver {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Driver{cfg: cfg, log: cfg.Log}
}

// Name is "command".
func (d *Driver) Name() string { return Name }

// Capabilities are what the agent does anywhere: what isolates is the command's.
func (d *Driver) Capabilities() sandbox.Capabilities {
	return sandbox.Capabilities{Limits: own}
}

// own are the limits that hold wherever the command leads.
var own = []sandbox.Limit{sandbox.LimitOpenFiles, sandbox.LimitCallTime, sandbox.LimitSessionTime}

// Probe goes where the command leads and runs a command there, until that has
// worked once.
func (d *Driver) Probe(ctx context.Context) sandbox.Probe {
	if strings.TrimSpace(d.cfg.Command) == "" {
		return sandbox.Probe{Reason: "no command is named", Cure: "give one with --sandbox-command, such as 'ssh host sh'"}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.probed {
		return sandbox.Probe{OK: true}
	}
	if err := sandbox.Try(ctx, d, sandbox.Spec{}); err != nil {
		why, _, _ := strings.Cut(err.Error(), "\n")
		return sandbox.Probe{Reason: why, Cure: "try the command by hand: its standard input and output must be those of a shell, with bash beside it"}
	}
	d.probed = true
	return sandbox.Probe{OK: true}
}

// Start makes a sandbox.
func (d *Driver) Start(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	spec, err := agent.Fill(spec)
	if err != nil {
		return nil, err
	}
	switch {
	case spec.Share != "":
		return nil, errors.New("a directory of this machine cannot be shared with what a command leads to")
	case len(spec.Mounts) > 0:
		return nil, errors.New("directories of this machine cannot be shown to what a command leads to")
	case spec.Image != nil:
		return nil, errors.New("the image is the command's to choose")
	case spec.Network.Mode == sandbox.NetworkAllow:
		return nil, errors.New("what a command leads to cannot be given the proxy")
	}
	words, err := Words(d.cfg.Command)
	if err != nil {
		return nil, err
	}
	program, err := d.cfg.Program.Or()
	if err != nil {
		return nil, err
	}
	rec, err := agent.NewRecord(Name, spec, struct{}{})
	if err == nil {
		err = sandbox.WriteRecord(rec)
	}
	if err != nil {
		return nil, err
	}
	b, err := d.start(ctx, fill(words, spec), program, rec)
	if err != nil {
		return nil, errors.Join(err, sandbox.Sweep(spec.Dir))
	}
	return b, nil
}

// start runs the command, sends the agent over and boots it. On error the
// command has ended.
func (d *Driver) start(ctx context.Context, words []string, program *agent.Program, rec sandbox.Record) (*box, error) {
	p, err := run(words)
	if err != nil {
		return nil, err
	}
	undo := func(err error) error {
		p.end(time.Second)
		if said := p.said(); said != "" {
			return fmt.Errorf("%w (%s said: %s)", err, words[0], said)
		}
		return err
	}
	far, err := p.cross(ctx, program)
	if err != nil {
		return nil, undo(err)
	}
	spec := rec.Spec
	boot := agentwire.Boot{
		Bash: far.bash, Workdir: spec.Workdir, Env: environ(spec, far), RunDir: far.dir + "/run",
		OutputBytes: spec.OutputBytes, OrphanTTL: spec.OrphanTTL, OpenFiles: spec.Limits.OpenFiles, Places: agent.Places(spec),
	}
	for _, dir := range append(agent.Places(spec), spec.Workdir, outputs) {
		boot.Steps = append(boot.Steps, agentwire.Step{Kind: agentwire.StepDir, Target: dir, Mode: 0o755, Optional: true})
	}
	live, err := agent.Over(ctx, p, boot)
	if err != nil {
		return nil, undo(err)
	}
	files, err := tree.Over(live, agent.Tree(spec, -1, -1))
	if err != nil {
		live.Close()
		return nil, undo(fmt.Errorf("at the far side: %w; choose another --workdir", err))
	}
	b := &box{pings: make(chan struct{})}
	b.Box = agent.NewBox(live, files, rec, func(ctx context.Context, l *agent.Live) error {
		missing, err := fetchOutputs(ctx, spec, files, cmp.Or(d.cfg.FetchTime, fetchTime), l.Close)
		if err != nil {
			d.log.Warn("outputs could not be fetched", "session", spec.SessionID, "err", err)
		}
		if err := sandbox.WriteUnfetched(spec.Dir, missing); err != nil {
			d.log.Warn("outputs could not all be fetched", "session", spec.SessionID, "missing", len(missing), "err", err)
		}
		close(b.pings)
		b.wait.Wait()
		_ = l.End()
		p.end(endTime)
		return nil
	})
	b.Bound(agent.Bounds{Enforced: own})
	b.wait.Go(func() { b.ping(live, spec.OrphanTTL/3) })
	return b, nil
}

// outputs is where a session's outputs are.
const outputs = "/mnt/session/outputs"

// endTime is how long a command may take to end by itself.
const endTime = 5 * time.Second

// Recover takes over nothing: the pipe ended with the process that had it, and
// the agent with the pipe.
func (d *Driver) Recover(_ context.Context, rec sandbox.Record) (sandbox.Sandbox, error) {
	lost := sandbox.Unfetched{Name: []byte("."), Reason: "the worker ended before it had fetched what was left at the far side"}
	return nil, errors.Join(sandbox.ErrGone, sandbox.WriteUnfetched(rec.Spec.Dir, []sandbox.Unfetched{lost}), sandbox.Sweep(rec.Spec.Dir))
}

// environ is the tools' environment: the far side's own way to programs and
// its home, and nothing else of it.
func environ(spec sandbox.Spec, f far) []string {
	vars := map[string]string{"PATH": f.path, "SHELL": f.bash}
	for k, v := range spec.Env {
		vars[k] = v
	}
	spec.Env = vars
	return agent.Environ(spec, f.home, f.user)
}

// box is a session at the far side.
type box struct {
	*agent.Box
	pings chan struct{} // closed to end ping
	wait  sync.WaitGroup
}

// ping tells the agent that the pipe leads somewhere, until pings is closed.
func (b *box) ping(l *agent.Live, every time.Duration) {
	t := time.NewTicker(max(every, time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if l.Ping() != nil {
				return
			}
		case <-b.pings:
			return
		}
	}
}
