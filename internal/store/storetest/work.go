package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

func item(id, session string, created int) plane.WorkItem {
	return plane.WorkItem{ID: id, EnvironmentID: "env_1", SessionID: session, State: api.WorkQueued, Metadata: api.Metadata{}, CreatedAt: at(created)}
}

// queued inserts items, each with a session of its own.
func queued(t testing.TB, st store.Store, items ...plane.WorkItem) {
	t.Helper()
	update(t, st, func(tx store.Tx) error {
		for i, w := range items {
			if w.SessionID == "" {
				w.SessionID = "sesn_of_" + w.ID
			}
			if _, err := tx.Session(w.SessionID); plane.KindOf(err) == plane.NotFound {
				if err := tx.InsertSession(Session(w.SessionID, w.EnvironmentID, at(i))); err != nil {
					return err
				}
			}
			if err := tx.InsertWork(w); err != nil {
				return err
			}
		}
		return nil
	})
}

// claim delivers what comes next, "" for nothing.
func claim(t testing.TB, st store.Store, c store.Claim) (id string) {
	t.Helper()
	update(t, st, func(tx store.Tx) error {
		w, err := tx.ClaimWork(c)
		id = w.ID
		if plane.KindOf(err) == plane.NotFound {
			return nil
		}
		if err != nil {
			return err
		}
		w.DeliveredAt, w.DeliveredTo = &c.Now, c.Worker
		return tx.UpdateWork(w)
	})
	return id
}

func testWork(t *testing.T, st store.Store) {
	world(t, st, "sesn_1")
	w := item("work_1", "sesn_1", 0)
	queued(t, st, w)
	read := func(r store.Reader) (plane.WorkItem, error) { return r.Work("work_1") }
	same(t, "as inserted", see(t, st, read), w)

	w.State, w.Metadata, w.HasInput, w.TokenID, w.TokenHash = api.WorkActive, api.Metadata{"k": "v"}, true, "tok00001", [32]byte{9}
	w.NotBefore, w.PreferWorker, w.PreferUntil = at(1), "w1", at(2)
	w.DeliveredAt, w.DeliveredTo, w.AckedAt, w.AckedByKey = ptr(at(3)), "w2", ptr(at(4)), "key00001"
	w.StartedAt, w.HeartbeatAt, w.LastHeartbeat, w.PrevExpected, w.BeatByToken = ptr(at(5)), ptr(at(6)), "2026-11-23T12:00:06.1Z", "NO_HEARTBEAT", true
	w.TTLSeconds, w.LeaseUntil, w.DueAt, w.StopRequestedAt = 60, at(7), at(8), ptr(at(9))
	w.Streamed, w.Tries, w.PossiblyStarted = true, 3, []string{"sevt_1"}
	update(t, st, func(tx store.Tx) error {
		if _, err := tx.LockWork("work_1"); err != nil {
			return err
		}
		return tx.UpdateWork(w)
	})
	same(t, "changed", see(t, st, read), w)
	same(t, "by token", see(t, st, func(r store.Reader) (plane.WorkItem, error) { return r.WorkByToken("tok00001") }), w)

	w.State, w.StoppedAt, w.EndedBy, w.SupersededBy = api.WorkStopped, ptr(at(10)), plane.EndedLapse, "work_2"
	next := item("work_2", "sesn_1", 0)
	update(t, st, func(tx store.Tx) error {
		if err := tx.UpdateWork(w); err != nil {
			return err
		}
		return tx.InsertWork(next)
	})
	view(t, st, func(r store.Reader) error {
		live, err := r.LiveWork("sesn_1")
		if err != nil {
			return err
		}
		same(t, "live", live, next)
		last, err := r.LastWork("sesn_1")
		if err != nil {
			return err
		}
		same(t, "last", last, next)
		pages(t, func(w plane.WorkItem) string { return w.ID },
			func(win store.Window) ([]plane.WorkItem, error) { return r.WorkItems("env_1", win) }, false, []string{"work_2", "work_1"})
		return nil
	})
}

func testWorkOneLive(t *testing.T, st store.Store) {
	world(t, st, "sesn_1")
	queued(t, st, item("work_1", "sesn_1", 0))
	wantKind(t, "second live item", st.Update(t.Context(), func(tx store.Tx) error {
		return tx.InsertWork(item("work_2", "sesn_1", 0))
	}), plane.Conflict)
}

