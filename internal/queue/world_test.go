package queue

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/auth"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

// hand is a clock that a test moves.
type hand struct {
	mu     sync.Mutex
	now    time.Time
	alarms []*alarm
	set    *sync.Cond // an alarm was set
}

type alarm struct {
	at time.Time
	f  func()
}

func newHand() *hand {
	h := &hand{now: time.Date(2026, 11, 23, 22, 0, 0, 0, time.UTC)}
	h.set = sync.NewCond(&h.mu)
	return h
}

func (h *hand) Now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func (h *hand) AfterFunc(d time.Duration, f func()) func() {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := &alarm{h.now.Add(d), f}
	h.alarms = append(h.alarms, a)
	h.set.Broadcast()
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.alarms = slices.DeleteFunc(h.alarms, func(o *alarm) bool { return o == a })
	}
}

// advance moves the clock and rings what is due.
func (h *hand) advance(d time.Duration) {
	h.mu.Lock()
	h.now = h.now.Add(d)
	var due []*alarm
	h.alarms = slices.DeleteFunc(h.alarms, func(a *alarm) bool {
		if a.at.After(h.now) {
			return false
		}
		due = append(due, a)
		return true
	})
	h.mu.Unlock()
	for _, a := range due {
		a.f()
	}
}

// awaitAlarm waits until somebody has set an alarm d from now.
func (h *hand) awaitAlarm(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	lost := time.AfterFunc(patience, func() { panic("nobody set the alarm") })
	defer lost.Stop()
	for !slices.ContainsFunc(h.alarms, func(a *alarm) bool { return a.at.Equal(h.now.Add(d)) }) {
		h.set.Wait()
	}
}

// world is a queue with one environment, a clock in the test's hand and no
// goroutine of its own unless the test starts it.
type world struct {
	testing.TB
	st    store.Store
	looks *looks
	q     *Queue
	clock *hand

	mu     sync.Mutex
	gaveUp []string // sessions
	n      int
}

const env = "env_1"

var (
	operator = auth.Identity{Kind: plane.CallerAPI, KeyID: "apikey01", Standing: plane.Live}
	envKey   = auth.Identity{Kind: plane.CallerEnvironment, KeyID: "envkey01", EnvironmentID: env, Standing: plane.Live}
	envKey2  = auth.Identity{Kind: plane.CallerEnvironment, KeyID: "envkey02", EnvironmentID: env, Standing: plane.Live}
)

func newWorld(t testing.TB, st store.Store, cfg Config) *world {
	w := &world{TB: t, st: st, looks: &looks{Store: st}, clock: newHand()}
	cfg.Clock, cfg.GiveUp = w.clock, w.giveUp
	cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	w.q = New(w.looks, cfg)
	w.update(func(tx store.Tx) error {
		return errors.Join(tx.InsertEnvironment(storetest.Environment(env, "one", w.clock.now)),
			tx.InsertEnvironment(storetest.Environment("env_2", "two", w.clock.now)))
	})
	return w
}

func each(t *testing.T, f func(w *world)) {
	storetest.Each(t, func(t *testing.T, st store.Store) { f(newWorld(t, st, Config{})) })
}

func (w *world) update(fn func(store.Tx) error) {
	w.Helper()
	if err := w.st.Update(w.Context(), fn); err != nil {
		w.Fatal(err)
	}
}

// giveUp does what the loop does: no call stays open, the session rests.
func (w *world) giveUp(tx store.Tx, s *plane.Session, reason string) error {
	if err := voidCalls(tx, s.ID); err != nil {
		return err
	}
	s.Turn = plane.TurnRest
	w.mu.Lock()
	w.gaveUp = append(w.gaveUp, s.ID)
	w.mu.Unlock()
	return nil
}

func voidCalls(tx store.Tx, session string) error {
	calls, err := tx.OpenCalls(session)
	if err != nil {
		return err
	}
	for _, c := range calls {
		c.State = plane.CallVoid
		if err := tx.UpdateCall(c); err != nil {
			return err
		}
	}
	return nil
}

