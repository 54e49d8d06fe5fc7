package queue

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/auth"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

func TestADeliveryFromOfferToStop(t *testing.T) {
	each(t, func(w *world) {
		w.none("nothing was offered")
		s := w.session(true)
		d := w.must("w1", s)
		if d.State != api.WorkQueued || d.Type != "work" || d.EnvironmentID != env || d.Metadata["input"] != "a" || d.AcknowledgedAt != nil {
			t.Errorf("delivered %+v", d.Work)
		}
		if who := d.who; who.Kind != plane.CallerSessions || who.WorkID != d.ID || who.SessionID != s || !who.Live() {
			t.Errorf("the token is %+v", who)
		}
		w.none("delivered already")

		acked, err := w.q.Ack(t.Context(), envKey, env, d.ID)
		if err != nil || acked.State != api.WorkStarting || acked.AcknowledgedAt == nil || acked.Secret != nil {
			t.Fatalf("acked %+v %v", acked, err)
		}
		w.clock.advance(time.Second)
		h := w.beat(d.who, d.ID, api.NoHeartbeat)
		if !h.LeaseExtended || h.State != api.WorkActive || h.TTLSeconds != 60 || h.LastHeartbeat == "" || h.Type != "work_heartbeat" {
			t.Errorf("first beat %+v", h)
		}
		w.clock.advance(30 * time.Second)
		h2 := w.beat(d.who, d.ID, h.LastHeartbeat)
		if !h2.LeaseExtended || h2.LastHeartbeat == h.LastHeartbeat {
			t.Errorf("second beat %+v", h2)
		}
		got, err := w.q.Get(t.Context(), env, d.ID)
		if err != nil || got.StartedAt == nil || got.LatestHeartbeatAt == nil || !got.LatestHeartbeatAt.After(*got.StartedAt) {
			t.Errorf("started %+v %v", got, err)
		}
		w.rest(s)
		if done := w.stop(d.who, d.ID, true); done.State != api.WorkStopped || done.StoppedAt == nil {
			t.Errorf("stopped %+v", done)
		}
		w.wantState(d.ID, api.WorkStopped, plane.EndedHolder)
		w.none("the session rests")
		if who := w.check(d); who.Standing != plane.Grace {
			t.Errorf("the token is %s after a normal end", who.Standing)
		}
		w.clock.advance(plane.TokenGrace)
		if who := w.check(d); who.Standing != plane.Dead {
			t.Errorf("the token is %s after the grace", who.Standing)
		}
		w.input(s)
		if next := w.must("w1", s); next.ID == d.ID {
			t.Error("new input reuses a stopped item")
		}
	})
}

func TestAck(t *testing.T) {
	each(t, func(w *world) {
		ctx := t.Context()
		s := w.session(true)
		d := w.must("w1", s)
		_, err := w.q.Ack(ctx, envKey, env, "work_none")
		w.wantKind(err, plane.NotFound)
		_, err = w.q.Ack(ctx, operator, "env_2", d.ID)
		w.wantKind(err, plane.NotFound)
		_, err = w.q.Ack(ctx, auth.Identity{Kind: plane.CallerEnvironment, KeyID: "x", EnvironmentID: "env_2"}, env, d.ID)
		w.wantKind(err, plane.Forbidden)
		stranger := d.who
		stranger.WorkID = "work_other"
		_, err = w.q.Ack(ctx, stranger, env, d.ID)
		w.wantKind(err, plane.Forbidden)

		w.ack(d)
		w.ack(d) // again, by the same credential
		if again, err := w.q.Ack(ctx, d.who, env, d.ID); err != nil || again.State != api.WorkStarting {
			t.Errorf("by its own token: %+v %v", again, err)
		}
		_, err = w.q.Ack(ctx, envKey2, env, d.ID)
		w.wantKind(err, plane.Conflict)
		w.stop(operator, d.ID, false)
		if again, err := w.q.Ack(ctx, envKey, env, d.ID); err != nil || again.State != api.WorkStopping {
			t.Errorf("a repeat while stopping: %+v %v", again, err)
		}
		w.stop(operator, d.ID, true)
		_, err = w.q.Ack(ctx, envKey, env, d.ID)
		w.wantKind(err, plane.Conflict)

		// Nobody's delivery, found in the list.
		other := w.session(true)
		it := w.live(other)
		if _, err := w.q.Ack(ctx, envKey, env, it.ID); err != nil {
			t.Fatal(err)
		}
		w.none("acked without a poll")
		// After the start-up lease it is too late.
		w.clock.advance(120 * time.Second)
		_, err = w.q.Ack(ctx, envKey, env, it.ID)
		w.wantKind(err, plane.Conflict)
	})
}

