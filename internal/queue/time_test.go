package queue

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/auth"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

func TestLapse(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(w *world, s string)
		again   bool
	}{
		"open call":            {func(w *world, s string) { w.tool(s, "sevt_1") }, true},
		"running turn":         {func(w *world, s string) {}, true},
		"turn at rest":         {func(w *world, s string) { w.rest(s) }, false},
		"custom call":          {func(w *world, s string) { w.call(s, "sevt_1", plane.CallCustom, plane.CallOpen) }, true},
		"waits to be allowed":  {func(w *world, s string) { w.call(s, "sevt_1", plane.CallTool, plane.CallAsked) }, true},
		"the session is ended": {func(w *world, s string) { w.tool(s, "sevt_1"); w.archive(s) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(w *world) {
				s := w.session(true)
				d, _ := w.held("w1", s)
				born := d.CreatedAt
				c.prepare(w, s)
				w.pass(60*time.Second - time.Microsecond)
				if w.item(d.ID).State == api.WorkStopped {
					t.Fatal("lapsed early")
				}
				w.pass(time.Microsecond)
				it := w.item(d.ID)
				if it.State != api.WorkStopped {
					t.Fatalf("the item is %s", it.State)
				}
				if !c.again {
					if it.SupersededBy != "" || w.live(s) != nil {
						t.Error("it was offered again")
					}
					return
				}
				next := w.must("w2", s) // at once
				if it.EndedBy != plane.EndedLapse || it.SupersededBy != next.ID || !next.CreatedAt.Equal(born) {
					t.Errorf("ended by %q, superseded by %q, born %v", it.EndedBy, it.SupersededBy, next.CreatedAt)
				}
			})
		})
	}
}

func (w *world) archive(id string) {
	w.Helper()
	w.with(id, func(tx store.Tx, s *plane.Session) error {
		at := w.clock.Now()
		s.ArchivedAt = &at
		return errors.Join(w.q.EndSession(tx, id))
	})
}

// A holder that acks and dies before its first beat.
func TestStartupLapse(t *testing.T) {
	each(t, func(w *world) {
		s := w.session(true)
		w.tool(s, "sevt_1")
		d := w.must("w1", s)
		w.ack(d)
		w.pass(119 * time.Second)
		w.none("the start-up lease holds")
		w.pass(time.Second)
		w.must("w2", s)
	})
}

// All limits are in rows: another process, started later, finds them.
func TestLimitsSurviveARestart(t *testing.T) {
	each(t, func(w *world) {
		s := w.session(true)
		w.tool(s, "sevt_1")
		d, _ := w.held("w1", s)
		early := w.session(true)
		w.tool(early, "sevt_2")
		e := w.must("w1", early)
		w.stop(e.who, e.ID, true)
		w.clock.advance(10 * time.Minute)
		cfg := w.q.cfg
		w.q = New(w.st, cfg)
		w.sweep()
		if it := w.item(d.ID); it.EndedBy != plane.EndedLapse || it.SupersededBy == "" {
			t.Errorf("after the restart the item is %s, %q", it.State, it.EndedBy)
		}
		got := map[string]bool{w.poll("w1").Data.ID: true, w.poll("w1").Data.ID: true}
		if !got[s] || !got[early] {
			t.Errorf("offered %v", got)
		}
	})
}

// Deliveries without a result are counted; a result starts the count anew; at
// the end the session is given up, once, and lives on.
func TestTriesEndInGivingUp(t *testing.T) {
	each(t, func(w *world) {
		s := w.session(true)
		w.tool(s, "sevt_1")
		die := func() {
			w.held("w1", s)
			w.pass(60 * time.Second)
		}
		for range 4 {
			die()
		}
		w.tool(s, "sevt_2")
		w.held("w1", s)
		w.result(s, "sevt_1") // the fifth delivery brings one
		w.pass(60 * time.Second)
		for range 4 {
			if len(w.gaveUp) != 0 {
				t.Fatal("given up although there was a result")
			}
			die()
		}
		die()
		if !slices.Equal(w.gaveUp, []string{s}) || w.live(s) != nil {
			t.Fatalf("gave up %v, live item %+v", w.gaveUp, w.live(s))
		}
		w.none("given up")
		w.input(s)
		w.tool(s, "sevt_3")
		for range 4 {
			die()
		}
		if len(w.gaveUp) != 1 {
			t.Error("new input did not start the count anew")
		}
		w.must("w1", s)
	})
}

