package turn_test

import (
	"context"
	"sync"
	"testing"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
	"github.com/berthdev/berth/internal/turn"
)

// open is the one call that waits.
func (w *world) open(session string) string {
	w.t.Helper()
	w.until(session, "a call", func(_ []api.Event, s plane.Session) bool { return s.Turn == plane.TurnCalls })
	var calls []plane.Call
	must(w.t, w.st.View(ctx(w.t), func(rd store.Reader) (err error) { calls, err = rd.OpenCalls(session); return err }))
	if len(calls) != 1 {
		w.t.Fatalf("%d open calls", len(calls))
	}
	return calls[0].ID
}

// What makes a turn wanted takes it up: session, message and result are one
// transaction each, and none follows before the model is asked.
func TestATurnIsTakenUpWhereItIsWanted(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w, s := staged(t, st)
		last := func(id string) string { l := types(w.list(id)); return l[len(l)-1] }
		id := w.create(actor(), "hi")
		if got := last(id); got != "span.model_request_start" {
			t.Errorf("a new session's last event is %s", got)
		}
		s.next(t).say("", "bash")
		call := w.open(id)
		fence := w.session(id).TurnFence
		w.send(id, result(call, "ok"))
		if got := last(id); got != "span.model_request_start" {
			t.Errorf("after a result the last event is %s", got)
		}
		sc := s.next(t)
		if got := w.session(id); got.TurnOwner == "" || got.TurnFence != fence+1 {
			t.Errorf("the turn of %q, fence %d after %d", got.TurnOwner, got.TurnFence, fence)
		}
		if n := len(sc.Messages); n != 3 || sc.Messages[2].Results[0].Content[0].Text != "ok" {
			t.Errorf("the model is shown %d messages: %+v", n, sc.Messages)
		}
		sc.say("done")
		w.idle(id, api.StopEndTurn)
		w.send(id, message("more"))
		if sc := s.next(t); len(sc.Messages) != 5 || sc.Messages[4].Content[0].Text != "more" {
			t.Errorf("then %+v", sc.Messages)
		}
	})
}

// Without room for one more request the turn waits for it, and what has been
// sent meanwhile is taken up with it.
func TestAFullHouseClaimsLater(t *testing.T) {
	w, s := staged(t, storetest.SQLite(t), func(c *turn.Config) { c.Requests = 1 })
	first := w.create(actor(), "one")
	holder := s.next(t)
	second := w.create(actor(), "two")
	w.send(second, message("and"))
	s.none(t)
	holder.say("done")
	w.idle(first, api.StopEndTurn)
	sc := s.next(t)
	if len(sc.Messages) != 2 {
		t.Errorf("the model is shown %+v", sc.Messages)
	}
	sc.say("done")
	w.idle(second, api.StopEndTurn)
}

// A message that waits for the calls' answers is taken up with the last one.
func TestWhatWaitsIsTakenUpWithTheLastResult(t *testing.T) {
	w, s := staged(t, storetest.SQLite(t))
	id := w.create(actor(), "hi")
	s.next(t).say("", "bash")
	call := w.open(id)
	w.send(id, message("while you wait"))
	w.send(id, result(call, "ok"))
	sc := s.next(t)
	if n := len(sc.Messages); n != 4 || sc.Messages[3].Content[0].Text != "while you wait" {
		t.Errorf("the model is shown %+v", sc.Messages)
	}
	sc.say("done")
	w.idle(id, api.StopEndTurn)
}

// Interrupts that race with what begins a turn leave it as they should: the
// model's answer to what was interrupted is never in the log.
func TestInterruptsRaceWithResults(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w, s := staged(t, st)
		over := make(chan struct{})
		var playing sync.WaitGroup
		playing.Go(func() {
			for {
				select {
				case sc := <-s.asked:
					sc.say("", "bash")
				case <-over:
					return
				}
			}
		})
		id := w.create(actor(), "hi")
		for range 25 {
			call := w.open(id)
			var both sync.WaitGroup
			both.Go(func() { w.r.Accept(ctx(t), id, raws(result(call, "ok"))) })
			both.Go(func() { w.r.Accept(ctx(t), id, raws(interrupt)) })
			both.Wait()
			w.send(id, interrupt)
			w.idle(id, api.StopEndTurn)
			w.send(id, message("again"))
		}
		w.open(id)
		close(over)
		playing.Wait()
		spans := map[string]bool{}
		for _, e := range w.list(id) {
			switch e := e.(type) {
			case *api.SpanModelRequestStart:
				spans[e.ID] = true
			case *api.SpanModelRequestEnd:
				if !spans[e.ModelRequestStartID] {
					t.Errorf("%s ends no request that is open", e.ID)
				}
				delete(spans, e.ModelRequestStartID)
			}
		}
		if len(spans) > 0 {
			t.Errorf("requests that never ended: %v", spans)
		}
		inOrder(t, w.rows(id))
	})
}

// A runner that stops gives up what was taken and not begun; the next goes on.
func TestAStopAmidAcceptLeavesTheTurnWanted(t *testing.T) {
	w, s := staged(t, storetest.SQLite(t))
	ids := make(chan string, 64)
	var creating sync.WaitGroup
	for range 8 {
		creating.Go(func() {
			for range 8 {
				made, err := w.r.Create(context.Background(), turn.NewSession{EnvironmentID: w.env, Agent: actor(), InitialEvents: raws(message("hi"))})
				if err != nil {
					t.Error(err)
					return
				}
				ids <- made.ID
			}
		})
	}
	<-s.asked
	w.stop()
	creating.Wait()
	close(ids)
	for id := range ids {
		if got := w.session(id); got.Turn != plane.TurnWanted || got.TurnOwner != "" {
			t.Errorf("turn %s of %q", got.Turn, got.TurnOwner)
		}
	}
	for len(s.asked) > 0 {
		<-s.asked
	}
	w.start()
	for range 64 {
		(<-s.asked).say("done")
	}
}
