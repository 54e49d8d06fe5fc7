package fold

import (
	"errors"
	"iter"

	"github.com/berthdev/berth/internal/store"
)

// Joint is an Attempt whose transitions may run side by side: one that asks
// gives way to the others, so that their questions share a round trip. One
// runs at a time, on the lane's behalf; those that want the same row take turns.
type Joint interface {
	Attempt
	// Beside begins a transition of the group. wait gives way to the others
	// until the part is Ready again.
	Beside(wait func()) Part
	// Ask gets the answers that parts wait for; false when none waits for one.
	Ask() bool
	// Fail makes err the attempt's.
	Fail(err error)
}

// Part is a transition that runs beside others.
type Part interface {
	store.Tx
	// Ready says that it may go on: it has its answer, the part that was in its
	// way is over, or the attempt has failed.
	Ready() bool
	Blocked() *Ticket
	// Join makes what it wrote the attempt's.
	Join()
	// Drop takes back what it did. False says that it cannot: some of it
	// reached the database.
	Drop() bool
}

// What fails an attempt that the database has nothing against.
var (
	errEachOther = errors.New("transitions of one group wait for each other")
	errHalfDone  = errors.New("a transition was put off or failed after some of it was written")
)

type run struct {
	job  *job
	part Part
	next func() (struct{}, bool)
	stop func() // has one that began return: no more of it waits
}

// begin prepares a transition; it does not run before its first next.
func begin(j *job, tx Joint) *run {
	r := &run{job: j}
	var wait func()
	r.part = tx.Beside(func() { wait() })
	r.next, r.stop = iter.Pull(func(yield func(struct{}) bool) {
		wait = func() { yield(struct{}{}) }
		j.err = call(j, r.part)
	})
	return r
}

// beside runs a group's transitions side by side. left are those that must
// run alone since the attempt has failed; nil when the ended ones may be
// committed.
func (l *lane) beside(group []*job, tx Joint) (ended, later, left []*job) {
	ended = make([]*job, 0, len(group))
	var running []*run
	for _, j := range group {
		if err := j.ctx.Err(); err != nil {
			j.finish(err)
			continue
		}
		running = append(running, begin(j, tx))
	}
	for len(running) > 0 {
		moved := false
		still := running[:0:0]
		for _, r := range running {
			if tx.Err() != nil || !r.part.Ready() {
				still = append(still, r)
				continue
			}
			moved = true
			if _, more := r.next(); more {
				still = append(still, r)
				continue
			}
			blocked := r.part.Blocked()
			switch {
			case tx.Err() != nil:
				left = append(left, r.job)
			case r.job.err == nil && blocked == nil:
				r.part.Join()
				ended = append(ended, r.job)
			case !r.part.Drop():
				tx.Fail(errHalfDone)
				left = append(left, r.job)
			case blocked == Busy:
				later = append(later, r.job)
			case blocked != nil:
				l.postpone(r.job, blocked)
			default:
				ended = append(ended, r.job)
			}
		}
		running = still
		if tx.Err() == nil && !tx.Ask() && !moved {
			tx.Fail(errEachOther)
		}
		if tx.Err() != nil {
			left = append(ended, left...)
			for _, r := range running {
				r.stop()
				left = append(left, r.job)
			}
			return nil, later, left
		}
	}
	return ended, later, nil
}