func testClaimOrder(t *testing.T, st store.Store) {
	world(t, st)
	with := func(w plane.WorkItem) plane.WorkItem { w.HasInput = true; return w }
	elsewhere := with(item("work_x", "", 0))
	elsewhere.EnvironmentID = "env_2"
	update(t, st, func(tx store.Tx) error { return tx.InsertEnvironment(Environment("env_2", "two", at(0))) })
	queued(t, st, item("work_a", "", 0), with(item("work_c", "", 5)), with(item("work_d", "", 2)), with(item("work_b", "", 5)), item("work_e", "", 9), elsewhere)
	var got []string
	for id := "-"; id != ""; {
		id = claim(t, st, store.Claim{Environment: "env_1", Worker: "w", Now: at(100)})
		got = append(got, id)
	}
	same(t, "input first, then age, then id", got, []string{"work_d", "work_b", "work_c", "work_a", "work_e", ""})
}

func testClaimHeldBack(t *testing.T, st store.Store) {
	world(t, st)
	w := item("work_1", "", 0)
	w.NotBefore = at(10)
	other := item("work_2", "", 0)
	other.NotBefore = at(20)
	queued(t, st, w, other)
	next := func(now time.Time) time.Time {
		return see(t, st, func(r store.Reader) (time.Time, error) { return r.NextOffer("env_1", now) })
	}
	same(t, "too early", claim(t, st, store.Claim{Environment: "env_1", Now: at(9)}), "")
	same(t, "next offer", next(at(9)), at(10))
	same(t, "in time", claim(t, st, store.Claim{Environment: "env_1", Now: at(10)}), "work_1")
	same(t, "then", next(at(10)), at(20))
	same(t, "the other", claim(t, st, store.Claim{Environment: "env_1", Now: at(30)}), "work_2")
	same(t, "never", next(at(15)), time.Time{})
}

func testClaimReclaim(t *testing.T, st store.Store) {
	world(t, st)
	queued(t, st, item("work_1", "", 0))
	c := store.Claim{Environment: "env_1", Worker: "w", Now: at(10), ReclaimBefore: at(5)}
	same(t, "first", claim(t, st, c), "work_1")
	c.Now, c.ReclaimBefore = at(12), at(10)
	same(t, "still its first holder's", claim(t, st, c), "")
	c.Now, c.ReclaimBefore = at(16), at(11)
	same(t, "not acked in time", claim(t, st, c), "work_1")
	update(t, st, func(tx store.Tx) error {
		w, err := tx.LockWork("work_1")
		if err != nil {
			return err
		}
		w.State, w.AckedAt = api.WorkStarting, ptr(at(17))
		return tx.UpdateWork(w)
	})
	c.Now, c.ReclaimBefore = at(100), at(99)
	same(t, "acked", claim(t, st, c), "")
}

func testClaimPrefer(t *testing.T, st store.Store) {
	world(t, st)
	w := item("work_1", "", 0)
	w.PreferWorker, w.PreferUntil = "w1", at(10)
	queued(t, st, w)
	same(t, "somebody else", claim(t, st, store.Claim{Environment: "env_1", Worker: "w2", Now: at(9)}), "")
	same(t, "next offer", see(t, st, func(r store.Reader) (time.Time, error) { return r.NextOffer("env_1", at(9)) }), at(10))
	same(t, "the preferred", claim(t, st, store.Claim{Environment: "env_1", Worker: "w1", Now: at(9)}), "work_1")
	w = item("work_2", "", 0)
	w.PreferWorker, w.PreferUntil = "w1", at(10)
	queued(t, st, w)
	same(t, "anybody, later", claim(t, st, store.Claim{Environment: "env_1", Worker: "w2", Now: at(10)}), "work_2")
}

// Many claimers at once: each item goes to one.
func testClaimOnce(t *testing.T, st store.Store) {
	world(t, st)
	var items []plane.WorkItem
	for i := range 200 {
		items = append(items, item(fmt.Sprintf("work_%03d", i), "", i))
	}
	queued(t, st, items...)
	var mu sync.Mutex
	seen := map[string]int{}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for {
				id := claim(t, st, store.Claim{Environment: "env_1", Worker: fmt.Sprint("w", g), Now: at(1000)})
				if id == "" {
					return
				}
				mu.Lock()
				seen[id]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != len(items) {
		t.Errorf("%d of %d items were claimed", len(seen), len(items))
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s was claimed %d times", id, n)
		}
	}
}

