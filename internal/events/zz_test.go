package events

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/postgres"
	"github.com/berthdev/berth/internal/store/storetest"
	"github.com/berthdev/berth/internal/store/storetest/pgtest"
)

func TestZZ(t *testing.T) {
	url := pgtest.Database(t)
	var sts []store.Store
	var logs []*Log
	for range 2 {
		st, err := postgres.Open(t.Context(), url, store.Options{Writers: 2})
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		l := New(st)
		l.Start()
		defer l.Stop()
		sts, logs = append(sts, st), append(logs, l)
	}
	now := time.Now().UTC()
	const N = 12
	id := func(i int) string { return fmt.Sprintf("sesn_%02d", i) }
	if err := sts[0].Update(t.Context(), func(tx store.Tx) error {
		if err := tx.InsertEnvironment(storetest.Environment("env_1", "one", now)); err != nil {
			return err
		}
		for i := range N {
			if err := tx.InsertSession(storetest.Session(id(i), "env_1", now)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	type seen struct {
		frames []*Frame
	}
	var subs []*Subscription
	got := map[*Subscription]*seen{}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for i := range N {
		for _, l := range logs {
			s, err := l.Subscribe(t.Context(), id(i), From{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			subs = append(subs, s)
			g := &seen{}
			got[s] = g
			readers.Go(func() {
				for {
					select {
					case <-s.Ready():
					case <-stop:
						return
					}
					for {
						f, err := s.Take(context.Background())
						if err != nil {
							if plane.KindOf(err) == plane.Unavailable {
								s.hub.mu.Lock()
								s.behind = true
								s.signal()
								s.hub.mu.Unlock()
								break
							}
							t.Error("take", err)
							return
						}
						if len(f) == 0 {
							break
						}
						g.frames = append(g.frames, f...)
					}
				}
			})
		}
	}
	end := time.Now().Add(25 * time.Second)
	killed := 0
	quit := make(chan struct{})
	killerDone := make(chan struct{})
	go func() {
		defer close(killerDone)
		c, err := pgx.Connect(context.Background(), url)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close(context.Background())
		for {
			select {
			case <-quit:
				return
			case <-time.After(time.Duration(100+rand.Intn(300)) * time.Millisecond):
			}
			_, err := c.Exec(context.Background(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name='berth' ORDER BY random() LIMIT 1")
			if err != nil {
				t.Error(err)
			}
			killed++
		}
	}()
	var mu sync.Mutex
	acked, unsure, failed := map[string]bool{}, 0, map[string]int{}
	bad := errors.New("bad")
	var writers sync.WaitGroup
	for g := range 48 {
		writers.Go(func() {
			r := rand.New(rand.NewSource(int64(g)))
			for n := 0; time.Now().Before(end); n++ {
				which := r.Intn(2)
				a, b := r.Intn(N), r.Intn(N)
				mine := []string{}
				mode := r.Intn(10)
				err := sts[which].Update(context.Background(), func(tx store.Tx) error {
					mine = mine[:0]
					for k, i := range []int{a, b} {
						if k == 1 && (mode > 3 || a == b) {
							break
						}
						s, err := tx.LockSession(id(i))
						if err != nil {
							return err
						}
						m := message(fmt.Sprintf("%d-%d-%d", g, n, k))
						if mode == 5 {
							row, err := logs[which].Queue(tx, &s, m)
							if err != nil {
								return err
							}
							mine = append(mine, row.ID)
						} else {
							rows, err := logs[which].Append(tx, &s, m, message("x"))
							if err != nil {
								return err
							}
							mine = append(mine, rows[0].ID, rows[1].ID)
						}
						if mode == 6 {
							waiting, err := tx.Events(s.ID, store.EventQuery{Queued: true, Limit: 3})
							if err != nil {
								return err
							}
							for _, e := range waiting {
								if _, err := logs[which].Process(tx, &s, e.ID); err != nil {
									return err
								}
							}
						}
						if err := tx.UpdateSession(s); err != nil {
							return err
						}
						if mode == 7 {
							tx.OpenCalls(s.ID)
						}
					}
					if mode >= 7 && r.Intn(2) == 0 {
						return bad
					}
					return nil
				})
				mu.Lock()
				if err == nil {
					for _, m := range mine {
						acked[m] = true
					}
				} else {
					failed[err.Error()[:min(60, len(err.Error()))]]++
				}
				mu.Unlock()
			}
		})
	}
	writers.Wait()
	close(quit)
	<-killerDone
	_ = unsure
	// final truth
	rows := map[string]map[string]plane.StoredEvent{}
	emit := map[string]int64{}
	for i := range N {
		for try := 0; ; try++ {
			err := sts[0].View(t.Context(), func(r store.Reader) error {
				all, err := r.Events(id(i), store.EventQuery{Limit: 1 << 20})
				if err != nil {
					return err
				}
				m := map[string]plane.StoredEvent{}
				pos := int64(0)
				for _, e := range all {
					if _, twice := m[e.ID]; twice {
						t.Error("twice in the list", e.ID)
					}
					if e.Pos != 0 {
						if e.Pos != pos+1 {
							t.Errorf("gap in pos %d after %d", e.Pos, pos)
						}
						pos = e.Pos
					}
					m[e.ID] = e
				}
				rows[id(i)] = m
				s, err := r.Session(id(i))
				emit[id(i)] = s.Emit
				if s.Pos != pos {
					t.Errorf("session pos %d, log %d", s.Pos, pos)
				}
				return err
			})
			if err == nil {
				break
			}
			if try > 5 {
				t.Fatal(err)
			}
		}
	}
	all := 0
	for _, m := range rows {
		all += len(m)
		for e := range m {
			delete(acked, e)
		}
	}
	if len(acked) > 0 {
		t.Errorf("%d acked events are lost", len(acked))
	}
	// wait for streams
	deadline := time.Now().Add(20 * time.Second)
	for _, s := range subs {
		for {
			s.hub.mu.Lock()
			ok := s.cursor >= emit[s.hub.session] && len(s.buffer) == 0
			c := s.cursor
			s.hub.mu.Unlock()
			if ok {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("stream of %s stands at %d of %d", s.hub.session, c, emit[s.hub.session])
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	time.Sleep(300 * time.Millisecond)
	close(stop)
	readers.Wait()
	for s, g := range got {
		last := int64(0)
		lastOf := map[string]int64{}
		for _, f := range g.frames {
			if f.Emit <= last {
				t.Errorf("frame %d after %d", f.Emit, last)
			}
			last = f.Emit
			lastOf[f.ID] = f.Emit
			row, there := rows[s.hub.session][f.ID]
			if !there || row.Emit < f.Emit {
				t.Errorf("a frame of what is not there: %s %d", f.ID, f.Emit)
			}
		}
		for e, row := range rows[s.hub.session] {
			if lastOf[e] != row.Emit {
				t.Errorf("%s: event %s emit %d, stream showed %d", s.hub.session, e, row.Emit, lastOf[e])
			}
		}
		s.Close()
	}
	t.Log("events", all, "killed", killed, "failed", failed)
}