func leaseLost(t testing.TB, err error) api.LeaseState {
	t.Helper()
	e, ok := errors.AsType[*plane.Error](err)
	if !ok || e.Kind != plane.LeaseLost || e.Code != "heartbeat_precondition_failed" {
		t.Errorf("error %v is no lost lease", err)
		return api.LeaseState{}
	}
	st, ok := e.Details["current_state"].(api.LeaseState)
	if !ok || e.Details["error_visibility"] != "user_facing" {
		t.Errorf("details %+v", e.Details)
	}
	return st
}

func TestBeatCompares(t *testing.T) {
	each(t, func(w *world) {
		ctx := t.Context()
		no := api.NoHeartbeat
		s := w.session(true)
		d := w.must("w1", s)
		_, err := w.q.Beat(ctx, d.who, env, d.ID, &no, 0)
		if st := leaseLost(t, err); st.State != api.WorkQueued || st.LastHeartbeat != nil {
			t.Errorf("before the ack: %+v", st)
		}
		w.ack(d)
		wrong := "2026-01-01T00:00:00Z"
		_, err = w.q.Beat(ctx, d.who, env, d.ID, &wrong, 0)
		if st := leaseLost(t, err); st.State != api.WorkStarting || st.LastHeartbeat != nil {
			t.Errorf("a claim that is none: %+v", st)
		}
		first := w.beat(d.who, d.ID, no)
		// The answer was lost: the client says it again.
		if again := w.beat(d.who, d.ID, no); again != first {
			t.Errorf("a repeated claim gives %+v, want %+v", again, first)
		}
		// Somebody else claims with the environment's key.
		_, err = w.q.Beat(ctx, envKey, env, d.ID, &no, 0)
		if st := leaseLost(t, err); st.LastHeartbeat == nil || *st.LastHeartbeat != first.LastHeartbeat || st.LeaseUpdatedAt == nil || st.State != api.WorkActive || st.TTLSeconds != 60 {
			t.Errorf("a foreign claim: %+v", st)
		}
		w.clock.advance(20 * time.Second)
		second := w.beat(d.who, d.ID, first.LastHeartbeat)
		if again := w.beat(d.who, d.ID, first.LastHeartbeat); again != second {
			t.Errorf("a repeated beat gives %+v, want %+v", again, second)
		}
		_, err = w.q.Beat(ctx, d.who, env, d.ID, &no, 0)
		leaseLost(t, err)
		w.clock.advance(31 * time.Second)
		_, err = w.q.Beat(ctx, d.who, env, d.ID, &first.LastHeartbeat, 0)
		leaseLost(t, err) // a repeat after the interval is none
		if h, err := w.q.Beat(ctx, d.who, env, d.ID, nil, 0); err != nil || !h.LeaseExtended {
			t.Errorf("without a condition: %+v %v", h, err)
		}
		_, err = w.q.Beat(ctx, envKey, env, "work_none", &no, 0)
		w.wantKind(err, plane.NotFound)
		// Two beats at one instant are two strings.
		one, _ := w.q.Beat(ctx, d.who, env, d.ID, nil, 0)
		two, _ := w.q.Beat(ctx, d.who, env, d.ID, nil, 0)
		if one.LastHeartbeat == two.LastHeartbeat {
			t.Error("two beats cannot be told apart")
		}
	})
}