// Claims that run together get an item each, in order, and what is held back
// only who may have it.
func testClaimTogether(t *testing.T, st store.Store) {
	world(t, st)
	items := make([]plane.WorkItem, 6)
	for i := range items {
		items[i] = item(fmt.Sprint("work_", i), "", i)
	}
	items[1].PreferWorker, items[1].PreferUntil = "b", at(100)
	items[4].NotBefore = at(12) // of two claims alike, for the later one only
	queued(t, st, items...)
	workers := []string{"a", "b", "a", "a", "a", "a", "a"}
	got := make([]string, len(workers))
	claims := make([]func(store.Tx) error, len(workers))
	for i, worker := range workers {
		c := store.Claim{Environment: "env_1", Worker: worker, Now: at(10 + i), ReclaimBefore: at(i - 50)}
		claims[i] = func(tx store.Tx) error {
			got[i] = ""
			w, err := tx.ClaimWork(c)
			if plane.KindOf(err) == plane.NotFound {
				return nil
			}
			if err != nil {
				return err
			}
			got[i] = w.ID
			w.DeliveredAt, w.DeliveredTo = &c.Now, c.Worker
			return tx.UpdateWork(w)
		}
	}
	if err := errors.Join(group(st, claims...)...); err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	same(t, "claimed", got, []string{"", "work_0", "work_1", "work_2", "work_3", "work_4", "work_5"})
	same(t, "by the worker it was kept for", see(t, st, func(r store.Reader) (plane.WorkItem, error) { return r.Work("work_1") }).DeliveredTo, "b")
}

func testWorkTimes(t *testing.T, st store.Store) {
	world(t, st)
	due := func(r store.Reader) (time.Time, error) { return r.NextDue() }
	same(t, "nothing due", see(t, st, due), time.Time{})
	a, b, c := item("work_a", "", 0), item("work_b", "", 0), item("work_c", "", 0)
	a.DueAt, b.DueAt = at(20), at(10)
	queued(t, st, a, b, c)
	same(t, "next due", see(t, st, due), at(10))
	list := func(now time.Time, limit int) (out []string) {
		for _, w := range see(t, st, func(r store.Reader) ([]plane.WorkItem, error) { return r.WorkDue(now, limit) }) {
			out = append(out, w.ID)
		}
		return out
	}
	same(t, "before", list(at(9), 10), []string(nil))
	same(t, "at", list(at(10), 10), []string{"work_b"})
	same(t, "oldest first", list(at(50), 10), []string{"work_b", "work_a"})
	same(t, "limit", list(at(50), 1), []string{"work_b"})
}

func testWorkStats(t *testing.T, st store.Store) {
	world(t, st)
	stats := func(now time.Time) store.WorkStats {
		return see(t, st, func(r store.Reader) (store.WorkStats, error) { return r.WorkStats("env_1", now) })
	}
	same(t, "empty", stats(at(0)), store.WorkStats{})
	var items []plane.WorkItem
	for i, state := range []api.WorkState{api.WorkQueued, api.WorkQueued, api.WorkQueued, api.WorkStarting, api.WorkActive, api.WorkStopping, api.WorkStopped} {
		w := item(fmt.Sprint("work_", i), "", 10-i)
		w.State = state
		if i == 2 {
			w.DeliveredAt = ptr(at(50))
		}
		if i > 2 {
			w.DeliveredAt, w.AckedAt = ptr(at(50)), ptr(at(51))
		}
		items = append(items, w)
	}
	queued(t, st, items...)
	update(t, st, func(tx store.Tx) error {
		for _, s := range []struct {
			worker string
			at     time.Time
		}{{"w1", at(60)}, {"w2", at(80)}, {"w2", at(75)}, {"w3", at(49)}} {
			if err := tx.SawWorker("env_1", s.worker, s.at); err != nil {
				return err
			}
		}
		return nil
	})
	same(t, "stats", stats(at(80)), store.WorkStats{Depth: 2, Delivered: 1, Pending: 3, OldestQueuedAt: ptr(at(8)), WorkersPolling: 2})
	same(t, "an older sight does not count", stats(at(107)).WorkersPolling, 1)
}

func testWorkPrune(t *testing.T, st store.Store) {
	world(t, st)
	var items []plane.WorkItem
	for i := range 3 {
		w := item(fmt.Sprint("work_", i), "", 0)
		if i < 2 {
			w.State, w.StoppedAt = api.WorkStopped, ptr(at(10*i))
		}
		items = append(items, w)
	}
	queued(t, st, items...)
	update(t, st, func(tx store.Tx) error {
		return errors.Join(tx.SawWorker("env_1", "gone", at(9)), tx.SawWorker("env_1", "here", at(10)), tx.SawWorker("env_1", "there", at(11)))
	})
	update(t, st, func(tx store.Tx) error { return tx.PruneWork(at(10), at(11)) })
	stats := see(t, st, func(r store.Reader) (store.WorkStats, error) { return r.WorkStats("env_1", at(12)) })
	same(t, "workers", stats.WorkersPolling, 1)
	var left []string
	for _, w := range see(t, st, func(r store.Reader) ([]plane.WorkItem, error) { return r.WorkItems("env_1", store.Window{Asc: true}) }) {
		left = append(left, w.ID)
	}
	same(t, "left", strings.Join(left, " "), "work_1 work_2")
}
