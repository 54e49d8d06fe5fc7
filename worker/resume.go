package worker

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// resume goes on with the items that a former worker held, as long as their
// leases last; all others are the queue's to offer again.
func (w *Worker) resume(take, work context.Context, items *sync.WaitGroup) error {
	defer w.gate.enter()()
	held, err := w.cfg.Ledger.Items(take)
	if err != nil {
		return fmt.Errorf("read what a former worker held: %w", err)
	}
	for _, h := range held {
		log := w.log.With("work", h.Work.ID, "session", h.Work.Data.ID)
		if !h.lasts(time.Now()) || h.Work.EnvironmentID != w.cfg.EnvironmentID {
			log.Info("a former worker's lease has lapsed; leaving the item to the queue")
			w.release(h.Work.ID)
			continue
		}
		log.Info("going on with an item that a former worker held")
		slot := w.slots.take(true)
		w.slots.squeeze()
		items.Go(func() {
			defer w.slots.exit()
			_, _ = w.serve(take, work, h, slot, w.slots)
		})
	}
	return nil
}

// lasts says whether the lease can still be beaten for.
func (h HeldItem) lasts(now time.Time) bool {
	ttl := h.TTL
	if ttl <= 0 {
		ttl = beatFirstTTL
	}
	return now.Before(h.BeatAt.Add(ttl))
}

// release forgets an item.
func (w *Worker) release(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	if err := w.cfg.Ledger.Release(ctx, id); err != nil {
		w.log.Error("the ledger failed", "work", id, "error", err)
	}
}
