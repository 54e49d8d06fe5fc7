package worker

import (
	"hash/maphash"
	"time"
)

// How long nothing may come before the history is asked whether something has
// been missed, doubling each time: of a session whose turn is on, and of one
// whose turn is over, that waits for a person or runs a call.
const (
	quietTurn  = 15 * time.Second
	quietOther = time.Minute
	quietMost  = 5 * time.Minute
)

// leaveMost is how long the history's word on a session that would be let go is
// waited for.
const leaveMost = 3 * time.Minute

var eventSeed = maphash.MakeSeed()

// fresh notes an event and says whether it had not been taken in before: events
// come again, on streams and in the history. One that was queued comes once
// more when it has been processed.
func (r *run) fresh(n note) bool {
	if n.id == "" {
		return true
	}
	key := maphash.String(eventSeed, n.id)
	if n.at.IsZero() {
		key = ^key
	}
	if r.seen[key] {
		return false
	}
	r.seen[key] = true
	return true
}

// missed says whether an event has never come.
func (r *run) missed(id string) bool {
	key := maphash.String(eventSeed, id)
	return r.read && r.calls[id] == nil && !r.seen[key] && !r.seen[^key]
}

// look asks for the history, which makes good whatever the stream has lost, or
// brought in another order.
func (r *run) look() {
	select {
	case r.resync <- struct{}{}:
	default:
	}
}

// listen sets the time by which something should come.
func (r *run) listen() { r.quiet.Reset(r.patience()) }

// patience is how long nothing may come.
func (r *run) patience() time.Duration {
	d := quietTurn
	if r.over || r.running != nil || len(r.blocking) > 0 && !r.busy() {
		d = quietOther
	}
	return min(d<<min(r.looks, 8), quietMost)
}

// leave lets the session go if the history, which may know of a turn that the
// stream has not shown yet, agrees.
func (r *run) leave(why End) {
	if r.leaving == "" {
		r.leaving, r.idleFor = why, ""
		r.unsaid.Reset(leaveMost)
		r.look()
	}
}

// depart closes a session that was to be let go if it still may be.
func (r *run) depart() {
	why := r.leaving
	r.leaving = ""
	r.unsaid.Stop()
	if why == EndIdle && r.idles() || why == EndRoom && !r.busy() {
		r.close(why)
	}
}

// idles says whether the turn has ended and nothing is left to do or to wait
// for.
func (r *run) idles() bool {
	return r.over && r.read && r.running == nil && len(r.queue) == 0 && !r.holds()
}
