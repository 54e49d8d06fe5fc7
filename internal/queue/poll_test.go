package queue

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

const patience = time.Minute

// started runs the queue's goroutines for the test.
func (w *world) started() {
	w.q.Start()
	w.Cleanup(w.q.Stop)
}

type answer struct {
	worker string
	work   *api.Work
	err    error
}

// looks is a store that calls the looked of a context once a write under it
// has been made: a test that gives one to a poll knows when that poll has
// looked.
type looks struct{ store.Store }

type looked struct{}

func (l *looks) Update(ctx context.Context, fn func(store.Tx) error) error {
	if f, ok := ctx.Value(looked{}).(func()); ok {
		defer f()
	}
	return l.Store.Update(ctx, fn)
}

// polls begins a poll that waits, and returns once it stands in line and has
// looked.
func (w *world) polls(ctx context.Context, worker string, block time.Duration, out chan answer) {
	w.Helper()
	before := w.inLine()
	var n atomic.Int64
	ctx = context.WithValue(ctx, looked{}, func() { n.Add(1) })
	go func() {
		work, err := w.q.Poll(ctx, env, worker, block, 5*time.Second)
		out <- answer{worker, work, err}
	}()
	w.await("the poll stands in line", func() bool { return w.inLine() == before+1 && n.Load() > 0 })
}

func (w *world) inLine() int {
	w.q.rooms.mu.Lock()
	defer w.q.rooms.mu.Unlock()
	if rm := w.q.rooms.byEnv[env]; rm != nil {
		return len(rm.waiting)
	}
	return 0
}

// await spins until cond holds: the queue gives no sign that a test may see.
func (w *world) await(what string, cond func() bool) {
	w.Helper()
	for deadline := time.Now().Add(patience); !cond(); runtime.Gosched() {
		if time.Now().After(deadline) {
			w.Fatal("never: " + what)
		}
	}
}

func (w *world) next(out chan answer) answer {
	w.Helper()
	select {
	case a := <-out:
		if a.err != nil {
			w.Fatal(a.err)
		}
		return a
	case <-time.After(patience):
		w.Fatal("no poll has answered")
	}
	panic("unreachable")
}

func TestAnOfferWakesWhoWaitsLongest(t *testing.T) {
	each(t, func(w *world) {
		w.started()
		out := make(chan answer, 10)
		for _, worker := range []string{"a", "b", "c"} {
			w.polls(t.Context(), worker, time.Hour, out)
		}
		for _, worker := range []string{"a", "b"} {
			s := w.session(true)
			if got := w.next(out); got.worker != worker || got.work == nil || got.work.Data.ID != s {
				t.Fatalf("%s got %+v, want %s for %s", got.worker, got.work, s, worker)
			}
		}
		select {
		case got := <-out:
			t.Errorf("%s was answered too", got.worker)
		default:
		}
		// The clock ends the last one.
		w.clock.advance(time.Hour)
		if got := w.next(out); got.worker != "c" || got.work != nil {
			t.Errorf("%s got %+v", got.worker, got.work)
		}
	})
}

func TestManyOffersManyWaiters(t *testing.T) {
	each(t, func(w *world) {
		w.started()
		out := make(chan answer, 20)
		for range 10 {
			w.polls(t.Context(), "w", time.Hour, out)
		}
		want := map[string]bool{}
		for range 10 {
			want[w.session(true)] = true
		}
		for range 10 {
			got := w.next(out)
			if got.work == nil || !want[got.work.Data.ID] {
				t.Fatalf("got %+v", got.work)
			}
			delete(want, got.work.Data.ID)
		}
	})
}