func TestOnlyToolsAreGivenUp(t *testing.T) {
	each(t, func(w *world) {
		s := w.session(true)
		w.call(s, "sevt_1", plane.CallCustom, plane.CallOpen) // a client may still answer
		for range 5 {
			w.held("w1", s)
			w.pass(60 * time.Second)
		}
		if len(w.gaveUp) != 0 || w.live(s) != nil {
			t.Errorf("gave up %v, live %v", w.gaveUp, w.live(s))
		}
		w.tool(s, "sevt_2")
		w.must("w1", s)
	})
}

// A holder that stops with open calls rests before it is asked again, longer
// each time.
func TestEarlyStopsRest(t *testing.T) {
	each(t, func(w *world) {
		s := w.session(true)
		w.tool(s, "sevt_1")
		for i := range 4 {
			d, _ := w.held("w1", s)
			w.stop(d.who, d.ID, true)
			rest := 10 * time.Second << i
			w.pass(rest - time.Microsecond)
			w.none("it rests")
			w.pass(time.Microsecond)
		}
		d, _ := w.held("w1", s)
		w.stop(d.who, d.ID, true)
		if !slices.Equal(w.gaveUp, []string{s}) || w.live(s) != nil {
			t.Errorf("gave up %v, live %v", w.gaveUp, w.live(s))
		}
	})
}

// Between calls a holder that stops has lost nothing: the next call brings a
// new item at once.
func TestAStopBetweenCallsIsNoFailure(t *testing.T) {
	each(t, func(w *world) {
		s := w.session(true)
		d, _ := w.held("w1", s)
		w.stop(d.who, d.ID, true)
		w.none("the model is thinking")
		w.tool(s, "sevt_1")
		w.must("w1", s)
		if w.item(d.ID).SupersededBy != "" {
			t.Error("superseded")
		}
	})
}

func TestInputLiftsTheRest(t *testing.T) {
	each(t, func(w *world) {
		s := w.session(true)
		w.tool(s, "sevt_1")
		d, _ := w.held("w1", s)
		w.stop(d.who, d.ID, true)
		w.none("it rests")
		w.clock.advance(time.Second)
		w.input(s)
		w.must("w1", s)
	})
}

func TestReclaim(t *testing.T) {
	each(t, func(w *world) {
		s := w.session(true)
		d := w.must("w1", s)
		w.clock.advance(5 * time.Second)
		w.none("within the window")
		if work, err := w.q.Poll(t.Context(), env, "w2", 0, 6*time.Second); work != nil || err != nil {
			t.Errorf("a longer window of the caller's: %+v %v", work, err)
		}
		w.clock.advance(time.Microsecond)
		next := w.must("w2", s)
		if next.ID == d.ID || next.secret.SessionsToken == d.secret.SessionsToken || !next.CreatedAt.Equal(d.CreatedAt) {
			t.Errorf("delivered again as %+v", next.Work)
		}
		it := w.item(d.ID)
		if it.SupersededBy != next.ID || it.EndedBy != plane.EndedReclaim || w.check(d).Standing != plane.Dead {
			t.Errorf("the old one: %+v", it)
		}
		_, err := w.q.Ack(t.Context(), envKey, env, d.ID)
		w.wantKind(err, plane.Conflict)
		_, err = w.q.Ack(t.Context(), d.who, env, d.ID)
		w.wantKind(err, plane.Conflict)
		w.ack(next)
		w.clock.advance(time.Minute)
		w.none("acked")
	})
}

