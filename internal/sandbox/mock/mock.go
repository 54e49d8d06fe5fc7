// Package mock is a sandbox driver with knobs, for tests of what sits on top:
// start slowly, fail, hang, exit 7. Its shell runs no command; a function
// plays it, by default one that knows a handful.
package mock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/tree"
	"github.com/berthdev/berth/toolset"
)

// Name is the driver's, in records.
const Name = "mock"

// Knobs turn the driver. The zero value behaves well.
type Knobs struct {
	// Probe is the answer of Probe; nil is a good one.
	Probe *sandbox.Probe
	// StartAfter holds every Start back until it is closed or the caller
	// gives up; nil does not.
	StartAfter <-chan struct{}
	// StartError fails every Start, StopError every Stop.
	StartError, StopError error
	// AssignError fails every Assign.
	AssignError error
	// Die ends a sandbox after so many commands: later ones are errors of the
	// host. 0 never does.
	Die int
	// Play is the shell; nil is Play.
	Play func(ctx context.Context, c toolset.Command) toolset.Result
}

// Driver is a mock driver. Safe for concurrent use.
type Driver struct {
	knobs Knobs

	mu     sync.Mutex
	live   map[string]*box // by Spec.Dir
	killed map[*box]bool
	log    []string
}

var _ sandbox.Driver = (*Driver)(nil)

// New makes a driver.
func New(k Knobs) *Driver {
	if k.Play == nil {
		k.Play = Play
	}
	return &Driver{knobs: k, live: map[string]*box{}}
}

// Play is the default shell. It knows "true", "false", "echo TEXT", "exit N",
// "sleep SECONDS", which ends early when it is interrupted, and "hang", which
// only ends so or at its limit.
func Play(ctx context.Context, c toolset.Command) toolset.Result {
	name, rest, _ := strings.Cut(c.Text, " ")
	switch name {
	case "true":
		return toolset.Result{End: toolset.Exited}
	case "false":
		return toolset.Result{End: toolset.Exited, ExitCode: 1}
	case "echo":
		return toolset.Result{End: toolset.Exited, Head: []byte(rest + "\n")}
	case "exit":
		n, _ := strconv.Atoi(rest)
		return toolset.Result{End: toolset.ShellExited, ExitCode: n}
	case "sleep", "hang":
		d := time.Duration(1<<63 - 1)
		if s, err := strconv.ParseFloat(rest, 64); err == nil && name == "sleep" {
			d = time.Duration(s * float64(time.Second))
		}
		limit := c.Timeout
		if limit <= 0 {
			limit = 120 * time.Second
		}
		t := time.NewTimer(min(d, limit))
		defer t.Stop()
		select {
		case <-t.C:
			if d > limit {
				return toolset.Result{End: toolset.TimedOut, Elapsed: limit}
			}
			return toolset.Result{End: toolset.Exited, Elapsed: d}
		case <-ctx.Done():
			return toolset.Result{End: toolset.Interrupted}
		}
	}
	return toolset.Result{End: toolset.Exited, ExitCode: 127, Head: []byte("bash: " + name + ": command not found\n")}
}

// Log is what was asked of the driver and its sandboxes, in order.
func (d *Driver) Log() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.log...)
}

// Live is how many sandboxes live.
func (d *Driver) Live() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.live)
}

// Kill has every sandbox that lives now answer nothing any more.
func (d *Driver) Kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.killed = map[*box]bool{}
	for _, b := range d.live {
		d.killed[b] = true
	}
}

func (d *Driver) dead(b *box) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.killed[b]
}

func (d *Driver) note(format string, args ...any) {
	d.mu.Lock()
	d.log = append(d.log, fmt.Sprintf(format, args...))
	d.mu.Unlock()
}

// Name is "mock".
func (d *Driver) Name() string { return Name }

// Probe is as the knob says.
func (d *Driver) Probe(context.Context) sandbox.Probe {
	if d.knobs.Probe != nil {
		return *d.knobs.Probe
	}
	return sandbox.Probe{OK: true, Version: "mock"}
}

// Capabilities promise no isolation.
func (d *Driver) Capabilities() sandbox.Capabilities {
	return sandbox.Capabilities{Recover: true, Tree: true}
}