func TestTwoClaimersGetTwoItems(t *testing.T) {
	each(t, func(w *world) {
		const n = 40
		for range n {
			w.session(true)
		}
		var (
			mu   sync.Mutex
			seen = map[string]int{}
			wg   sync.WaitGroup
		)
		for range 8 {
			wg.Go(func() {
				for {
					work, err := w.q.Poll(t.Context(), env, "w", 0, 5*time.Second)
					if err != nil {
						t.Error(err)
					}
					if work == nil {
						return
					}
					mu.Lock()
					seen[work.ID]++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if len(seen) != n {
			t.Errorf("%d of %d items were delivered", len(seen), n)
		}
		for id, times := range seen {
			if times != 1 {
				t.Errorf("%s was delivered %d times", id, times)
			}
		}
	})
}

func TestAPollThatLeaves(t *testing.T) {
	each(t, func(w *world) {
		w.started()
		out := make(chan answer, 2)
		ctx, leave := context.WithCancelCause(t.Context())
		w.polls(ctx, "gone", time.Hour, out)
		why := errors.New("hung up")
		leave(why)
		if got := <-out; !errors.Is(got.err, why) || got.work != nil {
			t.Errorf("got %+v", got)
		}
		if n := w.inLine(); n != 0 {
			t.Errorf("%d are still in line", n)
		}
		// It left amid its claim: the item goes back, untried.
		s := w.session(true)
		ctx, leave2 := context.WithCancel(t.Context())
		ctx = context.WithValue(ctx, looked{}, func() { leave2() })
		if work, err := w.q.Poll(ctx, env, "gone", 0, 5*time.Second); !errors.Is(err, context.Canceled) || work != nil {
			t.Errorf("got %+v %v", work, err)
		}
		if it := w.live(s); it.DeliveredAt != nil || it.TokenHash != [32]byte{} || it.Tries != 0 || it.DeliveredTo != "" {
			t.Errorf("given back as %+v", it)
		}
		w.must("next", s)
	})
}

// What is held back reaches a waiting poll when its time has come.
func TestHeldBackOffersWakeByThemselves(t *testing.T) {
	each(t, func(w *world) {
		w.started()
		s := w.session(true)
		w.tool(s, "sevt_1")
		d := w.must("w1", s)
		w.stop(d.who, d.ID, true) // rests for 10 s
		out := make(chan answer, 1)
		w.polls(t.Context(), "w2", time.Hour, out)
		w.clock.awaitAlarm(10 * time.Second)
		w.clock.advance(10 * time.Second)
		if got := w.next(out); got.work == nil || got.work.Data.ID != s {
			t.Errorf("got %+v", got.work)
		}
	})
}

// The last holder waits in the line behind another worker and is preferred.
func TestAffinityInTheLine(t *testing.T) {
	each(t, func(w *world) {
		w.started()
		s := w.session(true)
		w.tool(s, "sevt_1")
		w.held("mine", s)
		w.clock.advance(59 * time.Second)
		out := make(chan answer, 2)
		w.polls(t.Context(), "other", time.Hour, out)
		w.polls(t.Context(), "mine", time.Hour, out)
		w.clock.advance(time.Second)
		w.q.look()
		if got := w.next(out); got.worker != "mine" || got.work == nil {
			t.Errorf("%s got %+v", got.worker, got.work)
		}
	})
}

// The sweep wakes by itself when the next item is due.
func TestSweepByItself(t *testing.T) {
	each(t, func(w *world) {
		w.started()
		w.clock.awaitAlarm(5 * time.Second) // nothing is due
		s := w.session(true)
		w.tool(s, "sevt_1")
		d := w.must("w1", s)
		w.ack(d)
		h, err := w.q.Beat(t.Context(), d.who, env, d.ID, nil, 10)
		if err != nil || h.TTLSeconds != 10 {
			t.Fatalf("%+v %v", h, err)
		}
		out := make(chan answer, 1)
		w.polls(t.Context(), "w2", time.Hour, out)
		nextLook := func() time.Time {
			w.q.mu.Lock()
			defer w.q.mu.Unlock()
			return w.q.nextLook
		}
		for due := w.clock.Now().Add(10 * time.Second); !w.clock.Now().After(due); {
			w.await("the sweep sleeps", func() bool { return nextLook().After(w.clock.Now()) })
			w.clock.advance(nextLook().Sub(w.clock.Now()))
		}
		if got := w.next(out); got.work == nil || got.work.Data.ID != s || got.work.ID == d.ID {
			t.Errorf("got %+v", got.work)
		}
		// A lease shorter than the sweep's sleep sets the alarm sooner.
		q := w.q
		q.mu.Lock()
		q.nextLook = w.clock.Now().Add(time.Hour)
		q.mu.Unlock()
		q.alarm(w.clock.Now().Add(2 * time.Hour))
		q.mu.Lock()
		if !q.nextLook.Equal(w.clock.Now().Add(time.Hour)) {
			t.Error("a later alarm disturbs the sweep")
		}
		q.mu.Unlock()
		q.alarm(w.clock.Now().Add(time.Second))
		w.await("the sweep looks again", func() bool {
			q.mu.Lock()
			defer q.mu.Unlock()
			return q.nextLook.Before(w.clock.Now().Add(time.Hour))
		})
	})
}

func TestStartStop(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		before := goleak.IgnoreCurrent()
		w := newWorld(t, st, Config{})
		w.q.Stop()
		w.q.Start()
		w.q.Start()
		out := make(chan answer, 1)
		w.polls(t.Context(), "w", time.Hour, out)
		w.q.Stop()
		w.q.Stop()
		if got := w.next(out); got.work != nil {
			t.Errorf("got %+v", got.work)
		}
		w.q.Start()
		w.polls(t.Context(), "w", time.Hour, out)
		s := w.session(true)
		if got := w.next(out); got.work == nil || got.work.Data.ID != s {
			t.Errorf("after the second start: %+v", got.work)
		}
		w.q.MarkStreamed(s)
		w.q.Stop()
		if !w.live(s).Streamed {
			t.Error("Stop lost a mark")
		}
		if err := goleak.Find(before); err != nil {
			t.Error(err)
		}
	})
}

func TestWorkerIDs(t *testing.T) {
	each(t, func(w *world) {
		_, err := w.q.Poll(t.Context(), env, strings.Repeat("x", maxWorkerID+1), 0, 0)
		w.wantKind(err, plane.Invalid)
		s := w.session(true)
		if work, err := w.q.Poll(t.Context(), env, "bad\xff", 0, 5*time.Second); err != nil || work == nil || work.Data.ID != s {
			t.Errorf("%+v %v", work, err)
		}
		if n := len(w.q.seen.last); n != 1 {
			t.Errorf("%d workers are remembered", n)
		}
		for i := range maxRoll + 10 {
			w.q.seen.sight(env, string(rune('a'+i%26))+strings.Repeat("y", i/26%200)+strings.Repeat("z", i/5200), w.clock.Now())
		}
		if n := len(w.q.seen.last); n > maxRoll {
			t.Errorf("%d workers are remembered", n)
		}
	})
}

func TestReads(t *testing.T) {
	each(t, func(w *world) {
		ctx := t.Context()
		stats := func() api.WorkStats {
			st, err := w.q.Stats(ctx, env)
			if err != nil {
				t.Fatal(err)
			}
			return st
		}
		if st := stats(); st.Type != "work_queue_stats" || st.Depth != 0 || st.OldestQueuedAt != nil || st.WorkersPolling != 0 {
			t.Errorf("an empty queue: %+v", st)
		}
		a, b, c := w.session(true), w.session(true), w.session(true)
		d := w.must("w1", a)
		e := w.must("w2", b)
		w.poll("")
		w.ack(d)
		if st := stats(); st.Depth != 0 || st.Delivered != 2 || st.Pending != 1 || st.WorkersPolling != 2 || !st.OldestQueuedAt.Equal(e.CreatedAt) {
			t.Errorf("stats %+v", st)
		}
		w.clock.advance(31 * time.Second)
		if st := stats(); st.WorkersPolling != 0 {
			t.Errorf("%d workers poll", st.WorkersPolling)
		}
		w.poll("w1")
		if st := stats(); st.WorkersPolling != 1 {
			t.Errorf("%d workers poll", st.WorkersPolling)
		}

		list, err := w.q.List(ctx, env, store.Window{Limit: 2})
		if err != nil || len(list) != 2 || list[0].Data.ID == a && list[0].ID < list[1].ID {
			t.Errorf("list %+v %v", list, err)
		}
		rest, err := w.q.List(ctx, env, store.Window{Limit: 9, After: list[1].ID})
		all := append(list, rest...)
		if err != nil || !slices.IsSortedFunc(all, func(x, y api.Work) int { return strings.Compare(y.ID, x.ID) }) {
			t.Errorf("pages %+v %v", rest, err)
		}
		for _, work := range all {
			if work.Secret != nil {
				t.Error("the list shows a secret")
			}
		}
		_ = c
		_, err = w.q.Get(ctx, "env_2", d.ID)
		w.wantKind(err, plane.NotFound)
		_, err = w.q.Get(ctx, env, "work_none")
		w.wantKind(err, plane.NotFound)

		v := "v"
		got, err := w.q.Update(ctx, env, d.ID, api.MetadataPatch{"k": &v, "input": nil})
		if err != nil || len(got.Metadata) != 1 || got.Metadata["k"] != "v" {
			t.Errorf("update %+v %v", got.Metadata, err)
		}
		long := strings.Repeat("x", 513)
		_, err = w.q.Update(ctx, env, d.ID, api.MetadataPatch{"k": &long})
		w.wantKind(err, plane.Invalid)
		_, err = w.q.Update(ctx, "env_2", d.ID, nil)
		w.wantKind(err, plane.NotFound)
		if again, err := w.q.Get(ctx, env, d.ID); err != nil || again.Metadata["k"] != "v" || again.State != api.WorkStarting {
			t.Errorf("get %+v %v", again, err)
		}
	})
}
