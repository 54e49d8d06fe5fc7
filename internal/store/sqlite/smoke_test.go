package sqlite_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

func TestSmoke(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		now := time.Now().UTC().Truncate(time.Microsecond)
		ctx := context.Background()
		heard := make(chan store.Note, 10)
		cancel := st.Listen(func(n store.Note) { heard <- n })
		defer cancel()
		err := st.Update(ctx, func(tx store.Tx) error {
			e := plane.Environment{}
			e.ID, e.Name = "env_1", "one"
			if err := tx.InsertEnvironment(e); err != nil {
				return err
			}
			s := plane.Session{}
			s.ID, s.EnvironmentID, s.Status, s.Turn, s.CreatedAt, s.UpdatedAt = "sesn_1", "env_1", "idle", plane.TurnRest, now, now
			if err := tx.InsertSession(s); err != nil {
				return err
			}
			s, err := tx.LockSession("sesn_1")
			if err != nil {
				return err
			}
			s.Pos = 4
			if err := tx.UpdateSession(s); err != nil {
				return err
			}
			w := plane.WorkItem{ID: "work_1", EnvironmentID: "env_1", SessionID: "sesn_1", State: api.WorkQueued, CreatedAt: now}
			if err := tx.InsertWork(w); err != nil {
				return err
			}
			if w, err = tx.ClaimWork(store.Claim{Environment: "env_1", Worker: "w", Now: now}); err != nil {
				return err
			}
			w.DeliveredAt = &now
			if err := tx.UpdateWork(w); err != nil {
				return err
			}
			tx.Notify(store.Note{Session: "sesn_1", Emit: 1})
			return tx.SawWorker("env_1", "w", now)
		})
		if err != nil {
			t.Fatal(err)
		}
		<-heard
		err = st.View(ctx, func(r store.Reader) error {
			s, err := r.Session("sesn_1")
			if err != nil {
				return err
			}
			if s.Pos != 4 || !s.CreatedAt.Equal(now) {
				return errors.New("wrong session")
			}
			stats, err := r.WorkStats("env_1", now)
			if err != nil {
				return err
			}
			if stats.Delivered != 1 || stats.WorkersPolling != 1 || stats.OldestQueuedAt == nil {
				t.Errorf("stats %+v", stats)
			}
			for _, f := range []func() error{
				func() error { _, err := r.NextDue(); return err },
				func() error { _, err := r.NextOffer("env_1", now); return err },
				func() error { _, err := r.WorkDue(now, 3); return err },
				func() error { _, err := r.Events("sesn_1", store.EventQuery{}); return err },
				func() error { _, err := r.Sessions(store.SessionFilter{}, store.Window{}); return err },
			} {
				if err := f(); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
