package queue

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/auth"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

const (
	maxWorkerID = 256 // bytes
	// claimTime bounds a delivery that goes on although its caller has left.
	claimTime = 10 * time.Second
)

// errNothing ends a transition that found nothing to do and wrote nothing.
var errNothing = errors.New("nothing to do")

// Poll delivers the environment's next item to a worker, with its secret; nil
// when there is none within block (at once when block is 0) or when the queue
// stops. worker may be empty. An item that was delivered longer than reclaim
// ago and not acked is delivered again under a new id. When ctx is done, an
// item that was just claimed is given back.
func (q *Queue) Poll(ctx context.Context, environment, worker string, block, reclaim time.Duration) (*api.Work, error) {
	if len(worker) > maxWorkerID {
		return nil, plane.Errorf(plane.Invalid, "has more than %d bytes", maxWorkerID).In("Anthropic-Worker-ID")
	}
	worker = strings.ToValidUTF8(worker, "�")
	if block <= 0 {
		work, _, err := q.deliver(ctx, environment, worker, reclaim)
		return work, err
	}
	quit := q.quitting()
	timeout := make(chan struct{})
	defer q.cfg.Clock.AfterFunc(block, func() { close(timeout) })()

	// In line before the first look, so that no offer falls between them.
	me := &waiter{env: environment, woken: make(chan struct{}, 1)}
	q.rooms.enter(me, false)
	for last := false; ; {
		work, next, err := q.deliver(ctx, environment, worker, reclaim)
		if work != nil || err != nil || last {
			if !q.rooms.leave(me) {
				q.rooms.wakeOne(environment) // the call was for another item
			}
			return work, err
		}
		if !next.IsZero() {
			q.rooms.heldBack(environment, next, q.now(), q.cfg.Affinity)
		}
		select {
		case <-me.woken:
			q.rooms.enter(me, true)
		case <-timeout:
			if q.rooms.leave(me) {
				q.seen.sight(environment, worker, q.now())
				return nil, nil
			}
			last = true // called at the last moment
			<-me.woken
		case <-quit:
			q.rooms.leave(me)
			return nil, nil
		case <-ctx.Done():
			if !q.rooms.leave(me) {
				q.rooms.wakeOne(environment)
			}
			return nil, context.Cause(ctx)
		}
	}
}

// deliver claims an item if there is one; next is when there may be one
// otherwise, zero for not foreseen.
func (q *Queue) deliver(ctx context.Context, environment, worker string, reclaim time.Duration) (*api.Work, time.Time, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, time.Time{}, context.Cause(ctx)
		}
		w, token, next, err := q.claim(ctx, environment, worker, reclaim)
		if spent, ok := errors.AsType[*spentError](err); ok {
			if err := q.exhaust(ctx, spent); err != nil {
				return nil, next, err
			}
			continue
		}
		if err != nil || token == "" {
			return nil, next, err
		}
		if ctx.Err() != nil {
			q.giveBack(ctx, w)
			return nil, next, context.Cause(ctx)
		}
		work := Wire(w)
		secret, err := secretOf(w, token)
		if err != nil {
			return nil, next, err
		}
		work.Secret = &secret
		return &work, next, nil
	}
}

// spentError names an unacked item that is not to be delivered once more: it
// has been too often, or its session is gone.
type spentError struct {
	id    string
	token [32]byte // hash of that of its last delivery
}

func (e *spentError) Error() string { return "not to be delivered again: " + e.id }

func (q *Queue) claim(ctx context.Context, environment, worker string, reclaim time.Duration) (got plane.WorkItem, token string, next time.Time, err error) {
	now := q.now()
	tell := worker != "" && q.seen.sight(environment, worker, now)
	// The claim is finished whatever becomes of the caller, so that it can be
	// given back.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimTime)
	defer cancel()
	err = q.st.Update(ctx, func(tx store.Tx) error {
		got, token, next = plane.WorkItem{}, "", time.Time{}
		w, err := tx.ClaimWork(store.Claim{Environment: environment, Worker: worker, Now: now, ReclaimBefore: now.Add(-max(reclaim, 0))})
		if notFound(err) {
			if next, err = tx.NextOffer(environment, now); err != nil {
				return err
			}
			if tell {
				return tx.SawWorker(environment, worker, now)
			}
			return errNothing
		}
		if err != nil {
			return err
		}
		fresh := w.DeliveredAt == nil
		if !fresh {
			if w.Tries >= q.cfg.MaxTries {
				return &spentError{w.ID, w.TokenHash}
			}
			old := w
			var calls open
			if w.Streamed || len(w.PossiblyStarted) > 0 {
				s, err := tx.Session(w.SessionID)
				if notFound(err) {
					return &spentError{w.ID, w.TokenHash}
				}
				if err != nil {
					return err
				}
				if calls, err = openCalls(tx, &s); err != nil {
					return err
				}
			}
			w = succession(old, calls)
			stop(&old, plane.EndedReclaim, now)
			old.SupersededBy = w.ID
			if err := tx.UpdateWork(old); err != nil {
				return err
			}
		}
		w.DeliveredAt, w.DeliveredTo = &now, worker
		w.Tries++
		if w.TokenID == "" { // of an earlier version
			w.TokenID = auth.NewTokenID()
		}
		token, w.TokenHash = auth.NewToken(w.TokenID)
		got = w
		if tell {
			if err := tx.SawWorker(environment, worker, now); err != nil {
				return err
			}
		}
		if fresh {
			return tx.UpdateWork(w)
		}
		return tx.InsertWork(w)
	})
	if errors.Is(err, errNothing) {
		return got, "", next, nil
	}
	if err == nil && tell {
		q.seen.wrote(environment, worker, now)
	}
	return got, token, next, err
}

// giveBack undoes a delivery nobody received. What fails here is reclaimed.
func (q *Queue) giveBack(ctx context.Context, got plane.WorkItem) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimTime)
	defer cancel()
	err := q.st.Update(ctx, func(tx store.Tx) error {
		w, err := tx.LockWork(got.ID)
		if err != nil {
			return err
		}
		if w.State != api.WorkQueued || w.TokenHash != got.TokenHash {
			return errNothing
		}
		w.DeliveredAt, w.DeliveredTo, w.TokenHash = nil, "", [32]byte{}
		w.Tries = max(w.Tries-1, 0)
		tx.Notify(store.Note{Environment: w.EnvironmentID})
		return tx.UpdateWork(w)
	})
	if err != nil && !errors.Is(err, errNothing) {
		q.log.Warn("queue: an item was not given back; it will be reclaimed", "work", got.ID, "error", err)
	}
}

func secretOf(w plane.WorkItem, token string) (string, error) {
	begun := w.PossiblyStarted
	if begun == nil {
		begun = []string{} // known to be none
	}
	b, err := json.Marshal(api.WorkSecret{SessionsToken: token, PossiblyStarted: begun})
	if err != nil {
		return "", fmt.Errorf("encode the secret: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(b), nil
}
