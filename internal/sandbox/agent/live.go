package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

const (
	// bootTime bounds the agent's start.
	bootTime = 30 * time.Second
	// dialTime bounds coming back to an agent that is there.
	dialTime = 5 * time.Second
	// takeTime bounds coming back to one of an earlier process: it may still be
	// ending what that one's last command has started.
	takeTime = 45 * time.Second
	// killTime is how long an interrupted command may take to be gone.
	killTime = 15 * time.Second
	// defaultLimit is the agent's for a command that names none.
	defaultLimit = 120 * time.Second
	// lateTime is how long an agent may be late with what it was to do by
	// itself, before it counts as stuck: it may have been stopped from inside.
	lateTime = 30 * time.Second
	// busyPause lies between two tries while the command of an earlier
	// supervisor still runs.
	busyPause = 50 * time.Millisecond
)

// errStopped is the answer of a sandbox that was stopped.
var errStopped = fmt.Errorf("it was stopped: %w", sandbox.ErrGone)

// Live is a running agent. It fulfils toolset.Shell. Safe for concurrent use.
type Live struct {
	proc *Process
	turn chan struct{} // held by the command that runs; waiters come first in, first out
	late time.Duration // lateTime, shorter in tests

	mu      sync.Mutex
	dir     string // holds the socket
	conn    *conn  // nil before the first use of a recovered agent and after a loss
	pipe    bool   // the connection is the only one there will ever be
	asked   uint64 // file operations so far
	stopped bool
}

// Moved says that the folder with the agent's socket was renamed.
func (l *Live) Moved(dir string) {
	l.mu.Lock()
	l.dir = dir
	l.mu.Unlock()
}

// Process is the agent's process as the host sees it, nil where it does not.
func (l *Live) Process() *Process { return l.proc }

// Bash runs a command; see toolset.Shell. It comes back with Interrupted when
// ctx ends, also while it waits for its turn.
func (l *Live) Bash(ctx context.Context, c toolset.Command) (toolset.Result, error) {
	return l.run(ctx, c, nil)
}

// Stream is Bash that gives out what the command writes as it comes, in order,
// before it returns; the command waits for a slow out. What is written while
// the connection is lost is in the result alone.
func (l *Live) Stream(ctx context.Context, c toolset.Command, out func([]byte)) (toolset.Result, error) {
	return l.run(ctx, c, out)
}

func (l *Live) run(ctx context.Context, c toolset.Command, out func([]byte)) (toolset.Result, error) {
	if len(c.Text) > agentwire.MaxText {
		return toolset.Result{Head: []byte("the command is too long"), End: toolset.Incomplete}, nil
	}
	began := time.Now()
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return toolset.Result{End: toolset.Interrupted, Elapsed: time.Since(began)}, nil
	}
	if ctx.Err() != nil {
		return toolset.Result{End: toolset.Interrupted}, nil
	}
	if c.ID == "" {
		c.ID = "call." + rand.Text()
	}
	run := agentwire.Run{ID: c.ID, Text: c.Text, Limit: c.Timeout, Stream: out != nil}
	limit := c.Timeout
	if limit <= 0 {
		limit = defaultLimit
	}
	a, err := l.ask(ctx, request{kind: agentwire.KindRun, id: c.ID, body: run.Encode(), within: limit + l.late, out: out})
	if err != nil {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return toolset.Result{End: toolset.Interrupted, Elapsed: time.Since(began)}, nil
		}
		return toolset.Result{}, err
	}
	if a.kind == agentwire.KindRefused {
		// It ran, and its result was given up: all that is left to say.
		return toolset.Result{End: toolset.Interrupted}, nil
	}
	return result(a.result), nil
}

// Recall gives the result of a command by its id without running it: known is
// false for an id that never ran here. It waits for a command that runs.
func (l *Live) Recall(ctx context.Context, id string) (r toolset.Result, known bool, err error) {
	a, err := l.ask(ctx, request{kind: agentwire.KindAsk, id: id, body: agentwire.EncodeText(id)})
	if err != nil {
		return toolset.Result{}, false, err
	}
	if a.kind != agentwire.KindResult {
		return toolset.Result{}, false, nil
	}
	return result(a.result), true, nil
}

func result(r agentwire.Result) toolset.Result {
	return toolset.Result{
		Head: r.Head, Dropped: r.Dropped, Tail: r.Tail, ExitCode: r.ExitCode,
		End: toolset.End(r.End), OOM: r.OOM, Elapsed: r.Elapsed,
	}
}

// request is a Run or an Ask. An agent that says nothing for as long as within,
// unless that is 0, is stuck.
type request struct {
	kind   agentwire.Kind
	id     string
	body   []byte
	within time.Duration
	out    func([]byte) // of a Run that streams
}

// ask sends a request and waits for its answer, over a new connection when the
// old one breaks: asking twice is safe. When ctx ends, a Run is interrupted and
// its answer still awaited.
func (l *Live) ask(ctx context.Context, r request) (answer, error) {
	for try := 0; ; try++ {
		k, err := l.connection()
		if err != nil {
			return answer{}, err
		}
		ch := k.expect(r.id)
		k.stream(r.id, r.out)
		err = k.send(r.kind, r.body)
		if errors.Is(err, errBroken) {
			select { // then there is a new one to be had
			case <-k.done:
			case <-ctx.Done():
			}
		}
		if err == nil {
			a, err := l.await(ctx, k, ch, r)
			k.stream(r.id, nil)
			switch {
			case err == nil && a.kind == agentwire.KindRefused && a.reason == agentwire.Busy:
				t := time.NewTimer(busyPause)
				select {
				case <-t.C:
					try--
					continue
				case <-ctx.Done():
					t.Stop()
					return answer{}, ctx.Err()
				}
			case err == nil:
				return a, nil
			case !errors.Is(err, errBroken):
				k.forget(r.id)
				return answer{}, err
			}
		}
		k.forget(r.id)
		if try >= 2 {
			return answer{}, fmt.Errorf("agent: the connection keeps breaking: %w", sandbox.ErrGone)
		}
	}
}