func TestReclaimsAreCounted(t *testing.T) {
	for _, open := range []bool{true, false} {
		each(t, func(w *world) {
			s := w.session(true)
			if open {
				w.tool(s, "sevt_1")
			} else {
				w.rest(s)
			}
			for range 5 {
				w.must("w1", s)
				w.clock.advance(6 * time.Second)
			}
			w.none("five times are enough")
			if given := len(w.gaveUp) == 1; given != open || w.live(s) != nil {
				t.Errorf("gave up %v, live %v", w.gaveUp, w.live(s))
			}
			w.input(s)
			w.must("w1", s)
		})
	}
}

// An item whose session is gone is in nobody's way, even one that was not
// ended with it.
func TestAPollPassesADeletedSession(t *testing.T) {
	each(t, func(w *world) {
		gone, lost := w.session(true), w.session(true)
		for _, s := range []string{gone, lost} {
			d := w.must("w1", s)
			w.q.MarkStreamed(s)
			w.q.writeMarks()
			if !w.item(d.ID).Streamed {
				t.Fatal("not marked")
			}
		}
		w.delete(gone)
		w.update(func(tx store.Tx) error { return tx.DeleteSession(lost) })
		w.clock.advance(6 * time.Second)
		w.must("w2", w.session(true))
		for _, s := range []string{gone, lost} {
			if it := w.live(s); it != nil {
				t.Errorf("%s of the deleted session is %s", it.ID, it.State)
			}
		}
	})
}

// A delivered item whose session never had input is let go, so that a stock
// worker does not hold it for ever.
func TestUnattended(t *testing.T) {
	each(t, func(w *world) {
		s := w.session(false)
		d, h := w.held("w1", s)
		w.clock.advance(30 * time.Second)
		h = w.beat(d.who, d.ID, h.LastHeartbeat)
		w.pass(30 * time.Second)
		w.wantState(d.ID, api.WorkStopping, plane.EndedUnattended)

		// Input comes before the holder has heard: it stays.
		w.input(s)
		w.wantState(d.ID, api.WorkActive, plane.EndedNot)
		h = w.beat(d.who, d.ID, h.LastHeartbeat)
		if h.State != api.WorkActive {
			t.Errorf("the beat says %s", h.State)
		}
		w.tool(s, "sevt_1")
		if it := w.live(s); it == nil || it.ID != d.ID {
			t.Error("a second item")
		}
		w.keep(d, h, 5*time.Minute)
		w.wantState(d.ID, api.WorkActive, plane.EndedNot)

		w.archive(s)

		// And after it has heard: somebody else gets the session, at once.
		s = w.session(false)
		d, _ = w.held("w1", s)
		w.clock.advance(50 * time.Second)
		h = w.beat(d.who, d.ID, w.item(d.ID).LastHeartbeat)
		w.pass(10 * time.Second)
		h = w.beat(d.who, d.ID, h.LastHeartbeat)
		if h.State != api.WorkStopping {
			t.Fatalf("the beat says %s", h.State)
		}
		w.input(s)
		next := w.must("w2", s)
		if it := w.item(d.ID); it.SupersededBy != next.ID {
			t.Errorf("superseded by %q", it.SupersededBy)
		}
		w.archive(s)

		// One that goes quietly leaves nothing behind.
		s = w.session(false)
		d, _ = w.held("w1", s)
		w.clock.advance(50 * time.Second)
		w.beat(d.who, d.ID, w.item(d.ID).LastHeartbeat)
		w.pass(10 * time.Second)
		w.stop(d.who, d.ID, true)
		w.wantState(d.ID, api.WorkStopped, plane.EndedUnattended)
		w.none("it has no input")
		w.input(s)
		w.must("w1", s)
	})
}

func TestASessionWithInputIsNotUnattended(t *testing.T) {
	each(t, func(w *world) {
		s := w.session(false)
		d, h := w.held("w1", s)
		w.input(s)
		w.rest(s)
		w.keep(d, h, 10*time.Minute)
		w.wantState(d.ID, api.WorkActive, plane.EndedNot)
	})
}

// Items of sessions with input go first, then the oldest.
func TestOrder(t *testing.T) {
	each(t, func(w *world) {
		empty := w.session(false)
		one := w.session(true)
		two := w.session(true)
		woken := w.session(false)
		w.input(woken)
		for _, s := range []string{one, two, woken, empty} {
			w.must("w", s)
		}
	})
}

