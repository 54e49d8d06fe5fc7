package queue

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/auth"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

const (
	minTTL, maxTTL         = 10, 600 // seconds
	minStartup, maxStartup = 1, 3600
)

func notFound(err error) bool { return err != nil && plane.KindOf(err) == plane.NotFound }

// ended says that the session takes no more work.
func ended(s *plane.Session) bool {
	return s.ArchivedAt != nil || s.Status == api.SessionTerminated
}

// Offer makes sure that the session has a live item when it needs one. Call
// it at the session's creation, when input, a confirmation or an interrupt is
// accepted, and when tool uses are written; after s.HasInput, s.LastInputAt
// and s.Turn have been set, and with the session's lock held. It is cheap
// when there is nothing to do.
func (q *Queue) Offer(tx store.Tx, s *plane.Session) error {
	if ended(s) {
		return nil
	}
	now := q.now()
	// A reclaim may replace the item between look and lock, not for ever.
	for range 10 {
		w, err := tx.LastWork(s.ID)
		if notFound(err) {
			return q.offerFirst(tx, s, now)
		}
		if err == nil && w.State == api.WorkStopped {
			return q.offerAgain(tx, s, w, now)
		}
		if err == nil {
			// Locked even when it stays as it is: a holder that stops now
			// must see what this transition writes.
			w, err = tx.LockWork(w.ID)
		}
		switch {
		case err != nil:
			return fmt.Errorf("offer: %w", err)
		case w.State == api.WorkStopped && w.SupersededBy == "":
			return q.offerAgain(tx, s, w, now)
		case w.State == api.WorkStopped:
			continue
		case !q.stale(w, s, now):
			passedOver(tx, w)
			return nil
		}
		return q.refresh(tx, w, s, now)
	}
	return plane.Errorf(plane.Unavailable, "the session's work item keeps changing; try again")
}

// passedOver has polls look again after w was locked: one that came meanwhile
// has passed over it.
func passedOver(tx store.Tx, w plane.WorkItem) {
	if w.State == api.WorkQueued {
		tx.Notify(store.Note{Environment: w.EnvironmentID})
	}
}

func (q *Queue) offerFirst(tx store.Tx, s *plane.Session, now time.Time) error {
	if !s.HasInput {
		env, err := tx.Environment(s.EnvironmentID)
		if err != nil {
			return fmt.Errorf("offer: %w", err)
		}
		if env.Metadata[plane.SettingQueue] == "first_input" {
			return nil
		}
	}
	return q.insert(tx, item(s, now))
}

// offerAgain makes the item of a session whose last one has stopped.
func (q *Queue) offerAgain(tx store.Tx, s *plane.Session, last plane.WorkItem, now time.Time) error {
	if !s.HasInput || last.EndedBy == plane.EndedOperator && !inputSince(s, last) {
		return nil
	}
	calls, err := openCalls(tx, s)
	if err != nil {
		return err
	}
	w := item(s, now)
	w.PossiblyStarted = calls.begunBy(last)
	q.prefer(&w, last, now)
	return q.insert(tx, w)
}

func item(s *plane.Session, now time.Time) plane.WorkItem {
	md := maps.Clone(s.Metadata)
	if md == nil {
		md = api.Metadata{}
	}
	return plane.WorkItem{
		ID: plane.NewID(plane.PrefixWork), EnvironmentID: s.EnvironmentID, SessionID: s.ID,
		State: api.WorkQueued, Metadata: md, HasInput: s.HasInput, TokenID: auth.NewTokenID(), CreatedAt: now,
	}
}

func (q *Queue) insert(tx store.Tx, w plane.WorkItem) error {
	if err := tx.InsertWork(w); err != nil {
		return fmt.Errorf("offer: %w", err)
	}
	tx.Notify(store.Note{Environment: w.EnvironmentID})
	return nil
}

// inputSince says that a client sent something after the item was stopped, or
// was asked to stop.
func inputSince(s *plane.Session, w plane.WorkItem) bool {
	at := w.StopRequestedAt
	if at == nil {
		at = w.StoppedAt
	}
	return s.LastInputAt != nil && (at == nil || !s.LastInputAt.Before(*at))
}

// lifted says that the client came back during the pause after an early stop:
// it need not wait out the rest.
func (q *Queue) lifted(w plane.WorkItem, s *plane.Session, now time.Time) bool {
	return w.State == api.WorkQueued && w.NotBefore.After(now) && s.LastInputAt != nil &&
		s.LastInputAt.After(w.NotBefore.Add(-q.pause(w.Tries)))
}

// letGo says that the item is being taken from its holder for want of
// anything to do, and now there is.
func letGo(w plane.WorkItem, s *plane.Session) bool {
	return w.State == api.WorkStopping && w.EndedBy == plane.EndedUnattended && s.HasInput
}