// session makes a session, as turn does, with or without input.
func (w *world) session(input bool) string {
	w.Helper()
	w.n++
	id := fmt.Sprintf("sesn_%04d", w.n)
	w.clock.advance(time.Millisecond)
	s := storetest.Session(id, env, w.clock.Now())
	w.update(func(tx store.Tx) error {
		s := s
		if input {
			at := w.clock.Now()
			s.HasInput, s.LastInputAt, s.LastProcessedAt, s.Turn = true, &at, at, plane.TurnWanted
		}
		return errors.Join(tx.InsertSession(s), w.q.Offer(tx, &s))
	})
	return id
}

func (w *world) with(id string, fn func(tx store.Tx, s *plane.Session) error) {
	w.Helper()
	w.update(func(tx store.Tx) error {
		s, err := tx.LockSession(id)
		if err != nil {
			return err
		}
		if err := fn(tx, &s); err != nil {
			return err
		}
		return tx.UpdateSession(s)
	})
}

// input is a user's message.
func (w *world) input(id string) {
	w.Helper()
	w.with(id, func(tx store.Tx, s *plane.Session) error {
		at := w.clock.Now()
		s.HasInput, s.LastInputAt, s.LastProcessedAt = true, &at, at
		if s.Turn == plane.TurnRest {
			s.Turn = plane.TurnWanted
		}
		return w.q.Offer(tx, s)
	})
}

// rest ends the turn.
func (w *world) rest(id string) {
	w.Helper()
	w.with(id, func(tx store.Tx, s *plane.Session) error { s.Turn = plane.TurnRest; return nil })
}

// call has the model ask for a tool.
func (w *world) call(session, id string, kind plane.CallKind, state plane.CallState) {
	w.Helper()
	w.with(session, func(tx store.Tx, s *plane.Session) error {
		s.Turn, s.LastProcessedAt = plane.TurnCalls, w.clock.Now()
		s.Pos++
		return errors.Join(tx.InsertCalls(plane.Call{SessionID: session, ID: id, Kind: kind, Name: "bash", State: state, Pos: s.Pos}), w.q.Offer(tx, s))
	})
}

func (w *world) tool(session, id string) {
	w.Helper()
	w.call(session, id, plane.CallTool, plane.CallOpen)
}

// result answers a call.
func (w *world) result(session, id string) {
	w.Helper()
	w.with(session, func(tx store.Tx, s *plane.Session) error {
		c, err := tx.Call(session, id)
		if err != nil {
			return err
		}
		c.State = plane.CallAnswered
		if err := tx.UpdateCall(c); err != nil {
			return err
		}
		left, err := tx.OpenCalls(session)
		if err != nil {
			return err
		}
		at := w.clock.Now()
		s.LastInputAt, s.LastProcessedAt = &at, at
		if len(left) == 0 {
			s.Turn = plane.TurnWanted
		}
		return w.q.Progress(tx, session)
	})
}

// delete removes a session, as turn does.
func (w *world) delete(id string) {
	w.Helper()
	w.update(func(tx store.Tx) error { return errors.Join(w.q.EndSession(tx, id), tx.DeleteSession(id)) })
}

// delivery is what a worker got from a poll.
type delivery struct {
	*api.Work
	secret api.WorkSecret
	who    auth.Identity // of its token
}

// poll asks once; nil for nothing.
func (w *world) poll(worker string) *delivery {
	w.Helper()
	work, err := w.q.Poll(w.Context(), env, worker, 0, 5*time.Second)
	if err != nil {
		w.Fatal(err)
	}
	if work == nil {
		return nil
	}
	return w.open(work)
}

func (w *world) open(work *api.Work) *delivery {
	w.Helper()
	d := &delivery{Work: work}
	b, err := base64.RawURLEncoding.DecodeString(*work.Secret)
	if err == nil {
		err = json.Unmarshal(b, &d.secret)
	}
	if err != nil {
		w.Fatal(err)
	}
	d.who = w.check(d)
	return d
}