func TestOnlyAtFirstInput(t *testing.T) {
	each(t, func(w *world) {
		w.update(func(tx store.Tx) error {
			e, err := tx.Environment(env)
			if err != nil {
				return err
			}
			e.Metadata = api.Metadata{plane.SettingQueue: "first_input"}
			return tx.UpdateEnvironment(e)
		})
		s := w.session(false)
		w.none("no input yet")
		w.input(s)
		w.must("w", s)
	})
}

func TestPossiblyStarted(t *testing.T) {
	each(t, func(w *world) {
		s := w.session(true)
		d, _ := w.held("w1", s)
		if d.secret.PossiblyStarted == nil || len(d.secret.PossiblyStarted) > 0 {
			t.Errorf("a first delivery with %v", d.secret.PossiblyStarted)
		}
		w.tool(s, "sevt_1")
		w.tool(s, "sevt_2")
		w.call(s, "sevt_3", plane.CallTool, plane.CallAsked)
		w.pass(time.Minute)
		d, _ = w.held("w2", s)
		if d.secret.PossiblyStarted == nil || len(d.secret.PossiblyStarted) > 0 {
			t.Errorf("the holder never opened the stream, yet %v", d.secret.PossiblyStarted)
		}
		w.q.MarkStreamed(s)
		w.q.MarkStreamed("sesn_none")
		w.q.writeMarks()
		if !w.item(d.ID).Streamed {
			t.Fatal("not marked")
		}
		w.result(s, "sevt_1")
		w.pass(time.Minute)
		d = w.must("w3", s)
		if !slices.Equal(d.secret.PossiblyStarted, []string{"sevt_2"}) {
			t.Errorf("after the lapse: %v", d.secret.PossiblyStarted)
		}
		// Not acked, and asked again: the warning goes on.
		w.clock.advance(6 * time.Second)
		d, _ = w.held("w4", s)
		if !slices.Equal(d.secret.PossiblyStarted, []string{"sevt_2"}) {
			t.Errorf("after the reclaim: %v", d.secret.PossiblyStarted)
		}
		w.tool(s, "sevt_4")
		w.pass(time.Minute) // this one never looked
		d = w.must("w5", s)
		if !slices.Equal(d.secret.PossiblyStarted, []string{"sevt_2"}) {
			t.Errorf("after the second lapse: %v", d.secret.PossiblyStarted)
		}
	})
}

// A holder that goes by itself says which calls it may have begun: the others
// run elsewhere, and without a pause the first time.
func TestAHolderSaysWhatItHasBegun(t *testing.T) {
	each(t, func(w *world) {
		s := w.session(true)
		d, _ := w.held("w1", s)
		w.q.MarkStreamed(s)
		w.q.writeMarks()
		w.tool(s, "sevt_1")
		w.tool(s, "sevt_2")
		stop := func(who auth.Identity, begun ...string) {
			t.Helper()
			if _, err := w.q.StopWork(t.Context(), who, env, d.ID, Stop{Force: true, Begun: append([]string{}, begun...)}); err != nil {
				t.Fatal(err)
			}
		}
		stop(d.who, "sevt_1", "sevt_none")
		d, _ = w.held("w1", s)
		if !slices.Equal(d.secret.PossiblyStarted, []string{"sevt_1"}) {
			t.Errorf("after the first stop: %v", d.secret.PossiblyStarted)
		}
		w.q.MarkStreamed(s)
		w.q.writeMarks()
		stop(d.who) // what a former one began stays begun
		w.none("two went in a row without a result")
		w.clock.advance(21 * time.Second)
		d = w.must("w1", s)
		if !slices.Equal(d.secret.PossiblyStarted, []string{"sevt_1"}) {
			t.Errorf("after the second stop: %v", d.secret.PossiblyStarted)
		}
		w.ack(d)
		w.q.MarkStreamed(s)
		w.q.writeMarks()
		stop(envKey) // anybody's who has the key: no word of the holder's
		w.clock.advance(41 * time.Second)
		if d = w.must("w1", s); !slices.Equal(d.secret.PossiblyStarted, []string{"sevt_1", "sevt_2"}) {
			t.Errorf("after a stop by key: %v", d.secret.PossiblyStarted)
		}
	})
}

