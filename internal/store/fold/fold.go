// Package fold is group commit: a goroutine runs the transitions that wait at
// the same time in one transaction and one commit, and tells listeners what
// was committed. Both engines use it and supply the transactions. An engine
// may have several lanes, connections that each commit groups of their own;
// Keys keeps them out of each other's way.
package fold

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

// maxGroup bounds how many transitions share a commit, and with it how many
// run again when one of them fails.
const maxGroup = 128

// Engine begins write transactions, one at a time.
type Engine interface {
	// Begin begins one for a transition alone, or for a group. In a group
	// nothing may wait for a row that another process has: what would have to
	// is Blocked by Busy.
	Begin(alone bool) (Attempt, error)
	// Retry says that the error is no fault of the transition and that the
	// same one may well pass when it runs again.
	Retry(error) bool
}

// Attempt is an open write transaction. After Commit or Rollback it is done,
// and then it is closed.
type Attempt interface {
	store.Tx
	// Err is the first failure of the transaction itself, nil if it may
	// commit.
	Err() error
	// Blocked is the attempt of another lane that has what the transition
	// asked for, or Busy; whatever that transition says then counts for
	// nothing. Nil is the rule.
	Blocked() *Ticket
	// Commit makes it durable and gives the notes to be heard. An *Unsure
	// error says that it may have been committed all the same.
	Commit() ([]store.Note, error)
	Rollback()
	// Close lets other lanes have what this one held. The notes have been
	// published.
	Close()
}

// Serial is an Attempt whose transitions run one after the other. None is
// Blocked.
type Serial interface {
	Attempt
	// Mark begins a transition within the transaction.
	Mark()
	// Undo takes back all since the mark. False says that it cannot: some of
	// it reached the database, or the transaction has failed.
	Undo() bool
}

// Unsure is the failure of a commit whose outcome is unknown. The transitions
// do not run again, for they may have happened.
type Unsure struct{ Err error }

func (u *Unsure) Error() string { return "outcome of the commit unknown: " + u.Err.Error() }
func (u *Unsure) Unwrap() error { return u.Err }

// maxTries bounds how often a transition alone is begun.
const maxTries = 8

// Writer runs transitions. Make one with Start; Stop waits for all that were
// accepted.
type Writer struct {
	publish func([]store.Note) // in commit order, from the lanes' goroutines
	lanes   int

	mu        sync.Mutex
	some      sync.Cond // waiting, postponed or closed changed
	waiting   []*job
	postponed int // transitions that wait for another lane
	closed    bool

	running sync.WaitGroup
	commits atomic.Int64
}

// Start starts a goroutine per engine, each of which is a lane.
func Start(publish func([]store.Note), engines ...Engine) *Writer {
	w := &Writer{publish: publish, lanes: len(engines)}
	w.some.L = &w.mu
	for _, e := range engines {
		w.running.Go(func() { (&lane{Writer: w, engine: e}).run() })
	}
	return w
}

// Stop refuses what comes from now on and returns when all else is done.
// Twice is fine.
func (w *Writer) Stop() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.some.Broadcast()
	w.running.Wait()
}

// Commits counts the commits so far.
func (w *Writer) Commits() int64 { return w.commits.Load() }

// Lanes is how many groups may be on their way at once.
func (w *Writer) Lanes() int { return w.lanes }

type job struct {
	ctx   context.Context
	fn    func(store.Tx) error
	taken atomic.Bool // by a lane, or by a caller who gave up
	again bool        // it was taken before, and postponed
	err   error       // set before done is closed
	done  chan struct{}
}

func (j *job) finish(err error) {
	j.err = err
	close(j.done)
}

// Update is store.Store's.
func (w *Writer) Update(ctx context.Context, fn func(store.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	j := &job{ctx: ctx, fn: fn, done: make(chan struct{})}
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return plane.Errorf(plane.Unavailable, "the store is closed")
	}
	w.waiting = append(w.waiting, j)
	w.mu.Unlock()
	w.some.Signal()
	select {
	case <-j.done:
	case <-ctx.Done():
		if j.taken.CompareAndSwap(false, true) {
			return context.Cause(ctx)
		}
		// It runs: what it sets belongs to the writer until it is done.
		<-j.done
	}
	return j.err
}

// take waits for transitions; none are left to come when it gives none.
func (w *Writer) take() (group []*job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		for len(w.waiting) == 0 {
			if w.closed && w.postponed == 0 {
				w.some.Broadcast() // so that the other lanes see it too
				return nil
			}
			w.some.Wait()
		}
		// A fair share: the other lanes want some as well.
		n := min((len(w.waiting)+w.lanes-1)/w.lanes, maxGroup)
		for _, j := range w.waiting[:n] {
			// A caller who has given up may be gone already: its closure must
			// not run.
			if j.again || j.taken.CompareAndSwap(false, true) {
				group = append(group, j)
			}
		}
		w.waiting = append(w.waiting[:0:0], w.waiting[n:]...)
		if len(group) > 0 {
			return group
		}
	}
}

