package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/postgres"
	"github.com/berthdev/berth/internal/store/storetest"
	"github.com/berthdev/berth/internal/store/storetest/pgtest"
)

// replicas are two stores on one database, as two processes have them, and
// that database's URL.
func replicas(t *testing.T) (a, b *postgres.Store, url string) {
	t.Helper()
	url = pgtest.Database(t)
	open := func() *postgres.Store {
		st, err := postgres.Open(t.Context(), url, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { st.Close() })
		return st
	}
	return open(), open(), url
}

func update(t testing.TB, st store.Store, fn func(store.Tx) error) {
	t.Helper()
	if err := st.Update(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

// seed makes an environment and n sessions, sesn_00 and on.
func seed(t testing.TB, st store.Store, n int) {
	t.Helper()
	now := time.Now()
	update(t, st, func(tx store.Tx) error {
		if err := tx.InsertEnvironment(storetest.Environment("env_1", "one", now)); err != nil {
			return err
		}
		for i := range n {
			if err := tx.InsertSession(storetest.Session(fmt.Sprintf("sesn_%02d", i), "env_1", now)); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestNotesReachOtherProcesses(t *testing.T) {
	a, b, _ := replicas(t)
	atA, atB := make(chan store.Note, 100), make(chan store.Note, 100)
	defer a.Listen(func(n store.Note) { atA <- n })()
	defer b.Listen(func(n store.Note) { atB <- n })()
	all := []store.Note{
		{Session: "sesn_1", Emit: 7, Frames: []plane.StoredEvent{{ID: "sevt_1"}}},
		{Session: "sesn_1", Emit: 8, Turn: true},
		{Environment: "env_1"},
		{Session: "sesn_2", Deleted: true},
	}
	for _, n := range all {
		update(t, a, func(tx store.Tx) error {
			tx.Notify(n)
			return nil
		})
	}
	for _, want := range all {
		if got := <-atB; got.Session != want.Session || got.Emit != want.Emit || got.Turn != want.Turn || got.Environment != want.Environment ||
			got.Deleted != want.Deleted || got.Local || got.Frames != nil {
			t.Errorf("the other process heard %+v of %+v", got, want)
		}
		if got := <-atA; !got.Local || len(got.Frames) != len(want.Frames) {
			t.Errorf("the same process heard %+v of %+v", got, want)
		}
	}
	// The echo of A's own notes would have come before this.
	update(t, b, func(tx store.Tx) error {
		tx.Notify(store.Note{Environment: "env_end"})
		return nil
	})
	if got := <-atA; got.Environment != "env_end" || got.Local {
		t.Errorf("heard %+v, want the other process's note", got)
	}
}

// Each offer of a commit wakes a poll elsewhere too.
func TestEachOfferIsHeardElsewhere(t *testing.T) {
	a, b, _ := replicas(t)
	heard := make(chan store.Note, 100)
	defer b.Listen(func(n store.Note) { heard <- n })()
	for _, envs := range [][]string{{"env_1", "env_2", "env_1", "env_1"}, {"env_end"}} {
		update(t, a, func(tx store.Tx) error {
			for _, env := range envs {
				tx.Notify(store.Note{Environment: env})
			}
			return nil
		})
	}
	got := map[string]int{}
	for got["env_end"] == 0 {
		got[(<-heard).Environment]++
	}
	if want := map[string]int{"env_1": 3, "env_2": 1, "env_end": 1}; !maps.Equal(got, want) {
		t.Errorf("heard %v, want %v", got, want)
	}
}

// What two processes change at once, each reading first, is all kept.
func TestReplicasLoseNoUpdate(t *testing.T) {
	a, b, _ := replicas(t)
	seed(t, a, 0)
	update(t, a, func(tx store.Tx) error { return tx.InsertAgentVersion(storetest.Agent("agent_1", 1, time.Now())) })
	const each = 8
	var all sync.WaitGroup
	for g := range 4 {
		st := []*postgres.Store{a, b}[g%2]
		all.Go(func() {
			for i := range each {
				err := st.Update(context.Background(), func(tx store.Tx) error {
					e, err := tx.LockEnvironment("env_1")
					if err != nil {
						return err
					}
					md := api.Metadata{fmt.Sprint(g, "-", i): "v"}
					maps.Copy(md, e.Metadata)
					e.Metadata = md
					return tx.UpdateEnvironment(e)
				})
				if err != nil {
					t.Error("environment:", err)
				}
				err = st.Update(context.Background(), func(tx store.Tx) error {
					v, err := tx.LockAgent("agent_1")
					if err != nil {
						return err
					}
					v.Version++
					return tx.InsertAgentVersion(v)
				})
				if err != nil {
					t.Error("agent:", err)
				}
			}
		})
	}
	all.Wait()
	err := a.View(t.Context(), func(r store.Reader) error {
		e, err := r.Environment("env_1")
		if err != nil {
			return err
		}
		v, err := r.Agent("agent_1", 0)
		if _, ok := e.Metadata["3-0"]; !ok || len(e.Metadata) < 4*each || v.Version != 4*each+1 {
			t.Errorf("%d changes of the environment are left, the agent is at version %d", len(e.Metadata), v.Version)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What a process holds that stands still amid a transition is free in a while;
// when it goes on, the transition runs again.
func TestAProcessThatStandsStill(t *testing.T) {
	for _, name := range []string{"at its first commit", "later"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, b, url := replicas(t)
			seed(t, b, 1)
			a, err := postgres.Open(t.Context(), url, store.Options{Writers: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			if name == "later" {
				update(t, a, func(tx store.Tx) error { return tx.SetSetting("a", "1") })
			}
			standStill(t, a, b)
		})
	}
}

func standStill(t *testing.T, a, b store.Store) {
	more := func(tx store.Tx) error {
		s, err := tx.LockSession("sesn_00")
		s.Pos++
		return errors.Join(err, tx.UpdateSession(s))
	}
	held, goOn, over := make(chan bool), make(chan bool), make(chan error)
	go func() {
		runs := 0
		over <- a.Update(context.Background(), func(tx store.Tx) error {
			err := more(tx)
			if runs++; runs == 1 {
				close(held)
				<-goOn
			}
			return err
		})
	}()
	<-held
	began := time.Now()
	err := b.Update(t.Context(), more)
	for err != nil && time.Since(began) < 20*time.Second {
		err = b.Update(t.Context(), more)
	}
	close(goOn)
	if err := errors.Join(err, <-over); err != nil {
		t.Fatal(err)
	}
	if s, err := b.Session(t.Context(), "sesn_00"); err != nil || s.Pos != 2 {
		t.Errorf("it was changed %d times, %v", s.Pos, err)
	}
}

// A session that was acknowledged is not deleted with its environment.
func TestDeletedEnvironmentHasNoLiveSession(t *testing.T) {
	a, b, _ := replicas(t)
	now := time.Now()
	for i := range 20 {
		env, session := fmt.Sprint("env_", i), fmt.Sprint("sesn_", i)
		update(t, a, func(tx store.Tx) error { return tx.InsertEnvironment(storetest.Environment(env, env, now)) })
		var all sync.WaitGroup
		var deleted, made error
		all.Go(func() {
			deleted = a.Update(context.Background(), func(tx store.Tx) error { return tx.DeleteEnvironment(env) })
		})
		all.Go(func() {
			made = b.Update(context.Background(), func(tx store.Tx) error { return tx.InsertSession(storetest.Session(session, env, now)) })
		})
		all.Wait()
		if (deleted == nil) == (made == nil) {
			t.Errorf("deleted: %v, session made: %v", deleted, made)
		}
	}
}

// Claimers in two processes never get the same item, and updates of the same
// sessions, in any order, are all kept.
// Who waits for an item's lock sees the calls that its holder has written.
func TestCallsAreReadUnderTheLock(t *testing.T) {
	a, _, url := replicas(t)
	seed(t, a, 1)
	update(t, a, func(tx store.Tx) error {
		return tx.InsertWork(plane.WorkItem{ID: "work_1", EnvironmentID: "env_1", SessionID: "sesn_00", State: api.WorkActive, CreatedAt: time.Now()})
	})
	other, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.Background())
	do := func(sql string) {
		t.Helper()
		if _, err := other.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	do("BEGIN")
	do("SELECT id FROM work WHERE id = 'work_1' FOR NO KEY UPDATE")
	do("INSERT INTO calls VALUES ('sesn_00', 'sevt_1', 'tool', 'bash', 'open', 1, 'sevt_0', '', NULL)")
	var calls []plane.Call
	got := make(chan error, 1)
	go func() {
		got <- a.Update(t.Context(), func(tx store.Tx) (err error) { _, calls, err = tx.LockWorkCalls("work_1"); return err })
	}()
	for waits := 0; waits == 0; {
		if err := other.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid()").Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	do("COMMIT")
	if err := <-got; err != nil || len(calls) != 1 {
		t.Fatalf("calls %+v, %v; want the one written under the lock", calls, err)
	}
}

func TestReplicasShareTheWork(t *testing.T) {
	a, b, _ := replicas(t)
	const sessions = 20
	seed(t, a, sessions)
	update(t, a, func(tx store.Tx) error {
		for i := range sessions {
			err := tx.InsertWork(plane.WorkItem{ID: fmt.Sprintf("work_%02d", i), EnvironmentID: "env_1", SessionID: fmt.Sprintf("sesn_%02d", i),
				State: api.WorkQueued, CreatedAt: time.Now()})
			if err != nil {
				return err
			}
		}
		return nil
	})
	var mu sync.Mutex
	claims := map[string]int{}
	var wrote atomic.Int64
	var wg sync.WaitGroup
	for g := range 16 {
		st := []*postgres.Store{a, b}[g%2]
		wg.Go(func() {
			for {
				id := ""
				err := st.Update(context.Background(), func(tx store.Tx) error {
					now := time.Now()
					w, err := tx.ClaimWork(store.Claim{Environment: "env_1", Worker: fmt.Sprint(g), Now: now})
					if id = w.ID; err != nil {
						return err
					}
					w.DeliveredAt = &now
					if err := tx.SawWorker("env_1", fmt.Sprint("shared ", g%3), now); err != nil {
						return err
					}
					return tx.UpdateWork(w)
				})
				if plane.KindOf(err) == plane.NotFound {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				claims[id]++
				mu.Unlock()
			}
		})
		wg.Go(func() {
			for i := range 30 {
				// Groups of both processes cross all the time; a few transitions
				// even do by themselves.
				ids := []string{fmt.Sprintf("sesn_%02d", (g+i)%5)}
				if i%15 == g%2 {
					ids = append(ids, fmt.Sprintf("sesn_%02d", (g*3)%5))
				}
				wrote.Add(int64(len(ids)))
				err := st.Update(context.Background(), func(tx store.Tx) error {
					for _, id := range ids {
						s, err := tx.LockSession(id)
						if err != nil {
							return err
						}
						s.Pos++
						if err := tx.UpdateSession(s); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if len(claims) != sessions {
		t.Errorf("%d items were claimed of %d", len(claims), sessions)
	}
	for id, n := range claims {
		if n != 1 {
			t.Errorf("%s was claimed %d times", id, n)
		}
	}
	var sum int64
	err := b.View(t.Context(), func(r store.Reader) error {
		rows, err := r.Sessions(store.SessionFilter{}, store.Window{})
		for _, s := range rows {
			sum += s.Pos
		}
		return err
	})
	if err != nil || sum != wrote.Load() {
		t.Errorf("%d of %d updates are there, %v", sum, wrote.Load(), err)
	}
}

// Connections that die are made again; listeners hear that they missed
// something, and no acknowledged write is lost or doubled.
func TestConnectionsThatDie(t *testing.T) {
	a, b, url := replicas(t)
	seed(t, a, 1)
	lost := make(chan struct{}, 100)
	defer b.Listen(func(n store.Note) {
		if n.Lost {
			lost <- struct{}{}
		}
	})()
	admin, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())

	stop := make(chan struct{})
	var done, unsure int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			err := a.Update(context.Background(), func(tx store.Tx) error {
				s, err := tx.LockSession("sesn_00")
				if err != nil {
					return err
				}
				s.Pos++
				return tx.UpdateSession(s)
			})
			switch {
			case err == nil:
				done++
			case plane.KindOf(err) == plane.Unavailable:
				unsure++
			default:
				t.Errorf("kind %d: %v", plane.KindOf(err), err)
			}
		}
	})
	for range 5 {
		_, err := admin.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
		if err != nil {
			t.Fatal(err)
		}
		<-lost
		if err := b.View(t.Context(), func(r store.Reader) error { _, err := r.Session("sesn_00"); return err }); err != nil {
			t.Errorf("view after the connections died: %v", err)
		}
	}
	close(stop)
	wg.Wait()
	var s plane.Session
	if err := b.View(t.Context(), func(r store.Reader) (err error) { s, err = r.Session("sesn_00"); return err }); err != nil {
		t.Fatal(err)
	}
	if s.Pos < done || s.Pos > done+unsure {
		t.Errorf("%d updates are there; %d were acknowledged and %d are unsure", s.Pos, done, unsure)
	}
	if done == 0 {
		t.Error("nothing was ever written")
	}
}
