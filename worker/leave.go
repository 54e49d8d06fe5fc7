package worker

import (
	"context"
	"errors"
	"sync"
)

// Leave makes the worker ready for a process that takes its place on this
// host: nothing more is claimed, no call is begun, and it returns when no
// call runs but commands that their sandboxes remember, and no result is on
// its way. From then on nothing is beaten, journaled or posted; the process
// must end, without closing anything, and the next one's Run goes on with
// what the Ledger holds. When ctx ends first, the worker goes on as before.
func (w *Worker) Leave(ctx context.Context) error { return w.gate.leave(ctx) }

var errLeaving = errors.New("worker: it is leaving already")

// gate is what a leaving worker shuts. Whoever does what must not be cut in
// two is inside meanwhile.
type gate struct {
	mu      sync.Mutex
	changed sync.Cond // of any field below; mu
	calls   int       // inside: what may take long
	beats   int       // inside: what is short and must go on
	leaving bool      // no call comes in
	shut    bool      // nobody comes in, for good
	asking  context.CancelFunc
}

func newGate() *gate {
	g := &gate{}
	g.changed.L = &g.mu
	return g
}

// enter comes in for a call or a claim, until the returned func is called.
func (g *gate) enter() (leave func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.leaving {
		g.changed.Wait()
	}
	g.calls++
	return func() { g.out(&g.calls) }
}

// beat comes in for a beat.
func (g *gate) beat() (leave func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.shut {
		g.changed.Wait()
	}
	g.beats++
	return func() { g.out(&g.beats) }
}

// pass is a place inside that is left and taken again. One goroutine uses it.
type pass struct {
	gate *gate
	out  func() // nil outside
}

// pass comes in.
func (g *gate) pass() *pass { return &pass{g, g.enter()} }

// enter comes in again; inside already is fine.
func (p *pass) enter() {
	if p.out == nil {
		p.out = p.gate.enter()
	}
}

// leave goes out; outside already is fine.
func (p *pass) leave() {
	if p.out != nil {
		p.out()
		p.out = nil
	}
}

func (g *gate) out(n *int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	*n--
	g.changed.Broadcast()
}

// ask waits while somebody leaves, and gives the context of a poll, which
// ends when somebody begins to.
func (g *gate) ask(ctx context.Context) (context.Context, context.CancelFunc) {
	defer context.AfterFunc(ctx, g.wake)()
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.leaving && ctx.Err() == nil {
		g.changed.Wait()
	}
	ctx, g.asking = context.WithCancel(ctx)
	return ctx, g.asking
}

func (g *gate) wake() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.changed.Broadcast()
}

func (g *gate) leave(ctx context.Context) error {
	defer context.AfterFunc(ctx, g.wake)()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.leaving {
		return errLeaving
	}
	g.leaving = true
	if g.asking != nil {
		g.asking()
	}
	for (g.calls > 0 || g.beats > 0) && ctx.Err() == nil {
		g.changed.Wait()
	}
	if ctx.Err() != nil {
		g.leaving = false
		g.changed.Broadcast()
		return context.Cause(ctx)
	}
	g.shut = true
	return nil
}
