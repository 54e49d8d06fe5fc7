package storetest_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

func eachEngine(b *testing.B, f func(b *testing.B, st store.Store)) {
	b.Run("sqlite", func(b *testing.B) { f(b, storetest.SQLite(b)) })
	for _, n := range []int{1, 2, 4} {
		b.Run(fmt.Sprintf("postgres/writers=%d", n), func(b *testing.B) { f(b, storetest.PostgresWith(b, store.Options{Writers: n})) })
	}
}

func callers(b *testing.B, n int, f func(caller, i int) error) {
	b.SetParallelism((n + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
	var next, caller atomic.Int64
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		me := int(caller.Add(1))
		for pb.Next() {
			if err := f(me, int(next.Add(1))); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "items/s")
	b.ReportMetric(0, "ns/op")
}

// A small write, alone and in company.
func BenchmarkUpdate(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", n), func(b *testing.B) {
			eachEngine(b, func(b *testing.B, st store.Store) {
				callers(b, n, func(caller, i int) error {
					return st.Update(context.Background(), func(tx store.Tx) error {
						return tx.SetSetting(fmt.Sprint("caller ", caller), fmt.Sprint(i))
					})
				})
			})
		})
	}
}

// What the queue does for one item: enqueue, claim, stop, with the session's
// row locked as it does.
func BenchmarkItem(b *testing.B) {
	eachEngine(b, func(b *testing.B, st store.Store) {
		ctx := context.Background()
		now := time.Now().UTC().Truncate(time.Microsecond)
		free := make(chan string, 256)
		err := st.Update(ctx, func(tx store.Tx) error {
			if err := tx.InsertEnvironment(storetest.Environment("env_b", "bench", now)); err != nil {
				return err
			}
			for i := range cap(free) {
				if err := tx.InsertSession(storetest.Session(fmt.Sprintf("sesn_%03d", i), "env_b", now)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		for i := range cap(free) {
			free <- fmt.Sprintf("sesn_%03d", i)
		}
		var misses atomic.Int64
		defer func() { b.ReportMetric(float64(misses.Load())/float64(b.N), "misses/item") }()
		callers(b, 64, func(caller, i int) error {
			session, worker := <-free, fmt.Sprint("worker-", caller)
			err := st.Update(ctx, func(tx store.Tx) error {
				s, err := tx.LockSession(session)
				if err != nil {
					return err
				}
				if _, err := tx.LiveWork(session); plane.KindOf(err) != plane.NotFound {
					return fmt.Errorf("live work of %s: %w", session, err)
				}
				now := time.Now()
				s.LastInputAt = &now
				if err := tx.UpdateSession(s); err != nil {
					return err
				}
				tx.Notify(store.Note{Environment: "env_b"})
				return tx.InsertWork(plane.WorkItem{ID: plane.NewID(plane.PrefixWork), EnvironmentID: "env_b", SessionID: session,
					State: api.WorkQueued, HasInput: true, CreatedAt: now, Metadata: api.Metadata{}})
			})
			if err != nil {
				return err
			}
			var item plane.WorkItem
			deliver := func(tx store.Tx) (err error) {
				now := time.Now()
				if item, err = tx.ClaimWork(store.Claim{Environment: "env_b", Worker: worker, Now: now, ReclaimBefore: now.Add(-5 * time.Second)}); err != nil {
					return err
				}
				item.DeliveredAt, item.DeliveredTo, item.TokenID, item.Tries = &now, worker, item.ID[7:], 1
				item.DueAt = now.Add(5 * time.Second)
				if err := tx.SawWorker("env_b", worker, now); err != nil {
					return err
				}
				return tx.UpdateWork(item)
			}
			// Nothing to claim while others have what there is in hand: ask
			// again, as a note would have it.
			for err = st.Update(ctx, deliver); plane.KindOf(err) == plane.NotFound; err = st.Update(ctx, deliver) {
				misses.Add(1)
			}
			if err != nil {
				return err
			}
			defer func() { free <- item.SessionID }()
			return st.Update(ctx, func(tx store.Tx) error {
				w, err := tx.LockWork(item.ID)
				if err != nil {
					return err
				}
				if _, err := tx.LockSession(w.SessionID); err != nil {
					return err
				}
				now := time.Now()
				w.State, w.StoppedAt, w.EndedBy, w.DueAt = api.WorkStopped, &now, plane.EndedHolder, time.Time{}
				return tx.UpdateWork(w)
			})
		})
	})
}

// What a step of a turn writes.
func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", n), func(b *testing.B) {
			eachEngine(b, func(b *testing.B, st store.Store) {
				ctx := context.Background()
				now := time.Now().UTC().Truncate(time.Microsecond)
				err := st.Update(ctx, func(tx store.Tx) error {
					if err := tx.InsertEnvironment(storetest.Environment("env_b", "bench", now)); err != nil {
						return err
					}
					for i := range 128 {
						if err := tx.InsertSession(storetest.Session(fmt.Sprintf("sesn_%03d", i), "env_b", now)); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
				body := []byte(`{"type":"agent.tool_use","text":"` + strings.Repeat("x", 300) + `"}`)
				callers(b, n, func(caller, i int) error {
					session := fmt.Sprintf("sesn_%03d", caller)
					return st.Update(ctx, func(tx store.Tx) error {
						s, err := tx.LockSession(session)
						if err != nil {
							return err
						}
						now := time.Now()
						var rows []plane.StoredEvent
						for range 3 {
							s.Pos++
							s.Emit++
							rows = append(rows, plane.StoredEvent{SessionID: session, ID: plane.NewID(plane.PrefixEvent), Type: "agent.tool_use",
								Pos: s.Pos, Emit: s.Emit, ProcessedAt: &now, Body: body})
						}
						if err := tx.InsertEvents(rows...); err != nil {
							return err
						}
						if err := tx.InsertCalls(plane.Call{SessionID: session, ID: rows[0].ID, Kind: plane.CallTool, Name: "bash",
							State: plane.CallOpen, Pos: rows[0].Pos}); err != nil {
							return err
						}
						tx.Notify(store.Note{Session: session, Emit: s.Emit, Frames: rows})
						return tx.UpdateSession(s)
					})
				})
			})
		})
	}
}
