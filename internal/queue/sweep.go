package queue

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

const (
	sweepBatch   = 128
	sweepAtOnce  = 16
	sweepAtLeast = 5 * time.Millisecond // between two looks
	pruneEvery   = time.Hour
)

// sweepLoop sleeps until the next item is due, or somebody sets an earlier
// alarm, and settles what is.
func (q *Queue) sweepLoop(ctx context.Context, quit <-chan struct{}) {
	var pruned time.Time
	for {
		q.mu.Lock()
		q.nextLook = time.Time{}
		q.mu.Unlock()
		next, err := q.sweep(ctx)
		if err == nil && q.now().Sub(pruned) >= pruneEvery {
			pruned = q.now()
			err = q.prune(ctx)
		}
		if err != nil && ctx.Err() == nil {
			q.log.Error("queue: sweep", "error", err)
			next = time.Time{}
		}
		now := q.now()
		wake := now.Add(q.cfg.Sweep)
		if !next.IsZero() && next.Before(wake) {
			wake = next
		}
		if least := now.Add(sweepAtLeast); wake.Before(least) {
			wake = least
		}
		q.mu.Lock()
		q.nextLook = wake
		disarm := q.cfg.Clock.AfterFunc(wake.Sub(now), q.look)
		q.mu.Unlock()
		select {
		case <-q.poke:
			disarm()
		case <-quit:
			disarm()
			return
		}
	}
}

func (q *Queue) look() {
	select {
	case q.poke <- struct{}{}:
	default:
	}
}

// alarm makes the sweep look at a time, if it would look later.
func (q *Queue) alarm(at time.Time) {
	if at.IsZero() {
		return
	}
	q.mu.Lock()
	sooner := q.nextLook.IsZero() || at.Before(q.nextLook)
	q.mu.Unlock()
	if sooner {
		q.look()
	}
}

// sweep settles all that is due and says what is due next, zero for nothing.
func (q *Queue) sweep(ctx context.Context) (time.Time, error) {
	for {
		var (
			due  []plane.WorkItem
			next time.Time
		)
		err := q.st.View(ctx, func(r store.Reader) (err error) {
			if next, err = r.NextDue(); err != nil || next.IsZero() || next.After(q.now()) {
				due = nil
				return err
			}
			due, err = r.WorkDue(q.now(), sweepBatch)
			return err
		})
		if err != nil || len(due) == 0 {
			return next, err
		}
		if err := q.settleAll(ctx, due); err != nil {
			return next, err
		}
	}
}

// settleAll settles items, some at once so that they share commits.
func (q *Queue) settleAll(ctx context.Context, due []plane.WorkItem) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	places := make(chan struct{}, sweepAtOnce)
	for _, w := range due {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			if err := q.settle(ctx, w.ID); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// settle does to an item what time has decided: a lapsed lease is lost, a
// holder that was told to let go has had its time, a session without input is
// let go, a silent one is given up. It is repeatable and does nothing early.
func (q *Queue) settle(ctx context.Context, id string) error {
	return q.withBoth(ctx, id, func(tx store.Tx, w plane.WorkItem, s plane.Session) error {
		now := q.now()
		switch {
		case w.State == api.WorkStopped || w.State == api.WorkQueued:
			return errNothing
		case w.State == api.WorkStopping && (w.Lapsed(now) || !now.Before(q.stoppingUntil(w))):
			stop(&w, w.EndedBy, now)
			return q.conclude(tx, w, &s, false, now)
		case w.State == api.WorkStopping:
			return q.reschedule(tx, w)
		case w.Lapsed(now):
			stop(&w, plane.EndedLapse, now)
			return q.conclude(tx, w, &s, false, now)
		}
		if at := q.unattendedAt(w); !at.IsZero() && !now.Before(at) {
			if s.HasInput {
				w.HasInput = true
				return q.reschedule(tx, w)
			}
			q.ask(&w, plane.EndedUnattended, now)
			return tx.UpdateWork(w)
		}
		if silentFor(s, now) < q.cfg.Stall {
			return q.reschedule(tx, w)
		}
		calls, err := openCalls(tx, &s)
		if err != nil {
			return err
		}
		if !calls.runnable {
			// It waits for a client, not for its worker.
			q.ask(&w, plane.EndedUnattended, now)
			return tx.UpdateWork(w)
		}
		q.ask(&w, plane.EndedStall, now)
		if err := tx.UpdateWork(w); err != nil {
			return err
		}
		return q.giveUp(tx, &s, "no tool call of this session has ended for "+q.cfg.Stall.String())
	})
}

// exhaust ends an unacked item that is not to be delivered again, unless it has
// moved on.
func (q *Queue) exhaust(ctx context.Context, spent *spentError) error {
	return q.withBoth(ctx, spent.id, func(tx store.Tx, w plane.WorkItem, s plane.Session) error {
		if w.State != api.WorkQueued || w.TokenHash != spent.token {
			return errNothing
		}
		now := q.now()
		stop(&w, plane.EndedReclaim, now)
		return q.conclude(tx, w, &s, false, now)
	})
}

// withBoth runs a transition with the session and its item locked. An item
// that is gone, and errNothing, are nothing to do.
func (q *Queue) withBoth(ctx context.Context, id string, fn func(store.Tx, plane.WorkItem, plane.Session) error) error {
	err := q.st.Update(ctx, func(tx store.Tx) error {
		w, err := tx.Work(id)
		if err != nil {
			return err
		}
		s, err := sessionOf(tx, w)
		if err != nil {
			return err
		}
		if w, err = tx.LockWork(id); err != nil {
			return err
		}
		return fn(tx, w, s)
	})
	if errors.Is(err, errNothing) || notFound(err) {
		return nil
	}
	return err
}

// sessionOf locks an item's session. One that was deleted has ended.
func sessionOf(tx store.Tx, w plane.WorkItem) (plane.Session, error) {
	s, err := tx.LockSession(w.SessionID)
	if notFound(err) {
		s.ID, s.Status = w.SessionID, api.SessionTerminated
		return s, nil
	}
	return s, err
}

// reschedule stores an item that was not due after all.
func (q *Queue) reschedule(tx store.Tx, w plane.WorkItem) error {
	at := q.due(w)
	if at.Equal(w.DueAt) {
		return errNothing
	}
	w.DueAt = at
	return tx.UpdateWork(w)
}

// silent says that a held session has waited for answers, and nothing has
// happened in it, for the whole stall budget.
func (q *Queue) silent(tx store.Tx, w plane.WorkItem, now time.Time) (bool, error) {
	if w.State != api.WorkActive || w.AckedAt == nil || now.Sub(*w.AckedAt) < q.cfg.Stall {
		return false, nil
	}
	s, err := tx.Session(w.SessionID)
	if notFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return silentFor(s, now) >= q.cfg.Stall, nil
}

// silentFor is for how long a session has waited for answers.
func silentFor(s plane.Session, now time.Time) time.Duration {
	if s.Turn != plane.TurnCalls || s.LastProcessedAt.IsZero() {
		return 0
	}
	return now.Sub(s.LastProcessedAt)
}

// prune deletes items that stopped long ago, and workers that nobody counts:
// any text may name one.
func (q *Queue) prune(ctx context.Context) error {
	now := q.now()
	return q.st.Update(ctx, func(tx store.Tx) error { return tx.PruneWork(now.Add(-q.cfg.Retention), now.Add(-pruneEvery)) })
}
