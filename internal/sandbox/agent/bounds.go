package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

// Bounds are what holds a box beyond the time of its calls and of its session,
// which every box is held to from the start.
type Bounds struct {
	// Enforced are the limits that hold.
	Enforced []sandbox.Limit
	// OOMs counts what the kernel has killed inside for want of memory; nil
	// where nobody counts.
	OOMs func() int64
}

// Bound says what else holds the box, before it is used.
func (b *Box) Bound(x Bounds) { b.bounds = x }

// arm has the box end at its deadline, once it is a session's. b.mu is held.
func (b *Box) arm() {
	limit := b.record.Spec.Limits.SessionTime
	if limit <= 0 || b.stopped || b.record.Ready() {
		return
	}
	if b.deadline != nil {
		b.deadline.Stop()
	}
	left := time.Until(b.record.StartedAt.Add(limit))
	b.until = time.Now().Add(left) // by a clock that nobody sets
	b.deadline = time.AfterFunc(left, b.expire)
}

// expire ends everything inside; the files stay until Stop.
func (b *Box) expire() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped || b.ended || time.Now().Before(b.until) {
		return
	}
	b.expired.Store(true)
	if b.end(context.Background(), b.Live) == nil {
		b.ended = true
	}
}

// overdue says that the session's time is over.
func (b *Box) overdue() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.until.IsZero() && !time.Now().Before(b.until)
}

// Enforced are the limits that hold, of those that were asked for.
func (b *Box) Enforced() []sandbox.Limit {
	all := append([]sandbox.Limit{sandbox.LimitCallTime, sandbox.LimitSessionTime}, b.bounds.Enforced...)
	return b.Record().Spec.Limits.Of(all...)
}

// Bash runs a command within the session's limits; see toolset.Shell.
func (b *Box) Bash(ctx context.Context, c toolset.Command) (toolset.Result, error) {
	return b.within(ctx, c, nil)
}

// Stream is Bash that gives out what the command writes; see Live.
func (b *Box) Stream(ctx context.Context, c toolset.Command, out func([]byte)) (toolset.Result, error) {
	return b.within(ctx, c, out)
}

// within bounds a call's time and looks whether memory ran out during it.
func (b *Box) within(ctx context.Context, c toolset.Command, out func([]byte)) (toolset.Result, error) {
	rec := b.Record()
	limits := rec.Spec.Limits
	if c.Timeout <= 0 {
		c.Timeout = defaultLimit
	}
	if limits.CallTime > 0 {
		c.Timeout = min(c.Timeout, limits.CallTime)
	}
	if limits.SessionTime > 0 && (b.expired.Load() || b.overdue()) {
		return overtime(limits.SessionTime), nil
	}
	var before int64
	if b.bounds.OOMs != nil {
		before = b.bounds.OOMs()
	}
	r, err := b.Live.run(ctx, c, out)
	if b.bounds.OOMs != nil && b.bounds.OOMs() > before {
		r.OOM = true
	}
	switch {
	case err != nil && b.expired.Load():
		return overtime(limits.SessionTime), nil
	case err != nil && r.OOM:
		err = &toolset.Failure{Err: err, Text: "out of memory: the memory limit was reached and the whole sandbox was ended; " +
			"the next command gets a fresh one with the same files"}
	case err != nil && errors.Is(err, sandbox.ErrGone) && ctx.Err() == nil:
		err = &toolset.Failure{Err: err, Text: "the sandbox ended while the command ran, which may have run in part; " +
			"the next command gets a fresh one with the same files"}
	}
	return r, err
}

func overtime(limit time.Duration) toolset.Result {
	return toolset.Result{End: toolset.Refused, Head: fmt.Appendf(nil,
		"bash: the session's time limit of %v is used up: what ran was ended, and no further command is run", limit)}
}
