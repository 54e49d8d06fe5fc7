// Package fold is group commit: one goroutine runs the transitions that wait
// at the same time in one transaction and one commit, and tells listeners
// what was committed. Both engines use it and supply the transaction.
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
	Begin() (Attempt, error)
	// Retry says that the error is no fault of the transition and that the
	// same one may well pass when it runs again.
	Retry(error) bool
}

// Attempt is an open write transaction. After Commit or Rollback it is done.
type Attempt interface {
	store.Tx
	// Mark begins a transition within the transaction.
	Mark()
	// Undo takes back all since the mark. False says that it cannot: some of
	// it reached the database, or the transaction has failed.
	Undo() bool
	// Err is the first failure of the transaction itself, nil if it may
	// commit.
	Err() error
	// Commit makes it durable and gives the notes to be heard. An *Unsure
	// error says that it may have been committed all the same.
	Commit() ([]store.Note, error)
	Rollback()
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
	engine  Engine
	publish func([]store.Note) // in commit order, from the writer's goroutine

	mu      sync.Mutex
	waiting []*job
	closed  bool

	wake    chan struct{}
	stopped chan struct{}
	commits atomic.Int64
}

// Start starts the writer's goroutine.
func Start(e Engine, publish func([]store.Note)) *Writer {
	w := &Writer{engine: e, publish: publish, wake: make(chan struct{}, 1), stopped: make(chan struct{})}
	go w.run()
	return w
}

// Stop refuses what comes from now on and returns when all else is done.
// Twice is fine.
func (w *Writer) Stop() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.nudge()
	<-w.stopped
}

// Commits counts the commits so far.
func (w *Writer) Commits() int64 { return w.commits.Load() }

type job struct {
	ctx   context.Context
	fn    func(store.Tx) error
	taken atomic.Bool // by the writer, or by a caller who gave up
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
	w.nudge()
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

func (w *Writer) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *Writer) run() {
	defer close(w.stopped)
	for {
		group, closed := w.take()
		switch {
		case len(group) > 0:
			w.together(group)
		case closed:
			return
		default:
			<-w.wake
		}
	}
}

func (w *Writer) take() (group []*job, closed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(len(w.waiting), maxGroup)
	for _, j := range w.waiting[:n] {
		// A caller who has given up may be gone already: its closure must
		// not run.
		if j.taken.CompareAndSwap(false, true) {
			group = append(group, j)
		}
	}
	w.waiting = append(w.waiting[:0:0], w.waiting[n:]...)
	return group, w.closed && len(w.waiting) == 0
}

// together runs a group in one transaction, or each by itself when that fails.
func (w *Writer) together(group []*job) {
	if len(group) == 1 {
		w.alone(group[0])
		return
	}
	tx, err := w.engine.Begin()
	if err != nil {
		w.eachAlone(group)
		return
	}
	passed := make([]*job, 0, len(group))
	for i, j := range group {
		if err := j.ctx.Err(); err != nil {
			j.finish(err)
			continue
		}
		tx.Mark()
		err := call(j, tx)
		if tx.Err() == nil && (err == nil || tx.Undo()) {
			if err == nil {
				passed = append(passed, j)
			} else {
				j.finish(err)
			}
			continue
		}
		tx.Rollback()
		w.eachAlone(append(passed, group[i:]...))
		return
	}
	if len(passed) == 0 {
		tx.Rollback()
		return
	}
	notes, err := tx.Commit()
	if err != nil {
		if unsure(err) {
			for _, j := range passed {
				j.finish(failed(err))
			}
			return
		}
		w.eachAlone(passed)
		return
	}
	w.committed(notes)
	for _, j := range passed {
		j.finish(nil)
	}
}

func (w *Writer) eachAlone(group []*job) {
	for _, j := range group {
		w.alone(j)
	}
}

func (w *Writer) alone(j *job) {
	for try := 1; ; try++ {
		if err := j.ctx.Err(); err != nil {
			j.finish(err)
			return
		}
		err, lost := w.once(j)
		if !lost {
			j.finish(err)
			return
		}
		if unsure(err) || try == maxTries || !w.engine.Retry(err) {
			j.finish(failed(err))
			return
		}
	}
}

// once runs a transition in a transaction of its own. lost says that the
// transaction failed, as opposed to the transition.
func (w *Writer) once(j *job) (err error, lost bool) {
	tx, err := w.engine.Begin()
	if err != nil {
		return err, true
	}
	tx.Mark()
	err = call(j, tx)
	if broken := tx.Err(); broken != nil {
		tx.Rollback()
		// A transition may have translated the failure; a kind it chose, such
		// as Conflict, says more than the failure.
		if err != nil && plane.KindOf(err) != plane.Internal {
			return err, false
		}
		return broken, true
	}
	if err != nil {
		tx.Rollback()
		return err, false
	}
	notes, err := tx.Commit()
	if err != nil {
		return err, true
	}
	w.committed(notes)
	return nil, false
}

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
