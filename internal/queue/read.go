package queue

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

// Wire is an item as clients see it, without its secret.
func Wire(w plane.WorkItem) api.Work {
	md := w.Metadata
	if md == nil {
		md = api.Metadata{}
	}
	return api.Work{
		ID: w.ID, Type: "work", EnvironmentID: w.EnvironmentID,
		Data:  api.WorkData{Type: "session", ID: w.SessionID},
		State: w.State, Metadata: md, CreatedAt: w.CreatedAt,
		AcknowledgedAt: w.AckedAt, StartedAt: w.StartedAt, LatestHeartbeatAt: w.HeartbeatAt,
		StopRequestedAt: w.StopRequestedAt, StoppedAt: w.StoppedAt,
	}
}

// Get gives an item; NotFound when the environment has none by that id.
func (q *Queue) Get(ctx context.Context, environment, id string) (work api.Work, err error) {
	err = q.st.View(ctx, func(r store.Reader) error {
		w, err := r.Work(id)
		if err == nil && w.EnvironmentID != environment {
			err = plane.Errorf(plane.NotFound, "no work item %s in this environment", id)
		}
		work = Wire(w)
		return err
	})
	if err != nil {
		return api.Work{}, err
	}
	return work, nil
}

// List lists an environment's items, newest first; a page ends with the id
// that the next one comes after.
func (q *Queue) List(ctx context.Context, environment string, w store.Window) ([]api.Work, error) {
	var works []api.Work
	err := q.st.View(ctx, func(r store.Reader) error {
		items, err := r.WorkItems(environment, w)
		works = make([]api.Work, 0, len(items))
		for _, it := range items {
			works = append(works, Wire(it))
		}
		return err
	})
	return works, err
}

// Update changes an item's metadata: null deletes a key.
func (q *Queue) Update(ctx context.Context, environment, id string, patch api.MetadataPatch) (work api.Work, err error) {
	err = q.st.Update(ctx, func(tx store.Tx) error {
		w, err := tx.LockWork(id)
		if err != nil {
			return err
		}
		if w.EnvironmentID != environment {
			return plane.Errorf(plane.NotFound, "no work item %s in this environment", id)
		}
		w.Metadata = plane.PatchMetadata(w.Metadata, patch, false)
		if err := plane.CheckMetadata("metadata", w.Metadata); err != nil {
			return err
		}
		work = Wire(w)
		passedOver(tx, w)
		return tx.UpdateWork(w)
	})
	if err != nil {
		return api.Work{}, err
	}
	return work, nil
}

// Stats counts the environment's queue.
func (q *Queue) Stats(ctx context.Context, environment string) (stats api.WorkStats, err error) {
	err = q.st.View(ctx, func(r store.Reader) error {
		st, err := r.WorkStats(environment, q.now())
		stats = api.WorkStats{
			Type: "work_queue_stats", Depth: st.Depth, Pending: st.Pending, Delivered: st.Delivered,
			OldestQueuedAt: st.OldestQueuedAt, WorkersPolling: st.WorkersPolling,
		}
		return err
	})
	return stats, err
}

// MarkStreamed says that the session's holder opened its stream: calls may
// begin from here. It returns at once; the store is told soon.
func (q *Queue) MarkStreamed(session string) {
	q.mu.Lock()
	q.streamed[session] = struct{}{}
	q.mu.Unlock()
	q.markAgain()
}

func (q *Queue) markAgain() {
	select {
	case q.mark <- struct{}{}:
	default:
	}
}

// markLoop writes down which holders have opened a stream.
func (q *Queue) markLoop(quit <-chan struct{}) {
	for {
		select {
		case <-q.mark:
			q.writeMarks()
		case <-quit:
			q.writeMarks()
			return
		}
	}
}

// writeMarks is finished when the queue stops: a mark says what a worker may
// have done.
func (q *Queue) writeMarks() {
	ctx, cancel := context.WithTimeout(context.Background(), claimTime)
	defer cancel()
	q.mu.Lock()
	marks := q.streamed
	q.streamed = map[string]struct{}{}
	q.mu.Unlock()
	sessions := slices.Sorted(maps.Keys(marks)) // one order of locks
	for some := range slices.Chunk(sessions, 64) {
		err := q.st.Update(ctx, func(tx store.Tx) error {
			// Written when all are locked: until then nobody else is undone
			// with this where it must wait for one.
			var marked []plane.WorkItem
			for _, session := range some {
				w, err := unmarked(tx, session)
				if err != nil {
					return err
				}
				marked = append(marked, w...)
			}
			for _, w := range marked {
				w.Streamed = true
				passedOver(tx, w)
				if err := tx.UpdateWork(w); err != nil {
					return err
				}
			}
			if len(marked) == 0 {
				return errNothing
			}
			return nil
		})
		if err != nil && !errors.Is(err, errNothing) {
			q.log.Warn("queue: opened streams were not written down yet", "sessions", len(some), "error", err)
			q.mu.Lock()
			for _, session := range some {
				q.streamed[session] = struct{}{}
			}
			q.mu.Unlock()
			q.cfg.Clock.AfterFunc(q.cfg.Sweep, q.markAgain)
		}
	}
}

// unmarked locks the session's item if its holder was not known to have opened
// a stream; nil when there is none.
func unmarked(tx store.Tx, session string) ([]plane.WorkItem, error) {
	w, err := tx.LiveWork(session)
	if notFound(err) || err == nil && w.Streamed {
		return nil, nil
	}
	if err == nil {
		w, err = tx.LockWork(w.ID)
	}
	if notFound(err) { // deleted meanwhile
		return nil, nil
	}
	if err != nil || w.State == api.WorkStopped || w.Streamed || w.DeliveredAt == nil && w.AckedAt == nil {
		return nil, err
	}
	return []plane.WorkItem{w}, nil
}
