package queue

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

// worker is one that the model test drives: it may stop, forget, come back
// late or do its work.
type modelHolder struct {
	*delivery
	last  string // of its beats, "" for none
	acked bool
}

// Whatever clients, workers and time do: a session has one live item at most,
// two tokens are never live for one session, who was replaced gets nothing,
// and with a worker that does its work every session comes to rest.
func TestModel(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st, Config{})
		rapid.Check(t, func(rt *rapid.T) { runModel(rt, w) })
	})
}

func runModel(rt *rapid.T, w *world) {
	var (
		sessions []string
		holders  []*modelHolder
		calls    int
	)
	pick := func() string {
		if len(sessions) == 0 {
			rt.Skip("all are deleted")
		}
		return rapid.SampledFrom(sessions).Draw(rt, "session")
	}
	holder := func() *modelHolder {
		if len(holders) == 0 {
			rt.Skip("no deliveries yet")
		}
		return rapid.SampledFrom(holders).Draw(rt, "holder")
	}
	must := func(err error, allowed ...plane.Kind) {
		if err != nil && !slices.Contains(allowed, plane.KindOf(err)) {
			rt.Fatal(err)
		}
	}
	for range rapid.IntRange(1, 3).Draw(rt, "sessions") {
		sessions = append(sessions, w.session(rapid.Bool().Draw(rt, "input")))
	}
	take := func(worker string) *modelHolder {
		work, err := w.q.Poll(w.Context(), env, worker, 0, 5*time.Second)
		must(err)
		if work == nil {
			return nil
		}
		if !slices.Contains(sessions, work.Data.ID) {
			rt.Fatalf("%s of the deleted session %s is delivered", work.ID, work.Data.ID)
		}
		h := &modelHolder{delivery: w.open(work)}
		holders = append(holders, h)
		return h
	}
	beat := func(h *modelHolder) (api.Heartbeat, error) {
		expected := h.last
		if expected == "" {
			expected = api.NoHeartbeat
		}
		got, err := w.q.Beat(w.Context(), h.who, env, h.ID, &expected, 0)
		if err == nil {
			h.last = got.LastHeartbeat
		}
		return got, err
	}
	open := func(session string) (calls []plane.Call) {
		w.st.View(w.Context(), func(r store.Reader) (err error) { calls, err = r.OpenCalls(session); return err })
		return calls
	}
	invariants := func() {
		live := map[string]int{}
		var items []plane.WorkItem
		if err := w.st.View(w.Context(), func(r store.Reader) (err error) {
			items, err = r.WorkItems(env, store.Window{Limit: 100_000})
			return err
		}); err != nil {
			rt.Fatal(err)
		}
		tokens := map[string]int{}
		for _, it := range items {
			if it.State != api.WorkStopped {
				live[it.SessionID]++
			}
			if it.TokenHash != [32]byte{} && it.TokenStanding(w.clock.Now()) == plane.Live {
				tokens[it.SessionID]++
			}
			if it.Tries > w.q.cfg.MaxTries {
				rt.Fatalf("%s was tried %d times", it.ID, it.Tries)
			}
			if it.State == api.WorkStopped && !it.DueAt.IsZero() || (it.State == api.WorkStarting || it.State == api.WorkActive || it.State == api.WorkStopping) && it.DueAt.IsZero() {
				rt.Fatalf("%s is %s and due %v", it.ID, it.State, it.DueAt)
			}
		}
		for s, n := range live {
			if n > 1 || tokens[s] > 1 {
				rt.Fatalf("%s has %d live items and %d live tokens", s, n, tokens[s])
			}
		}
	}
	rt.Repeat(map[string]func(*rapid.T){
		"":      func(*rapid.T) { invariants() },
		"input": func(*rapid.T) { w.input(pick()) },
		"call": func(*rapid.T) {
			calls++
			s := pick()
			var has bool
			w.st.View(w.Context(), func(r store.Reader) error { row, err := r.Session(s); has = row.HasInput; return err })
			if has {
				w.call(s, fmt.Sprintf("sevt_%s_%d", s, calls), plane.CallTool, rapid.SampledFrom([]plane.CallState{plane.CallOpen, plane.CallAsked}).Draw(rt, "state"))
			}
		},
		"rest": func(*rapid.T) {
			if s := pick(); len(open(s)) == 0 {
				w.rest(s)
			}
		},
		"poll": func(*rapid.T) { take(rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "worker")) },
		"ack": func(*rapid.T) {
			h := holder()
			_, err := w.q.Ack(w.Context(), h.who, env, h.ID)
			must(err, plane.Conflict)
			if err == nil {
				h.acked = true
			}
		},
		"beat": func(*rapid.T) {
			h := holder()
			replaced := w.item(h.ID).SupersededBy != ""
			got, err := beat(h)
			must(err, plane.LeaseLost)
			if replaced && err == nil {
				rt.Fatalf("a replaced holder beats: %+v", got)
			}
		},
		"stop": func(*rapid.T) {
			h := holder()
			before := w.live(h.Data.ID)
			_, err := w.q.StopWork(w.Context(), h.who, env, h.ID, Stop{Force: rapid.Bool().Draw(rt, "force")})
			must(err)
			if before != nil && before.ID != h.ID {
				if after := w.live(h.Data.ID); after == nil || after.ID != before.ID || after.State != before.State {
					rt.Fatalf("an old holder's stop changed %s", before.ID)
				}
			}
		},
		"operator stops": func(*rapid.T) {
			h := holder()
			_, err := w.q.StopWork(w.Context(), operator, env, h.ID, Stop{Force: rapid.Bool().Draw(rt, "force")})
			must(err)
		},
		"result": func(*rapid.T) {
			if s := pick(); len(open(s)) > 0 {
				w.result(s, open(s)[0].ID)
			}
		},
		"delete": func(*rapid.T) {
			s := pick()
			w.delete(s)
			sessions = slices.DeleteFunc(sessions, func(o string) bool { return o == s })
		},
		"streamed": func(*rapid.T) { w.q.MarkStreamed(pick()); w.q.writeMarks() },
		"time": func(*rapid.T) {
			w.pass(rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, 6 * time.Second, 31 * time.Second, 2 * time.Minute}).Draw(rt, "time"))
		},
	})

	// The end: clients allow what asks and say something, and one good worker
	// comes.
	for _, s := range sessions {
		w.with(s, func(tx store.Tx, s *plane.Session) error {
			calls, err := tx.OpenCalls(s.ID)
			if err != nil {
				return err
			}
			for _, c := range calls {
				c.State = plane.CallOpen
				if err := tx.UpdateCall(c); err != nil {
					return err
				}
			}
			at := w.clock.Now()
			s.HasInput, s.LastInputAt, s.LastProcessedAt = true, &at, at
			return w.q.Offer(tx, s)
		})
	}
	busy := func() (left []string) {
		for _, s := range sessions {
			if len(open(s)) > 0 {
				left = append(left, s)
			}
		}
		return left
	}
	for range 200 {
		if len(busy()) == 0 {
			break
		}
		w.pass(10 * time.Second)
		if h := take("good"); h != nil {
			if _, err := w.q.Ack(w.Context(), h.who, env, h.ID); err != nil {
				rt.Fatal(err)
			}
			if _, err := beat(h); err != nil {
				rt.Fatal(err)
			}
			for _, c := range open(h.Data.ID) {
				w.result(h.Data.ID, c.ID)
			}
			if _, err := w.q.StopWork(w.Context(), h.who, env, h.ID, Stop{Force: true}); err != nil {
				rt.Fatal(err)
			}
		}
		invariants()
	}
	if left := busy(); len(left) > 0 {
		rt.Fatalf("%v are stuck: %+v", left, w.live(left[0]))
	}
	// Nothing of this round disturbs the next.
	for _, s := range sessions {
		w.delete(s)
	}
	w.update(func(tx store.Tx) error {
		return errors.Join(tx.DeleteEnvironment(env), tx.InsertEnvironment(storetest.Environment(env, "one", w.clock.Now())))
	})
}
