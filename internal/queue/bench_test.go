package queue

import (
	"fmt"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/auth"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

// BenchmarkEnqueueClaimStop is an item's life without its work: offered,
// delivered, stopped by its holder, by 64 callers.
func BenchmarkEnqueueClaimStop(b *testing.B) {
	for engine, open := range map[string]func(testing.TB) store.Store{"sqlite": storetest.SQLite, "postgres": storetest.Postgres} {
		b.Run(engine, func(b *testing.B) { benchmarkLife(b, open(b)) })
	}
}

func benchmarkLife(b *testing.B, st store.Store) {
	const callers = 64
	q := New(st, Config{})
	q.Start()
	defer q.Stop()
	now := time.Now().UTC()
	if err := st.Update(b.Context(), func(tx store.Tx) error {
		return tx.InsertEnvironment(storetest.Environment(env, "one", now))
	}); err != nil {
		b.Fatal(err)
	}
	free := make(chan plane.Session, callers)
	for i := range callers {
		s := storetest.Session(fmt.Sprintf("sesn_%04d", i), env, now)
		s.HasInput, s.LastInputAt = true, &now
		if err := st.Update(b.Context(), func(tx store.Tx) error { return tx.InsertSession(s) }); err != nil {
			b.Fatal(err)
		}
		free <- s
	}
	b.ResetTimer()
	todo := make(chan struct{}, b.N)
	for range b.N {
		todo <- struct{}{}
	}
	close(todo)
	failed := make(chan error, callers)
	for range callers {
		go func() {
			var err error
			for range todo {
				if err = life(b, q, free); err != nil {
					break
				}
			}
			failed <- err
		}()
	}
	for range callers {
		if err := <-failed; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "items/s")
}

// life takes some session through an item's life; the item it is given may be
// another session's.
func life(b *testing.B, q *Queue, free chan plane.Session) error {
	s := <-free
	err := q.st.Update(b.Context(), func(tx store.Tx) error { return q.Offer(tx, &s) })
	if err != nil {
		return fmt.Errorf("offer: %w", err)
	}
	work, err := q.Poll(b.Context(), env, "w", time.Minute, time.Minute)
	if err != nil || work == nil {
		return fmt.Errorf("poll: %v, %w", work, err)
	}
	// As httpapi has it from auth's Check.
	who := auth.Identity{Kind: plane.CallerSessions, EnvironmentID: env, SessionID: work.Data.ID, WorkID: work.ID, Standing: plane.Live}
	if _, err := q.StopWork(b.Context(), who, env, work.ID, Stop{Force: true}); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	s.ID = work.Data.ID
	free <- s
	return nil
}