// stale says that refresh would change the live item.
func (q *Queue) stale(w plane.WorkItem, s *plane.Session, now time.Time) bool {
	return s.HasInput && !w.HasInput || q.lifted(w, s, now) || letGo(w, s)
}

// refresh brings the live item, which is locked, up to date with its session.
func (q *Queue) refresh(tx store.Tx, w plane.WorkItem, s *plane.Session, now time.Time) error {
	w.HasInput = w.HasInput || s.HasInput
	if q.lifted(w, s, now) {
		w.NotBefore = time.Time{}
		tx.Notify(store.Note{Environment: w.EnvironmentID})
	}
	if letGo(w, s) {
		if w.HeartbeatAt != nil && w.StopRequestedAt != nil && !w.HeartbeatAt.Before(*w.StopRequestedAt) {
			// The holder knows that it must let go: somebody else, then.
			calls, err := openCalls(tx, s)
			if err != nil {
				return err
			}
			stop(&w, plane.EndedUnattended, now)
			return q.succeed(tx, w, calls, time.Time{}, now)
		}
		// It does not know yet: it may as well stay.
		w.State, w.EndedBy, w.StopRequestedAt = api.WorkActive, plane.EndedNot, nil
		if w.StartedAt == nil {
			w.State = api.WorkStarting
		}
	}
	w.DueAt = q.due(w)
	return tx.UpdateWork(w)
}

// Progress says that a result was accepted: the deliveries without one are
// counted from here.
func (q *Queue) Progress(tx store.Tx, session string) error {
	w, err := tx.LiveWork(session)
	if notFound(err) || err == nil && w.Tries == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("progress: %w", err)
	}
	if w, err = tx.LockWork(w.ID); err != nil {
		return fmt.Errorf("progress: %w", err)
	}
	if w.State == api.WorkStopped {
		return nil
	}
	w.Tries = 0
	passedOver(tx, w)
	return tx.UpdateWork(w)
}

// EndSession ends the session's item because the session was archived,
// deleted or terminated. Its token may finish from now on and no more.
func (q *Queue) EndSession(tx store.Tx, session string) error {
	now := q.now()
	for range 10 {
		w, err := tx.LiveWork(session)
		if notFound(err) {
			return nil
		}
		if err == nil {
			w, err = tx.LockWork(w.ID)
		}
		if err != nil {
			return fmt.Errorf("end the session's work: %w", err)
		}
		switch w.State {
		case api.WorkStopped: // replaced meanwhile
			continue
		case api.WorkQueued:
			stop(&w, plane.EndedSession, now)
		default:
			q.ask(&w, plane.EndedSession, now)
		}
		return tx.UpdateWork(w)
	}
	return plane.Errorf(plane.Unavailable, "the session's work item keeps changing; try again")
}

// stop ends the item. The caller stores it.
func stop(w *plane.WorkItem, by plane.EndedBy, now time.Time) {
	w.State, w.StoppedAt, w.EndedBy = api.WorkStopped, &now, by
	w.LeaseUntil, w.DueAt = time.Time{}, time.Time{}
}

// ask asks the item's holder to let go. The caller stores it.
func (q *Queue) ask(w *plane.WorkItem, by plane.EndedBy, now time.Time) {
	w.State, w.EndedBy = api.WorkStopping, by
	if w.StopRequestedAt == nil {
		w.StopRequestedAt = &now
	}
	w.DueAt = q.due(*w)
}

// due is when the sweep must look at the item next.
func (q *Queue) due(w plane.WorkItem) time.Time {
	var at time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	switch w.State {
	case api.WorkStarting, api.WorkActive:
		sooner(w.LeaseUntil)
		sooner(q.unattendedAt(w))
	case api.WorkStopping:
		sooner(w.LeaseUntil)
		sooner(q.stoppingUntil(w))
	}
	return at
}

// unattendedAt is when an item whose session never had input is let go.
func (q *Queue) unattendedAt(w plane.WorkItem) time.Time {
	if w.HasInput || w.AckedAt == nil {
		return time.Time{}
	}
	return w.AckedAt.Add(q.cfg.Unattended)
}

// stoppingUntil is when a holder that was asked to let go must have done so.
// One that never beat is probably none.
func (q *Queue) stoppingUntil(w plane.WorkItem) time.Time {
	switch {
	case w.StopRequestedAt == nil:
		return time.Time{}
	case w.HeartbeatAt == nil:
		return w.StopRequestedAt.Add(q.cfg.Reoffer)
	}
	return w.StopRequestedAt.Add(q.cfg.StopGrace)
}

// pause is how long an item rests after its holder's early stop.
func (q *Queue) pause(tries int) time.Duration {
	return q.cfg.Reoffer << min(max(tries-1, 0), 16)
}

// open are a session's open calls as the queue sees them.
type open struct {
	ids      []string // that a worker may have begun
	runnable bool     // one at least waits for a tool's result
	any      bool
}

