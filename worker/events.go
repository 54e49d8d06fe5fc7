package worker

import (
	"fmt"
	"slices"

	"github.com/berthdev/berth/api"
)

// take takes in what the reader has read.
func (r *run) take(x reading) error {
	switch {
	case x.err != nil:
		return fmt.Errorf("read the events of %s: %w", r.session, x.err)
	case x.history:
		r.history(x.notes)
	default:
		r.event(x.notes[0])
	}
	if r.kept > maxKept {
		return fmt.Errorf("%s has more open calls than a worker can keep: %d MiB of them", r.session, maxKept>>20)
	}
	r.listen()
	return nil
}

// history takes the whole log in: first everything that decides what becomes
// of a call, then the calls that are still open, in their order.
func (r *run) history(notes []note) {
	first := !r.read
	r.read = true
	if first {
		r.began()
	}
	over, overID := r.over || first && r.overID == "", r.overID
	void := 0 // the calls before it are
	for i, n := range notes {
		if n.ends() {
			r.close(EndTerminated)
			return
		}
		r.fresh(n)
		r.decide(n)
		if n.interrupts() {
			void = i
		}
		if !n.neutral() {
			over, overID = n.endsTurn(), n.id
		}
	}
	for i, n := range notes {
		switch {
		case n.call == nil:
		case i < void:
			if r.calls[n.id] == nil {
				r.calls[n.id] = n.call
			}
			r.void(r.calls[n.id])
		default:
			if first && r.suspected != nil && r.suspected(later(n.at, r.allowed[n.id])) {
				r.possibly[n.id] = true
			}
			r.route(n.call)
		}
	}
	r.inOrder(notes)
	for _, n := range notes {
		if n.kind == api.TypeUserToolConfirmation {
			r.applyVerdict(n.ref, n.verdict)
		}
	}
	r.over, r.overID = over, overID
	r.depart()
}

// inOrder puts the calls that have not begun into the log's order, which the
// stream may not have had. Those that the log lacks are behind it.
func (r *run) inOrder(notes []note) {
	if len(r.queue) < 2 {
		return
	}
	at := make(map[string]int, len(r.queue))
	for i, n := range notes {
		if n.call != nil {
			at[n.id] = i - len(notes)
		}
	}
	slices.SortStableFunc(r.queue, func(a, b *pending) int { return at[a.ID] - at[b.ID] })
}

// event takes one event of the stream in.
func (r *run) event(n note) {
	if n.ends() {
		r.close(EndTerminated)
		return
	}
	if !r.fresh(n) {
		return
	}
	r.looks = 0
	switch {
	case n.call != nil && !r.cutoff.IsZero() && !n.at.After(r.cutoff):
		r.look() // the log alone tells what was before the interrupt
		return
	case n.kind == api.TypeSessionStatusIdle && slices.ContainsFunc(n.stop.EventIDs, r.missed):
		r.look()
	}
	r.decide(n)
	switch {
	case n.call != nil:
		r.route(n.call)
	case n.interrupts():
		r.interrupt()
	case n.kind == api.TypeUserToolConfirmation:
		r.applyVerdict(n.ref, n.verdict)
	}
	if !n.neutral() {
		r.over, r.overID = n.endsTurn(), n.id
	}
}

// decide keeps what an event says about calls, its own excepted, and about
// the turn. What is about ids that are none is not kept.
func (r *run) decide(n note) {
	if n.ref != "" && !plainID(n.ref) || n.thread != "" && !plainID(n.thread) {
		return
	}
	switch n.kind {
	case api.TypeUserToolResult, api.TypeUserCustomToolResult, api.TypeAgentToolResult:
		r.answered(n.ref)
	case api.TypeUserToolConfirmation:
		r.verdicts[n.ref], r.allowed[n.ref] = n.verdict, n.at
	case api.TypeUserInterrupt:
		if n.interrupts() {
			r.cutoff = n.at
		}
	case api.TypeSessionStatusRunning, api.TypeSessionStatusRescheduled:
		r.turn, r.blocking = n.kind, nil
	case api.TypeSessionStatusIdle:
		r.turn, r.blocking = n.kind, n.stop.EventIDs
		if n.stop.Type != api.StopRequiresAction {
			r.blocking = nil
		}
	case api.TypeSessionThreadStatusRunning, api.TypeSessionThreadStatusIdle, api.TypeSessionThreadStatusRescheduled, api.TypeSessionThreadStatusTerminated:
		if r.primary == "" {
			r.primary = n.thread // the primary thread runs before any other exists
		}
		if n.kind == api.TypeSessionThreadStatusTerminated && n.thread != r.primary {
			r.ended[n.thread] = true
			for _, c := range r.calls {
				if c.thread == n.thread && (c.state == callQueued || c.state == callHeld) {
					r.drop(c, callForeign)
				}
			}
		}
	}
}

// route decides what becomes of a call; one that is known already stays as
// it is.
func (r *run) route(c *pending) {
	if !plainID(c.ID) || len(c.Name) > maxToolName {
		r.log.Warn("a call whose id or tool is none; leaving it", "call", clipped(c.ID), "tool", clipped(c.Name))
		return
	}
	if known := r.calls[c.ID]; known != nil {
		if known.state != callUnsent {
			return
		}
		c = known
	}
	r.calls[c.ID] = c
	verdict, asked := r.verdicts[c.ID], c.permission != "" && c.permission != api.PermissionAllow
	switch {
	case c.thread != "" && r.ended[c.thread], c.permission == api.PermissionDeny:
		r.drop(c, callForeign)
	case !r.owns(c.Name, c.Custom):
		r.log.Info("a call of a tool that is not served here", "call", c.ID, "tool", c.Name)
		r.drop(c, callForeign)
	case asked && verdict == "deny":
		r.drop(c, callForeign)
	case asked && verdict != "allow":
		c.state = callHeld
		r.keep(c)
	default:
		c.state = callQueued
		r.queue = append(r.queue, c)
		r.keep(c)
	}
}

// keep counts what an open call takes, unkeep what it took.
func (r *run) keep(c *pending) {
	r.unkeep(c)
	c.takes = int64(len(c.Input)) + perCall
	r.kept += c.takes
}

func (r *run) unkeep(c *pending) {
	r.kept -= c.takes
	c.takes = 0
}

// applyVerdict releases or drops a held call.
func (r *run) applyVerdict(id, verdict string) {
	c := r.calls[id]
	if c == nil || c.state != callHeld {
		return
	}
	switch verdict {
	case "allow":
		c.state = callQueued
		r.queue = append(r.queue, c)
	case "deny":
		r.drop(c, callForeign)
	}
}

// answered notes that the log has a call's answer.
func (r *run) answered(id string) {
	c := r.calls[id]
	switch {
	case c == nil:
		r.calls[id] = &pending{Call: Call{ID: id}, state: callAnswered}
	case c.state == callRunning:
		if !closed(c.echoed) {
			close(c.echoed)
		}
	case c.state != callSettled:
		r.drop(c, callAnswered)
	}
}

// interrupt voids the calls that were before an interrupt. Where their times do
// not say so the history is asked.
func (r *run) interrupt() {
	for _, c := range r.calls {
		if c.at.After(r.cutoff) {
			r.look()
		} else {
			r.void(c)
		}
	}
}

// void drops or cancels a call that an interrupt came after.
func (r *run) void(c *pending) {
	switch c.state {
	case callRunning:
		r.cutRun(errInterrupted)
	case callQueued, callHeld, callUnsent:
		r.drop(c, callVoid)
	}
}
