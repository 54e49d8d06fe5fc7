package queue

import (
	"context"
	"errors"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/auth"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

// errSettle makes a call settle what time has done to the item, and begin
// again.
var errSettle = errors.New("the item must be settled first")

// settled runs a transition; when it finds that the item's time has run out,
// that is dealt with first. late says that it need not look again.
func (q *Queue) settled(ctx context.Context, id string, fn func(tx store.Tx, late bool) error) error {
	for try := 0; ; try++ {
		err := q.st.Update(ctx, func(tx store.Tx) error { return fn(tx, try > 1) })
		if !errors.Is(err, errSettle) {
			return err
		}
		if err := q.settle(ctx, id); err != nil {
			return err
		}
	}
}

// lock gives a locked item to a caller who may know of it.
func lock(tx store.Tx, who auth.Identity, environment, id string) (plane.WorkItem, error) {
	if err := mayKnow(who, environment, id); err != nil {
		return plane.WorkItem{}, err
	}
	w, err := tx.LockWork(id)
	return w, within(w, environment, err)
}

// lockCalls is lock with the open calls of the item's session.
func lockCalls(tx store.Tx, who auth.Identity, environment, id string) (plane.WorkItem, []plane.Call, error) {
	if err := mayKnow(who, environment, id); err != nil {
		return plane.WorkItem{}, nil, err
	}
	w, calls, err := tx.LockWorkCalls(id)
	return w, calls, within(w, environment, err)
}

func within(w plane.WorkItem, environment string, err error) error {
	if err == nil && w.EnvironmentID != environment {
		return plane.Errorf(plane.NotFound, "no work item %s in this environment", w.ID)
	}
	return err
}

func mayKnow(who auth.Identity, environment, id string) error {
	if who.EnvironmentID != "" && who.EnvironmentID != environment {
		return plane.Errorf(plane.Forbidden, "the credential is for another environment")
	}
	if who.Kind == plane.CallerSessions && who.WorkID != id {
		return plane.Errorf(plane.Forbidden, "the credential is for another work item")
	}
	return nil
}

// Ack takes a polled item: the start-up lease begins. A repeat by the same
// credential gives the item as it is. Conflict when it has been stopped, was
// handed to somebody else, or is held by another credential.
func (q *Queue) Ack(ctx context.Context, who auth.Identity, environment, id string) (api.Work, error) {
	var out plane.WorkItem
	err := q.settled(ctx, id, func(tx store.Tx, late bool) error {
		w, err := lock(tx, who, environment, id)
		if err != nil {
			return err
		}
		now := q.now()
		out = w
		switch {
		case w.SupersededBy != "":
			return plane.Errorf(plane.Conflict, "this delivery is over: the work was handed to another worker under a new id")
		case w.State == api.WorkStopped:
			return plane.Errorf(plane.Conflict, "the work item is stopped")
		case w.Lapsed(now) && !late:
			return errSettle
		case w.State != api.WorkQueued:
			if who.KeyID == w.AckedByKey || who.Kind == plane.CallerSessions {
				return nil
			}
			return plane.Errorf(plane.Conflict, "the work item is held by another credential")
		}
		env, err := tx.Environment(environment)
		if err != nil {
			return err
		}
		if w.DeliveredAt == nil { // found in the list: a delivery all the same
			w.Tries++
		}
		w.State, w.AckedAt, w.AckedByKey = api.WorkStarting, &now, who.KeyID
		w.TTLSeconds = int(seconds(env.Metadata, plane.SettingLeaseTTL, q.cfg.Lease, minTTL, maxTTL) / time.Second)
		w.LeaseUntil = now.Add(seconds(env.Metadata, plane.SettingStartupSeconds, q.cfg.Startup, minStartup, maxStartup))
		w.DueAt = q.due(w)
		out = w
		return tx.UpdateWork(w)
	})
	if err != nil {
		return api.Work{}, err
	}
	q.alarm(out.DueAt)
	return Wire(out), nil
}

// Beat keeps a lease. expected is what the lease must stand at:
// api.NoHeartbeat claims it, the last answer's LastHeartbeat continues it, nil
// does not ask. desiredTTL is a wish in seconds, 0 for none. A beat that does
// not continue the lease is LeaseLost with details.current_state; a stopping
// or stopped item answers its state.
func (q *Queue) Beat(ctx context.Context, who auth.Identity, environment, id string, expected *string, desiredTTL int) (api.Heartbeat, error) {
	var (
		out api.Heartbeat
		due time.Time
	)
	err := q.settled(ctx, id, func(tx store.Tx, late bool) error {
		out, due = api.Heartbeat{}, time.Time{}
		w, err := lock(tx, who, environment, id)
		if err != nil {
			return err
		}
		now := q.now()
		if !late {
			if w.Lapsed(now) {
				return errSettle
			}
			silent, err := q.silent(tx, w, now)
			if err != nil {
				return err
			}
			if silent {
				return errSettle
			}
		}
		switch {
		case w.SupersededBy != "":
			return lost("this delivery is over: the work was handed to another worker under a new id",
				api.LeaseState{State: api.WorkStopped, TTLSeconds: w.TTLSeconds})
		case w.State == api.WorkStopped:
			out = heartbeat(w, false)
			return nil
		case w.State == api.WorkQueued:
			return lost("the work item has not been acknowledged", leaseState(w))
		case w.State == api.WorkStopping:
			// Its cleanup may take some beats, not for ever.
			beat(&w, now)
			if limit := q.stoppingUntil(w); w.LeaseUntil.After(limit) {
				w.LeaseUntil = limit
			}
			out = heartbeat(w, true)
		case repeats(w, who, expected, now):
			out = heartbeat(w, true)
			return nil
		case expected != nil && *expected != standsAt(w):
			return lost("the lease is not where the caller expects it", leaseState(w))
		default:
			if desiredTTL > 0 {
				w.TTLSeconds = min(max(desiredTTL, minTTL), maxTTL)
			}
			if w.StartedAt == nil {
				w.StartedAt = &now
				w.BeatByToken = who.Kind == plane.CallerSessions
			}
			w.State = api.WorkActive
			beat(&w, now)
			out = heartbeat(w, true)
		}
		w.DueAt = q.due(w)
		due = w.DueAt
		return tx.UpdateWork(w)
	})
	if err != nil {
		return api.Heartbeat{}, err
	}
	q.alarm(due)
	return out, nil
}

// beat moves the lease on.
func beat(w *plane.WorkItem, now time.Time) {
	w.PrevExpected = standsAt(*w)
	at := now
	if w.HeartbeatAt != nil && !at.After(*w.HeartbeatAt) {
		at = w.HeartbeatAt.Add(time.Microsecond) // strings of two beats differ
	}
	w.HeartbeatAt = &at
	w.LastHeartbeat = at.Format("2006-01-02T15:04:05.000000Z")
	w.LeaseUntil = now.Add(time.Duration(w.TTLSeconds) * time.Second)
}

// standsAt is what the next beat must expect.
func standsAt(w plane.WorkItem) string {
	if w.LastHeartbeat == "" {
		return api.NoHeartbeat
	}
	return w.LastHeartbeat
}

// repeats recognises a beat whose answer was lost: the same credential sends
// once more what its last accepted beat expected, within one interval.
func repeats(w plane.WorkItem, who auth.Identity, expected *string, now time.Time) bool {
	if expected == nil || w.HeartbeatAt == nil || *expected != w.PrevExpected || *expected == w.LastHeartbeat {
		return false
	}
	if (who.Kind == plane.CallerSessions) != w.BeatByToken {
		return false
	}
	interval := min(time.Duration(w.TTLSeconds)*time.Second/2, 30*time.Second)
	return now.Sub(*w.HeartbeatAt) <= interval
}

func heartbeat(w plane.WorkItem, extended bool) api.Heartbeat {
	return api.Heartbeat{
		Type: "work_heartbeat", LastHeartbeat: w.LastHeartbeat, LeaseExtended: extended,
		State: w.State, TTLSeconds: w.TTLSeconds,
	}
}

func leaseState(w plane.WorkItem) api.LeaseState {
	st := api.LeaseState{State: w.State, LeaseUpdatedAt: w.HeartbeatAt, TTLSeconds: w.TTLSeconds}
	if w.LastHeartbeat != "" {
		st.LastHeartbeat = &w.LastHeartbeat
	}
	return st
}

func lost(message string, st api.LeaseState) error {
	e := plane.Errorf(plane.LeaseLost, "%s", message).WithCode("heartbeat_precondition_failed")
	e.Details = map[string]any{"error_visibility": "user_facing", "current_state": st}
	return e
}

// Stop is how an item is to be stopped. Begun, of a holder by its token, are
// the calls that it may have begun and has not answered; nil does not say.
type Stop struct {
	Force bool
	Begun []string
}

// StopWork stops an item: by force at once, otherwise its holder learns by its
// next beat. Who asks decides what follows. An API key is an operator: the
// session waits for input. A holder that stops with open calls has failed
// them: they are offered again after a pause. An item that is stopped already,
// or superseded, is given as it is. Conflict when an environment key would
// force a lease that a sessions token holds.
func (q *Queue) StopWork(ctx context.Context, who auth.Identity, environment, id string, stop Stop) (api.Work, error) {
	var out plane.WorkItem
	// Most stops leave nothing behind and need no session: look first.
	err := q.settled(ctx, id, func(tx store.Tx, late bool) (err error) {
		w, calls, err := lockCalls(tx, who, environment, id)
		if err != nil {
			return err
		}
		out, err = q.stopItem(tx, w, calls, nil, who, stop, late)
		return err
	})
	if errors.Is(err, errBoth) {
		err = q.settled(ctx, id, func(tx store.Tx, late bool) error {
			w, err := tx.Work(id)
			if err != nil {
				return err
			}
			s, err := sessionOf(tx, w)
			if err != nil {
				return err
			}
			if w, err = lock(tx, who, environment, id); err != nil {
				return err
			}
			out, err = q.stopItem(tx, w, nil, &s, who, stop, late)
			return err
		})
	}
	if err != nil {
		return api.Work{}, err
	}
	q.alarm(out.DueAt)
	return Wire(out), nil
}

// errBoth says that a stop needs the session too.
var errBoth = errors.New("the session must be locked first")

// stopItem stops a locked item. Without its session (nil) it is errBoth when
// something may follow from it, as from the open calls of a holder's.
func (q *Queue) stopItem(tx store.Tx, w plane.WorkItem, calls []plane.Call, s *plane.Session, who auth.Identity, as Stop, late bool) (plane.WorkItem, error) {
	now := q.now()
	if w.State == api.WorkStopped {
		return w, nil
	}
	if w.Lapsed(now) && !late {
		return w, errSettle
	}
	by := plane.EndedHolder
	if who.Kind == plane.CallerAPI || w.State == api.WorkQueued && w.DeliveredAt == nil {
		by = plane.EndedOperator
	}
	if as.Force && who.Kind == plane.CallerEnvironment && w.BeatByToken {
		return w, plane.Errorf(plane.Conflict, "the work item is held by another worker")
	}
	if !as.Force && w.State != api.WorkQueued {
		if w.State == api.WorkStopping && (w.EndedBy != plane.EndedHolder || by == plane.EndedHolder) {
			return w, nil
		}
		q.ask(&w, by, now)
		return w, tx.UpdateWork(w)
	}
	if by == plane.EndedOperator && w.State != api.WorkQueued { // its holder's next beat may be far
		tx.Notify(store.Note{Session: w.SessionID, Taken: true})
	}
	asked := w.StopRequestedAt != nil
	// Whoever asked for the stop first is its author.
	if w.State == api.WorkStopping && w.EndedBy != plane.EndedNot && by != plane.EndedOperator {
		by = w.EndedBy
	}
	if !asked {
		w.StopRequestedAt = &now
	}
	stop(&w, by, now)
	said := as.Begun != nil && who.Kind == plane.CallerSessions
	if said {
		w.Streamed, w.PossiblyStarted = false, append(w.PossiblyStarted, as.Begun...)
	}
	if s != nil {
		return w, q.conclude(tx, w, s, said && w.Tries <= 1, now)
	}
	switch {
	case by == plane.EndedSession, by == plane.EndedOperator && !asked:
	case by != plane.EndedHolder || len(calls) > 0:
		return w, errBoth
	}
	w.PossiblyStarted, w.Streamed = openOf(calls).begunBy(w), false
	return w, tx.UpdateWork(w)
}