// postpone puts a transition first in line once t is over, before those that
// came to wait for t later.
func (w *Writer) postpone(j *job, t *Ticket) {
	w.mu.Lock()
	w.postponed++
	w.mu.Unlock()
	t.Then(func() {
		w.mu.Lock()
		w.postponed--
		j.again = true
		w.waiting = append([]*job{j}, w.waiting...)
		w.mu.Unlock()
		w.some.Signal()
	})
}

// lane is one goroutine that commits.
type lane struct {
	*Writer
	engine Engine
}

func (l *lane) run() {
	for group := l.take(); len(group) > 0; group = l.take() {
		l.together(group)
	}
}

// together runs a group in one transaction, or each by itself when that fails.
func (l *lane) together(group []*job) {
	if len(group) == 1 {
		l.alone(group[0])
		return
	}
	tx, err := l.engine.Begin(false)
	if err != nil {
		for _, j := range group {
			j.finish(failed(err))
		}
		return
	}
	// Who was refused hears of it after the commit too: it may have seen what
	// others of the group wrote.
	var ended, later, left []*job // later: alone, when this group holds nothing any more
	defer func() { l.eachAlone(later) }()
	if joint, ok := tx.(Joint); ok {
		ended, later, left = l.beside(group, joint)
	} else {
		ended, left = l.oneByOne(group, tx.(Serial))
	}
	if len(left) > 0 {
		tx.Rollback()
		tx.Close()
		l.eachAlone(left)
		return
	}
	notes, err := tx.Commit()
	if err != nil {
		tx.Close()
		if unsure(err) {
			l.mayHave()
			for _, j := range ended {
				j.finish(failed(err))
			}
			return
		}
		l.eachAlone(ended)
		return
	}
	l.committed(notes)
	tx.Close()
	for _, j := range ended {
		j.finish(j.err)
	}
}

// oneByOne is beside for an attempt that is Serial.
func (l *lane) oneByOne(group []*job, tx Serial) (ended, left []*job) {
	ended = make([]*job, 0, len(group))
	for i, j := range group {
		if err := j.ctx.Err(); err != nil {
			j.finish(err)
			continue
		}
		tx.Mark()
		j.err = call(j, tx)
		if tx.Err() != nil || j.err != nil && !tx.Undo() {
			return nil, append(ended, group[i:]...)
		}
		ended = append(ended, j)
	}
	return ended, nil
}

func (l *lane) eachAlone(group []*job) {
	for _, j := range group {
		l.alone(j)
	}
}

func (l *lane) alone(j *job) {
	for try := 1; ; {
		if err := j.ctx.Err(); err != nil {
			j.finish(err)
			return
		}
		lost, blocked, err := l.once(j)
		switch {
		case blocked != nil:
			// It holds nothing any more, so it may wait.
			l.postpone(j, blocked)
			return
		case !lost:
			j.finish(err)
			return
		case unsure(err):
			l.mayHave()
			j.finish(failed(err))
			return
		case try == maxTries || !l.engine.Retry(err):
			j.finish(failed(err))
			return
		}
		try++
	}
}

// once runs a transition in a transaction of its own. lost says that the
// transaction failed, as opposed to the transition.
func (l *lane) once(j *job) (lost bool, blocked *Ticket, err error) {
	tx, err := l.engine.Begin(true)
	if err != nil {
		return false, nil, failed(err)
	}
	defer tx.Close()
	err = call(j, tx)
	if blocked := tx.Blocked(); blocked != nil {
		tx.Rollback()
		return false, blocked, nil
	}
	if broken := tx.Err(); broken != nil {
		tx.Rollback()
		// A broken rule is final, and the kind that the transition gives it
		// says more; any other failure may pass.
		if _, rule := errors.AsType[*plane.Error](broken); rule && err != nil && plane.KindOf(err) != plane.Internal {
			return false, nil, err
		}
		return true, nil, broken
	}
	if err != nil {
		tx.Rollback()
		return false, nil, err
	}
	notes, err := tx.Commit()
	if err != nil {
		return true, nil, err
	}
	l.committed(notes)
	return false, nil, nil
}

// mayHave has listeners look for what an unsure commit wrote, if it did: its
// notes are never published.
func (w *Writer) mayHave() { w.publish([]store.Note{{Lost: true}}) }

func (w *Writer) committed(notes []store.Note) {
	w.commits.Add(1)
	if len(notes) > 0 {
		w.publish(notes)
	}
}

// failed gives an error a kind, unless it has one.
func failed(err error) error {
	if plane.KindOf(err) != plane.Internal {
		return err
	}
	return plane.Wrap(plane.Unavailable, err, "the store could not write; try again")
}

func unsure(err error) bool {
	_, ok := errors.AsType[*Unsure](err)
	return ok
}

// call runs the transition; its panic ends it, not the writer.
func call(j *job, tx store.Tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = plane.Wrap(plane.Internal, fmt.Errorf("panic in a transition: %v\n%s", p, debug.Stack()), "internal error")
		}
	}()
	return j.fn(tx)
}