// What was written, or confirmed, after a holder had gone it cannot have begun.
func TestWhatComesAfterAStopHasNotBegun(t *testing.T) {
	for name, stop := range map[string]func(*world, *delivery){
		"the holder": func(w *world, d *delivery) { w.stop(d.who, d.ID, true) },
		"a lapse":    func(w *world, d *delivery) { w.pass(2 * time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(w *world) {
				s := w.session(true)
				d, _ := w.held("w1", s)
				w.q.MarkStreamed(s)
				w.q.writeMarks()
				w.call(s, "sevt_1", plane.CallTool, plane.CallAsked)
				stop(w, d)
				w.with(s, func(tx store.Tx, s *plane.Session) error {
					c, err := tx.Call(s.ID, "sevt_1")
					if err != nil {
						return err
					}
					c.State = plane.CallOpen
					return errors.Join(tx.UpdateCall(c), w.q.Offer(tx, s))
				})
				w.tool(s, "sevt_2")
				if d = w.must("w1", s); len(d.secret.PossiblyStarted) > 0 {
					t.Errorf("possibly started: %v", d.secret.PossiblyStarted)
				}
			})
		})
	}
	each(t, func(w *world) { // amid a model request
		s := w.session(true)
		d, _ := w.held("w1", s)
		w.q.MarkStreamed(s)
		w.q.writeMarks()
		w.stop(d.who, d.ID, true)
		w.tool(s, "sevt_1")
		if d = w.must("w1", s); len(d.secret.PossiblyStarted) > 0 {
			t.Errorf("possibly started: %v", d.secret.PossiblyStarted)
		}
	})
}

func TestAffinity(t *testing.T) {
	each(t, func(w *world) {
		lapse := func(polls bool) string {
			s := w.session(true)
			w.tool(s, "sevt_1")
			w.held("mine", s)
			w.clock.advance(time.Minute)
			if polls {
				w.q.seen.sight(env, "mine", w.clock.Now().Add(-2*time.Second))
			}
			w.sweep()
			return s
		}
		s := lapse(true)
		if d := w.poll("other"); d != nil {
			t.Errorf("another worker is preferred: %s", d.Data.ID)
		}
		w.must("mine", s)
		w.archive(s)

		s = lapse(true)
		w.clock.advance(500 * time.Millisecond)
		w.must("other", s)
		w.archive(s)

		w.clock.advance(time.Minute)
		s = lapse(false) // it has not been seen lately
		w.must("other", s)
	})
}

func TestEndSession(t *testing.T) {
	each(t, func(w *world) {
		queued := w.session(true)
		w.archive(queued)
		w.none("archived")
		if w.live(queued) != nil {
			t.Error("a live item of an archived session")
		}
		w.archive(queued) // nothing left to end

		s := w.session(true)
		d := w.must("w", s)
		w.archive(s)
		w.wantState(d.ID, api.WorkStopped, plane.EndedSession)

		s = w.session(true)
		w.tool(s, "sevt_1")
		d, h := w.held("w", s)
		w.archive(s)
		w.wantState(d.ID, api.WorkStopping, plane.EndedSession)
		if got := w.check(d).Standing; got != plane.Grace {
			t.Errorf("the token is %s", got)
		}
		if got := w.beat(d.who, d.ID, h.LastHeartbeat); got.State != api.WorkStopping {
			t.Errorf("the beat says %s", got.State)
		}
		w.stop(d.who, d.ID, true)
		w.wantState(d.ID, api.WorkStopped, plane.EndedSession)
		w.pass(time.Hour)
		w.none("archived")
		w.with(s, func(tx store.Tx, s *plane.Session) error { return w.q.Offer(tx, s) })
		w.none("archived")

		s = w.session(true)
		d, _ = w.held("w", s)
		w.archive(s)
		w.pass(10 * time.Minute) // its holder never answers
		w.wantState(d.ID, api.WorkStopped, plane.EndedSession)
	})
}