// check is who the delivery's token is now.
func (w *world) check(d *delivery) auth.Identity {
	w.Helper()
	who, err := auth.New(w.st).Check(w.Context(), d.secret.SessionsToken)
	if err != nil {
		w.Fatal(err)
	}
	it := w.item(d.ID)
	who.Standing = it.TokenStanding(w.clock.Now())
	return who
}

// must polls and wants the session's item.
func (w *world) must(worker, session string) *delivery {
	w.Helper()
	d := w.poll(worker)
	if d == nil {
		w.Fatalf("nothing is offered, want %s", session)
	}
	if d.Data.ID != session {
		w.Fatalf("polled %s, want %s", d.Data.ID, session)
	}
	return d
}

func (w *world) none(why string) {
	w.Helper()
	if d := w.poll("w"); d != nil {
		w.Fatalf("%s: offered %s of %s", why, d.ID, d.Data.ID)
	}
}

func (w *world) ack(d *delivery) {
	w.Helper()
	if _, err := w.q.Ack(w.Context(), envKey, env, d.ID); err != nil {
		w.Fatal(err)
	}
}

// held polls, acks and beats for the session.
func (w *world) held(worker, session string) (*delivery, api.Heartbeat) {
	w.Helper()
	d := w.must(worker, session)
	w.ack(d)
	return d, w.beat(d.who, d.ID, api.NoHeartbeat)
}

func (w *world) beat(who auth.Identity, id, expected string) api.Heartbeat {
	w.Helper()
	h, err := w.q.Beat(w.Context(), who, env, id, &expected, 0)
	if err != nil {
		w.Fatal(err)
	}
	return h
}

// keep beats for a while, so that the lease holds.
func (w *world) keep(d *delivery, h api.Heartbeat, while time.Duration) api.Heartbeat {
	w.Helper()
	for end := w.clock.Now().Add(while); w.clock.Now().Before(end); {
		w.clock.advance(min(30*time.Second, end.Sub(w.clock.Now())))
		w.sweep()
		h = w.beat(d.who, d.ID, h.LastHeartbeat)
	}
	return h
}

func (w *world) stop(who auth.Identity, id string, force bool) api.Work {
	w.Helper()
	work, err := w.q.StopWork(w.Context(), who, env, id, Stop{Force: force})
	if err != nil {
		w.Fatal(err)
	}
	return work
}

func (w *world) sweep() {
	w.Helper()
	if _, err := w.q.sweep(w.Context()); err != nil {
		w.Fatal(err)
	}
}

// pass lets time go by and sweeps.
func (w *world) pass(d time.Duration) {
	w.Helper()
	w.clock.advance(d)
	w.sweep()
}

func (w *world) item(id string) (item plane.WorkItem) {
	w.Helper()
	if err := w.st.View(w.Context(), func(r store.Reader) (err error) { item, err = r.Work(id); return err }); err != nil {
		w.Fatal(err)
	}
	return item
}

// live is the session's item that is not stopped; nil if there is none.
func (w *world) live(session string) *plane.WorkItem {
	w.Helper()
	var item plane.WorkItem
	err := w.st.View(w.Context(), func(r store.Reader) (err error) { item, err = r.LiveWork(session); return err })
	if notFound(err) {
		return nil
	}
	if err != nil {
		w.Fatal(err)
	}
	return &item
}

func (w *world) wantState(id string, want api.WorkState, by plane.EndedBy) {
	w.Helper()
	if it := w.item(id); it.State != want || it.EndedBy != by {
		w.Errorf("the item is %s, ended by %q; want %s, %q", it.State, it.EndedBy, want, by)
	}
}

func (w *world) wantKind(err error, kind plane.Kind) {
	w.Helper()
	if err == nil || plane.KindOf(err) != kind {
		w.Errorf("error %v, want kind %d", err, kind)
	}
}