// openCalls reads the session's open calls; a session that waits for none has
// none.
func openCalls(tx store.Tx, s *plane.Session) (open, error) {
	if s.Turn != plane.TurnCalls {
		return open{}, nil
	}
	calls, err := tx.OpenCalls(s.ID)
	if err != nil {
		return open{}, fmt.Errorf("open calls: %w", err)
	}
	return openOf(calls), nil
}

func openOf(calls []plane.Call) open {
	var o open
	for _, c := range calls {
		o.any = true
		if c.State == plane.CallOpen {
			o.ids = append(o.ids, c.ID)
			o.runnable = o.runnable || c.Kind == plane.CallTool
		}
	}
	return o
}

// begunBy lists the calls that the item's holder, or one before it, may have
// begun.
func (o open) begunBy(w plane.WorkItem) []string {
	if w.Streamed {
		return o.ids
	}
	var ids []string
	for _, id := range o.ids {
		if slices.Contains(w.PossiblyStarted, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// prefer gives the last holder the first chance, if it is around.
func (q *Queue) prefer(w *plane.WorkItem, last plane.WorkItem, now time.Time) {
	if last.DeliveredTo != "" && q.seen.within(last.EnvironmentID, last.DeliveredTo, now, q.cfg.AffinitySeen) {
		w.PreferWorker, w.PreferUntil = last.DeliveredTo, now.Add(q.cfg.Affinity)
	}
}

// succession is the item that takes the place of an old one.
func succession(old plane.WorkItem, calls open) plane.WorkItem {
	return plane.WorkItem{
		ID: plane.NewID(plane.PrefixWork), EnvironmentID: old.EnvironmentID, SessionID: old.SessionID,
		State: api.WorkQueued, Metadata: old.Metadata, HasInput: old.HasInput, TokenID: auth.NewTokenID(),
		CreatedAt: old.CreatedAt, Tries: old.Tries, PossiblyStarted: calls.begunBy(old),
	}
}

// succeed stores the item, which was stopped, and offers one in its place.
func (q *Queue) succeed(tx store.Tx, old plane.WorkItem, calls open, notBefore, now time.Time) error {
	w := succession(old, calls)
	w.NotBefore = notBefore
	if notBefore.IsZero() {
		q.prefer(&w, old, now)
	}
	old.SupersededBy = w.ID
	if err := tx.UpdateWork(old); err != nil {
		return err
	}
	return q.insert(tx, w)
}

// conclude stores the item, which was stopped, and decides what becomes of
// its session: it is offered again, given up, or left alone until input; at
// once says that it need not rest after a holder's early stop. The session is
// locked.
func (q *Queue) conclude(tx store.Tx, w plane.WorkItem, s *plane.Session, atOnce bool, now time.Time) error {
	if ended(s) || w.EndedBy == plane.EndedSession {
		return tx.UpdateWork(w)
	}
	calls, err := openCalls(tx, s)
	if err != nil {
		return err
	}
	w.HasInput = w.HasInput || s.HasInput
	var (
		again     bool
		notBefore time.Time
	)
	switch w.EndedBy {
	case plane.EndedReclaim: // nobody has begun
		again = true
	case plane.EndedLapse:
		again = calls.any || s.Turn == plane.TurnWanted
	case plane.EndedHolder:
		// Between calls nothing is lost: the next one brings a new item.
		if again = calls.runnable; again && !atOnce {
			from := now
			if w.StopRequestedAt != nil {
				from = *w.StopRequestedAt
			}
			notBefore = from.Add(q.pause(w.Tries))
		}
	case plane.EndedOperator, plane.EndedUnattended, plane.EndedStall:
		if again = inputSince(s, w) && (calls.any || s.Turn == plane.TurnWanted); again {
			w.Tries = 0
		}
	}
	if again && w.Tries < q.cfg.MaxTries {
		return q.succeed(tx, w, calls, notBefore, now)
	}
	// What comes, or may run, from now on nobody has begun.
	w.PossiblyStarted, w.Streamed = calls.begunBy(w), false
	if err := tx.UpdateWork(w); err != nil {
		return err
	}
	if !again || !calls.runnable {
		return nil // nothing waits for a worker; the next call or input brings an item
	}
	return q.giveUp(tx, s, fmt.Sprintf("the tools of this session were handed to a worker %d times and none sent a result", w.Tries))
}

func (q *Queue) giveUp(tx store.Tx, s *plane.Session, reason string) error {
	if q.cfg.GiveUp == nil {
		return nil
	}
	if err := q.cfg.GiveUp(tx, s, reason); err != nil {
		return fmt.Errorf("give the session up: %w", err)
	}
	return tx.UpdateSession(*s)
}

// seconds reads a bounded number of seconds from an environment's metadata.
func seconds(md api.Metadata, key string, def time.Duration, least, most int) time.Duration {
	n, err := strconv.Atoi(md[key])
	if err != nil {
		return def
	}
	return time.Duration(min(max(n, least), most)) * time.Second
}