func TestLeaseTimes(t *testing.T) {
	each(t, func(w *world) {
		ctx := t.Context()
		setEnv := func(md api.Metadata) {
			w.update(func(tx store.Tx) error {
				e, err := tx.Environment(env)
				if err != nil {
					return err
				}
				e.Metadata = md
				return tx.UpdateEnvironment(e)
			})
		}
		setEnv(api.Metadata{plane.SettingLeaseTTL: "15", plane.SettingStartupSeconds: "20"})
		s := w.session(true)
		d := w.must("w1", s)
		w.ack(d)
		if got := w.item(d.ID).LeaseUntil.Sub(w.clock.Now()); got != 20*time.Second {
			t.Errorf("start-up lease %v", got)
		}
		for _, c := range []struct{ desired, want int }{{0, 15}, {30, 30}, {0, 30}, {5, 10}, {9999, 600}} {
			h, err := w.q.Beat(ctx, d.who, env, d.ID, nil, c.desired)
			if err != nil || h.TTLSeconds != c.want {
				t.Errorf("wish %d: %+v %v", c.desired, h, err)
			}
			if got := w.item(d.ID).LeaseUntil.Sub(w.clock.Now()); got != time.Duration(c.want)*time.Second {
				t.Errorf("wish %d: the lease is %v", c.desired, got)
			}
		}
		setEnv(api.Metadata{plane.SettingLeaseTTL: "1"})
		other, h := w.held("w1", w.session(true))
		if h.TTLSeconds != minTTL {
			t.Errorf("an environment's lease of 1 s is %+v", h)
		}
		w.stop(other.who, other.ID, true)
	})
}

func TestBeatOfAnItemThatEnds(t *testing.T) {
	each(t, func(w *world) {
		s := w.session(true)
		d, _ := w.held("w1", s)
		w.clock.advance(time.Second)
		w.stop(operator, d.ID, false)
		w.wantState(d.ID, api.WorkStopping, plane.EndedOperator)
		// No comparison any more; the lease lasts for the cleanup.
		got := w.beat(d.who, d.ID, "whatever")
		if got.State != api.WorkStopping || !got.LeaseExtended {
			t.Errorf("while stopping: %+v", got)
		}
		if who := w.check(d); !who.Live() {
			t.Errorf("while stopping the token is %s", who.Standing)
		}
		w.stop(d.who, d.ID, true)
		w.wantState(d.ID, api.WorkStopped, plane.EndedOperator)
		if got := w.beat(d.who, d.ID, "whatever"); got.State != api.WorkStopped || got.LeaseExtended {
			t.Errorf("after the stop: %+v", got)
		}

		// A holder that beats for ever while stopping does not hold for ever.
		d, _ = w.held("w1", w.session(true))
		w.stop(operator, d.ID, false)
		for range 20 {
			w.pass(30 * time.Second)
			if w.item(d.ID).State == api.WorkStopped {
				return
			}
			w.beat(d.who, d.ID, "x")
		}
		t.Error("the item is stopping for ever")
	})
}

// The holder of a deleted session is told to let go and can; one that never
// does is let go by time.
func TestTheSessionIsDeletedUnderItsHolder(t *testing.T) {
	each(t, func(w *world) {
		remove := func(session string) {
			w.update(func(tx store.Tx) error {
				if err := w.q.EndSession(tx, session); err != nil {
					return err
				}
				return tx.DeleteSession(session)
			})
		}
		s := w.session(true)
		d, _ := w.held("w1", s)
		remove(s)
		if got := w.beat(d.who, d.ID, "whatever"); got.State != api.WorkStopping {
			t.Errorf("the beat said %+v", got)
		}
		w.stop(d.who, d.ID, true)
		w.wantState(d.ID, api.WorkStopped, plane.EndedSession)

		s = w.session(true)
		d, _ = w.held("w1", s)
		remove(s)
		for range 20 {
			w.pass(30 * time.Second)
			if w.item(d.ID).State == api.WorkStopped {
				return
			}
		}
		t.Error("nobody lets the item go")
	})
}