var (
	errBroken = errors.New("agent: the connection broke")
	errStuck  = fmt.Errorf("agent: it is stuck: %w", sandbox.ErrGone)
)

// await waits for an answer.
func (l *Live) await(ctx context.Context, k *conn, ch chan answer, r request) (answer, error) {
	var stuck <-chan time.Time
	if r.within > 0 {
		t := time.NewTimer(r.within)
		defer t.Stop()
		stuck = t.C
	}
	select {
	case a := <-ch:
		return a, nil
	case <-k.done:
		return drained(ch)
	case <-stuck:
		return answer{}, errStuck
	case <-ctx.Done():
	}
	if r.kind != agentwire.KindRun {
		return answer{}, ctx.Err()
	}
	if err := k.send(agentwire.KindInterrupt, agentwire.EncodeText(r.id)); err != nil {
		return answer{}, errBroken
	}
	t := time.NewTimer(killTime)
	defer t.Stop()
	select {
	case a := <-ch:
		return a, nil
	case <-k.done:
		return drained(ch)
	case <-t.C:
		return answer{}, errors.New("agent: an interrupted command does not end")
	}
}

// drained takes an answer that came just before its connection ended.
func drained(ch chan answer) (answer, error) {
	select {
	case a := <-ch:
		return a, nil
	default:
		return answer{}, errBroken
	}
}

// Restart replaces the shell and ends everything it has started; a running
// command ends as interrupted.
func (l *Live) Restart(ctx context.Context) error {
	k, err := l.connection()
	if err != nil {
		return err
	}
	ch, err := k.restart()
	if err != nil {
		return fmt.Errorf("agent: restart: %w", err)
	}
	t := time.NewTimer(l.late)
	defer t.Stop()
	select {
	case <-ch:
		return nil
	case <-t.C:
		return errStuck
	case <-k.done:
		return fmt.Errorf("agent: restart: %w", sandbox.ErrGone)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Posture asks the agent what a tool's process is and may do.
func (l *Live) Posture(ctx context.Context, q agentwire.Probe) (agentwire.Posture, error) {
	k, err := l.connection()
	if err != nil {
		return agentwire.Posture{}, err
	}
	ch, err := k.probe(q)
	if err != nil {
		return agentwire.Posture{}, fmt.Errorf("agent: probe: %w", err)
	}
	t := time.NewTimer(l.late)
	defer t.Stop()
	select {
	case p := <-ch:
		return p, nil
	case <-t.C:
		return agentwire.Posture{}, errStuck
	case <-k.done:
		return agentwire.Posture{}, fmt.Errorf("agent: probe: %w", sandbox.ErrGone)
	case <-ctx.Done():
		return agentwire.Posture{}, ctx.Err()
	}
}

// Alive looks whether the agent is there, without asking it anything: to wake
// one under gVisor costs as much as a command. The end of its process and that
// of its connection are both seen at once; one that is stuck is not.
func (l *Live) Alive() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.stopped:
		return errStopped
	case l.conn == nil:
		return fmt.Errorf("agent: there is no connection to it: %w", sandbox.ErrGone)
	case l.proc != nil && l.proc.Ended():
		return fmt.Errorf("agent: its process has ended: %w", sandbox.ErrGone)
	}
	select {
	case <-l.conn.done:
		return fmt.Errorf("agent: it has closed its connection: %w", sandbox.ErrGone)
	default:
		return nil
	}
}

// short says that an error is want of descriptors or memory, here.
func short(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.ENOBUFS)
}

// connection gives the connection, a new one when the last broke.
func (l *Live) connection() (*conn, error) { return l.connect(dialTime) }

// connect is connection to an agent that has so long to answer.
func (l *Live) connect(within time.Duration) (*conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return nil, errStopped
	}
	if l.conn != nil {
		select {
		case <-l.conn.done:
			l.conn = nil
		default:
			return l.conn, nil
		}
	}
	if l.pipe {
		return nil, fmt.Errorf("agent: its pipe is closed: %w", sandbox.ErrGone)
	}
	c, err := dial(l.dir)
	if err == nil {
		// One that was never booted ends at what is no Boot.
		if err = (&conn{c: c}).send(agentwire.KindPing, nil); err == nil {
			_, err = ready(c, within)
		}
		if err != nil {
			c.Close()
		}
	}
	if short(err) {
		return nil, fmt.Errorf("agent: it cannot be asked: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("agent: it does not answer (%v): %w", err, sandbox.ErrGone)
	}
	l.conn = newConn(c)
	return l.conn, nil
}

// End asks the agent to kill everything and end.
func (l *Live) End() error {
	k, err := l.connection()
	if err != nil {
		return err
	}
	return k.send(agentwire.KindEnd, nil)
}

// Close lets go of the connection, for good. The agent stays.
func (l *Live) Close() {
	l.mu.Lock()
	k := l.conn
	l.conn, l.stopped = nil, true
	l.mu.Unlock()
	if k != nil {
		k.close()
	}
}