// Start makes a sandbox on the session's tree.
func (d *Driver) Start(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	d.note("start %s", spec.SessionID)
	if d.knobs.StartAfter != nil {
		select {
		case <-d.knobs.StartAfter:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if d.knobs.StartError != nil {
		return nil, d.knobs.StartError
	}
	if spec.Workdir == "" {
		spec.Workdir = "/workspace"
	}
	files, err := tree.Open(agent.Tree(spec, -1, -1))
	if err != nil {
		return nil, err
	}
	rec := sandbox.Record{Driver: Name, Label: sandbox.Label(spec.Dir), SessionID: spec.SessionID, Spec: spec, Handle: []byte(`{}`), StartedAt: time.Now().UTC()}
	if err := sandbox.WriteRecord(rec); err != nil {
		files.Close()
		return nil, err
	}
	b := &box{driver: d, files: files, rec: rec, turn: make(chan struct{}, 1), over: make(chan struct{}), results: map[string]toolset.Result{}}
	d.mu.Lock()
	d.live[spec.Dir] = b
	d.mu.Unlock()
	return b, nil
}

// Recover gives a sandbox that this driver, or one that shares its memory,
// has started and not stopped.
func (d *Driver) Recover(_ context.Context, rec sandbox.Record) (sandbox.Sandbox, error) {
	d.note("recover %s", rec.SessionID)
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.live[rec.Spec.Dir]
	if b == nil {
		return nil, sandbox.ErrGone
	}
	return b, nil
}

// box is a mock sandbox.
type box struct {
	driver *Driver
	files  *tree.Tree
	rec    sandbox.Record
	turn   chan struct{}
	over   chan struct{} // closed by Stop

	mu      sync.Mutex
	ran     int
	results map[string]toolset.Result
	cancel  context.CancelFunc // of the running command
	stopped bool
}

var errStopped = fmt.Errorf("mock: %w", sandbox.ErrGone)

// Bash plays a command; a repeated id gets the first one's result.
func (b *box) Bash(ctx context.Context, c toolset.Command) (toolset.Result, error) {
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
	case <-ctx.Done():
		return toolset.Result{End: toolset.Interrupted}, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b.mu.Lock()
	if b.stopped || b.driver.knobs.Die > 0 && b.ran >= b.driver.knobs.Die {
		b.mu.Unlock()
		return toolset.Result{}, errStopped
	}
	if r, ok := b.results[c.ID]; ok && c.ID != "" {
		b.mu.Unlock()
		return r, nil
	}
	b.ran++
	b.cancel = cancel
	b.mu.Unlock()
	b.driver.note("bash %s %s", c.ID, c.Text)
	stop := make(chan struct{})
	go func() {
		select {
		case <-b.over:
			cancel()
		case <-stop:
		}
	}()
	r := b.driver.knobs.Play(ctx, c)
	close(stop)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cancel = nil
	if b.stopped {
		return toolset.Result{}, errStopped
	}
	b.results[c.ID] = r
	return r, nil
}

// Restart interrupts the running command.
func (b *box) Restart(context.Context) error {
	b.driver.note("restart %s", b.rec.SessionID)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return errStopped
	}
	if b.cancel != nil {
		b.cancel()
	}
	return nil
}

func (b *box) Files() toolset.Files { return b.files }
func (b *box) Workdir() string      { return b.rec.Spec.Workdir }

// Record is what Recover needs.
func (b *box) Record() sandbox.Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rec
}

// Alive says whether commands still work.
func (b *box) Alive() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped || b.driver.dead(b) {
		return errStopped
	}
	return nil
}

// Assign gives the sandbox to a session.
func (b *box) Assign(session, dir string) error {
	if err := b.driver.knobs.AssignError; err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.rec.Spec.Dir
	b.driver.note("assign %s %s", b.rec.SessionID, session)
	if since, err := sandbox.Taken(old); err == nil {
		b.rec.StartedAt = since
	}
	if err := os.Rename(old, dir); err != nil {
		return err
	}
	b.rec.SessionID, b.rec.Spec.SessionID, b.rec.Spec.Dir, b.rec.Spec.Tree = session, session, dir, filepath.Join(dir, "tree")
	b.driver.mu.Lock()
	delete(b.driver.live, old)
	b.driver.live[dir] = b
	b.driver.mu.Unlock()
	return nil
}

// Stop ends the sandbox.
func (b *box) Stop(context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return nil
	}
	b.driver.note("stop %s", b.rec.SessionID)
	if err := b.driver.knobs.StopError; err != nil {
		return err
	}
	b.stopped = true
	close(b.over)
	b.driver.mu.Lock()
	delete(b.driver.live, b.rec.Spec.Dir)
	b.driver.mu.Unlock()
	return errors.Join(b.files.Close(), sandbox.Sweep(b.rec.Spec.Dir))
}