// Who stops, how, and what becomes of the item and its session.
func TestStop(t *testing.T) {
	type row struct {
		name   string
		stage  string // queued, delivered, acked, beaten (by token), keyed (beaten by key), stopping (by operator)
		who    string // api, env, token
		force  bool
		kind   plane.Kind // of the error; Internal for none
		state  api.WorkState
		by     plane.EndedBy
		offers time.Duration // when it is offered again, open call; -1 never
	}
	const never = -1
	rows := []row{
		{"operator, queued", "queued", "api", false, 0, api.WorkStopped, plane.EndedOperator, never},
		{"operator by force, queued", "queued", "api", true, 0, api.WorkStopped, plane.EndedOperator, never},
		{"poller, queued", "queued", "env", false, 0, api.WorkStopped, plane.EndedOperator, never},
		{"operator, delivered", "delivered", "api", false, 0, api.WorkStopped, plane.EndedOperator, never},
		{"poller that cannot use it", "delivered", "env", true, 0, api.WorkStopped, plane.EndedHolder, 10 * time.Second},
		{"token, delivered", "delivered", "token", true, 0, api.WorkStopped, plane.EndedHolder, 10 * time.Second},
		{"operator, acked", "acked", "api", false, 0, api.WorkStopping, plane.EndedOperator, never},
		{"operator by force, acked", "acked", "api", true, 0, api.WorkStopped, plane.EndedOperator, never},
		{"poller that detached", "acked", "env", false, 0, api.WorkStopping, plane.EndedHolder, 10 * time.Second},
		{"poller whose ack failed", "acked", "env", true, 0, api.WorkStopped, plane.EndedHolder, 10 * time.Second},
		{"operator, active", "beaten", "api", false, 0, api.WorkStopping, plane.EndedOperator, never},
		{"operator by force, active", "beaten", "api", true, 0, api.WorkStopped, plane.EndedOperator, never},
		{"poller, active", "beaten", "env", false, 0, api.WorkStopping, plane.EndedHolder, 300 * time.Second},
		{"late worker by key, active by token", "beaten", "env", true, plane.Conflict, api.WorkActive, "", never},
		{"holder by token", "beaten", "token", true, 0, api.WorkStopped, plane.EndedHolder, 10 * time.Second},
		{"holder by token, gently", "beaten", "token", false, 0, api.WorkStopping, plane.EndedHolder, 300 * time.Second},
		{"holder by key", "keyed", "env", true, 0, api.WorkStopped, plane.EndedHolder, 10 * time.Second},
		{"told by an operator, holder obeys", "stopping", "token", true, 0, api.WorkStopped, plane.EndedOperator, never},
		{"told by an operator, poller repeats", "stopping", "env", false, 0, api.WorkStopping, plane.EndedOperator, never},
		{"told by an operator, operator forces", "stopping", "api", true, 0, api.WorkStopped, plane.EndedOperator, never},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			each(t, func(w *world) {
				s := w.session(true)
				d := &delivery{}
				w.tool(s, "sevt_1")
				if r.stage == "queued" {
					work := Wire(*w.live(s))
					d.Work = &work
				} else {
					d = w.must("w1", s)
				}
				switch r.stage {
				case "acked", "beaten", "keyed", "stopping":
					w.ack(d)
				}
				switch r.stage {
				case "beaten", "stopping":
					w.beat(d.who, d.ID, api.NoHeartbeat)
				case "keyed":
					w.beat(envKey, d.ID, api.NoHeartbeat)
				}
				w.clock.advance(time.Second)
				if r.stage == "stopping" {
					w.stop(operator, d.ID, false)
				}
				who := map[string]auth.Identity{"api": operator, "env": envKey, "token": d.who}[r.who]
				work, err := w.q.StopWork(t.Context(), who, env, d.ID, Stop{Force: r.force})
				if r.kind != plane.Internal {
					w.wantKind(err, r.kind)
				} else if err != nil || work.State != r.state {
					t.Fatalf("%+v %v", work, err)
				}
				w.wantState(d.ID, r.state, r.by)
				if r.offers == never {
					if r.state == api.WorkStopped {
						w.pass(time.Hour)
						w.none("it was final")
						w.input(s)
						w.must("w1", s)
					}
					return
				}
				if r.state == api.WorkStopping { // nobody beats: its time runs out
					for range 10 {
						if w.item(d.ID).State == api.WorkStopped {
							break
						}
						w.pass(time.Minute)
					}
				} else {
					w.none("at once")
					w.clock.advance(r.offers - time.Millisecond)
					w.none("too early")
					w.clock.advance(time.Millisecond)
				}
				next := w.must("w1", s)
				if next.ID == d.ID {
					t.Error("offered again under the same id")
				}
				if it := w.item(d.ID); it.SupersededBy != next.ID || w.check(&delivery{Work: d.Work, secret: d.secret}).Standing != plane.Dead {
					t.Errorf("the old delivery is superseded by %q", it.SupersededBy)
				}
			})
		})
	}
}