// What a client sends after a session was given up, and before its holder has
// let go, is served by somebody.
func TestInputWhileAStalledHolderLetsGo(t *testing.T) {
	each(t, func(w *world) {
		s := w.session(true)
		w.tool(s, "sevt_1")
		d, h := w.held("w", s)
		w.keep(d, h, time.Hour-time.Second)
		w.clock.advance(time.Second)
		if err := w.q.settle(w.Context(), d.ID); err != nil {
			w.Fatal(err)
		}
		w.wantState(d.ID, api.WorkStopping, plane.EndedStall)
		w.clock.advance(time.Second)
		w.input(s)
		w.tool(s, "sevt_2")
		w.stop(d.who, d.ID, true)
		w.must("w2", s)
	})
}

// A silent run: beats come, and nothing else for the stall budget.
func TestStall(t *testing.T) {
	each(t, func(w *world) {
		s := w.session(true)
		w.tool(s, "sevt_1")
		d, h := w.held("w", s)
		h = w.keep(d, h, time.Hour-time.Second)
		if len(w.gaveUp) != 0 {
			t.Fatal("given up early")
		}
		w.clock.advance(time.Second)
		if h = w.beat(d.who, d.ID, h.LastHeartbeat); h.State != api.WorkStopping {
			t.Errorf("the beat says %s", h.State)
		}
		w.wantState(d.ID, api.WorkStopping, plane.EndedStall)
		if !slices.Equal(w.gaveUp, []string{s}) {
			t.Errorf("gave up %v", w.gaveUp)
		}
		w.stop(d.who, d.ID, true)
		w.none("given up")
		w.input(s)
		w.must("w", s)
		w.archive(s)

		// Events keep it going.
		s = w.session(true)
		w.tool(s, "sevt_1")
		d, h = w.held("w", s)
		h = w.keep(d, h, 50*time.Minute)
		w.tool(s, "sevt_2")
		h = w.keep(d, h, 50*time.Minute)
		if h.State != api.WorkActive {
			t.Errorf("a live run is %s", h.State)
		}
		w.result(s, "sevt_1")
		w.result(s, "sevt_2")
		w.rest(s)
		if h = w.keep(d, h, 3*time.Hour); h.State != api.WorkActive {
			t.Errorf("a session at rest is %s", h.State)
		}
		w.stop(d.who, d.ID, true)

		// Waiting for a client is no worker's fault: it is let go in silence.
		s = w.session(true)
		w.call(s, "sevt_9", plane.CallTool, plane.CallAsked)
		d, h = w.held("w", s)
		h = w.keep(d, h, time.Hour)
		if h.State != api.WorkStopping || len(w.gaveUp) != 1 {
			t.Errorf("%s, gave up %v", h.State, w.gaveUp)
		}
		w.stop(d.who, d.ID, true)
		w.none("nobody has answered")
		w.with(s, func(tx store.Tx, s *plane.Session) error { // somebody does
			at := w.clock.Now()
			s.LastInputAt, s.LastProcessedAt = &at, at
			c, err := tx.Call(s.ID, "sevt_9")
			if err != nil {
				return err
			}
			c.State = plane.CallOpen
			return errors.Join(tx.UpdateCall(c), w.q.Offer(tx, s))
		})
		w.must("w", s)
	})
}

func TestPrune(t *testing.T) {
	each(t, func(w *world) {
		s := w.session(true)
		d := w.must("w", s)
		w.stop(d.who, d.ID, true)
		kept := w.session(true)
		w.clock.advance(7*24*time.Hour - time.Minute)
		if err := w.q.prune(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.item(d.ID)
		w.clock.advance(2 * time.Minute)
		if err := w.q.prune(t.Context()); err != nil {
			t.Fatal(err)
		}
		err := w.st.View(t.Context(), func(r store.Reader) error { _, err := r.Work(d.ID); return err })
		w.wantKind(err, plane.NotFound)
		w.must("w", kept)
	})
}