func TestStopTwiceAndStrangers(t *testing.T) {
	each(t, func(w *world) {
		s := w.session(true)
		d, _ := w.held("w1", s)
		w.rest(s)
		_, err := w.q.StopWork(t.Context(), operator, "env_2", d.ID, Stop{Force: true})
		w.wantKind(err, plane.NotFound)
		_, err = w.q.StopWork(t.Context(), operator, env, "work_none", Stop{Force: true})
		w.wantKind(err, plane.NotFound)
		stranger := d.who
		stranger.WorkID = "work_other"
		_, err = w.q.StopWork(t.Context(), stranger, env, d.ID, Stop{Force: true})
		w.wantKind(err, plane.Forbidden)
		first := w.stop(d.who, d.ID, true)
		w.clock.advance(time.Second)
		again := w.stop(d.who, d.ID, true)
		if again.State != api.WorkStopped || !again.StoppedAt.Equal(*first.StoppedAt) {
			t.Errorf("stopped again: %+v", again)
		}
	})
}

// A worker that stalls past its lease and comes back holds nothing.
func TestFencing(t *testing.T) {
	for _, by := range []string{"token", "key"} {
		t.Run(by, func(t *testing.T) {
			each(t, func(w *world) {
				ctx := t.Context()
				s := w.session(true)
				w.tool(s, "sevt_1")
				who := func(d *delivery) auth.Identity {
					if by == "key" {
						return envKey
					}
					return d.who
				}
				old := w.must("w1", s)
				w.ack(old)
				h := w.beat(who(old), old.ID, api.NoHeartbeat)
				w.clock.advance(60 * time.Second) // nobody has swept yet
				if standing := w.check(old).Standing; standing != plane.Dead {
					t.Errorf("past its lease the token is %s", standing)
				}
				_, err := w.q.Beat(ctx, who(old), env, old.ID, &h.LastHeartbeat, 0)
				if st := leaseLost(t, err); st.State != api.WorkStopped || st.LastHeartbeat != nil {
					t.Errorf("late beat: %+v", st)
				}
				next := w.must("w2", s)
				if next.ID == old.ID || next.secret.SessionsToken == old.secret.SessionsToken {
					t.Fatal("the second delivery shares something with the first")
				}
				w.ack(next)
				nh := w.beat(who(next), next.ID, api.NoHeartbeat)

				_, err = w.q.Ack(ctx, who(old), env, old.ID)
				w.wantKind(err, plane.Conflict)
				_, err = w.q.Beat(ctx, who(old), env, old.ID, &nh.LastHeartbeat, 0)
				leaseLost(t, err)
				_, err = w.q.Beat(ctx, who(old), env, old.ID, nil, 0)
				leaseLost(t, err)
				for _, force := range []bool{true, false} {
					if got := w.stop(who(old), old.ID, force); got.ID != old.ID || got.State != api.WorkStopped {
						t.Errorf("the old item's stop: %+v", got)
					}
				}
				if by == "token" {
					_, err = w.q.StopWork(ctx, old.who, env, next.ID, Stop{Force: true})
					w.wantKind(err, plane.Forbidden)
					_, err = w.q.StopWork(ctx, envKey, env, next.ID, Stop{Force: true})
					w.wantKind(err, plane.Conflict)
				}
				if got := w.beat(who(next), next.ID, nh.LastHeartbeat); !got.LeaseExtended || got.State != api.WorkActive {
					t.Errorf("the successor's lease was harmed: %+v", got)
				}
			})
		})
	}
}

// down is a store that writes nothing.
type down struct{ store.Store }

func (down) Update(context.Context, func(store.Tx) error) error {
	return plane.Errorf(plane.Unavailable, "down")
}

// An opened stream is written down, be it later: a holder that is lost may
// have begun what it was shown.
func TestOpenedStreamIsNotForgotten(t *testing.T) {
	each(t, func(w *world) {
		s := w.session(true)
		d, _ := w.held("w", s)
		up := w.looks.Store
		w.looks.Store = down{up}
		w.q.MarkStreamed(s)
		w.q.writeMarks()
		w.looks.Store = up
		<-w.q.mark
		w.clock.advance(w.q.cfg.Sweep)
		select {
		case <-w.q.mark:
		default:
			w.Fatal("nobody tries again")
		}
		w.q.writeMarks()
		if !w.item(d.ID).Streamed {
			w.Error("the stream was forgotten")
		}
	})
}
