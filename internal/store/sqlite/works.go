package sqlite

import (
	"sync"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

// maxWorks bounds what either half of works remembers; then it begins anew.
const maxWorks = 4096

// works remembers live work items as they were read, until they are written:
// each tool call of a session reads its item several times and changes it at
// the first only. Nobody but this process writes to the database. What is
// given out is shared: maps and slices in it are not to be changed.
type works struct {
	// The writer's half, as its open transaction sees the rows. It belongs to
	// the writer's goroutine.
	rows    map[string]plane.WorkItem // by id
	live    map[string]string         // ids by session
	written map[string]bool           // ids written since the last commit; "" for all of them

	// The readers' half, as committed.
	mu      sync.Mutex
	commits int64 // those that wrote items
	tokens  map[string]string
	byID    map[string]plane.WorkItem
}

func newWorks() *works {
	w := &works{written: map[string]bool{}}
	w.forget()
	w.tokens, w.byID = map[string]string{}, map[string]plane.WorkItem{}
	return w
}

func (w *works) forget() {
	w.rows, w.live = map[string]plane.WorkItem{}, map[string]string{}
}

// keep remembers a row that the writer has read.
func (w *works) keep(item plane.WorkItem, err error) (plane.WorkItem, error) {
	if err != nil || item.State == api.WorkStopped {
		return item, err
	}
	if len(w.rows) >= maxWorks {
		w.forget()
	}
	w.rows[item.ID], w.live[item.SessionID] = item, item.ID
	return item, nil
}

// wrote says that the writer changes an item, or with "" any of them.
func (w *works) wrote(id string) {
	w.written[id] = true
	if id == "" {
		w.forget()
		return
	}
	delete(w.live, w.rows[id].SessionID)
	delete(w.rows, id)
}

// rolledBack says that what was read since the last commit may never have
// been.
func (w *works) rolledBack() {
	if len(w.written) > 0 {
		w.forget()
		clear(w.written)
	}
}

// committed has readers see what was written.
func (w *works) committed() {
	if len(w.written) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.commits++
	if w.written[""] {
		clear(w.tokens)
		clear(w.byID)
	}
	for id := range w.written {
		delete(w.byID, id)
	}
	clear(w.written)
}

// began is given to byToken by a reader whose transaction begins after it.
func (w *works) began() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.commits
}

// byToken gives a live item as last committed, or reads it. A row read by a
// transaction older than the last commit is not remembered.
func (w *works) byToken(token string, began int64, read func() (plane.WorkItem, error)) (plane.WorkItem, error) {
	w.mu.Lock()
	item, known := w.byID[w.tokens[token]]
	w.mu.Unlock()
	if known && item.TokenID == token {
		return item, nil
	}
	item, err := read()
	if err != nil || item.State == api.WorkStopped {
		return item, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.commits == began {
		if len(w.tokens) >= maxWorks {
			clear(w.tokens)
			clear(w.byID)
		}
		w.tokens[token], w.byID[item.ID] = item.ID, item
	}
	return item, nil
}

// view is a reader outside of the writer.
type view struct {
	reader
	works *works
	began int64
}

var _ store.Reader = (*view)(nil)

func (v *view) WorkByToken(token string) (plane.WorkItem, error) {
	return v.works.byToken(token, v.began, func() (plane.WorkItem, error) { return v.reader.WorkByToken(token) })
}

func (t *tx) Work(id string) (plane.WorkItem, error) {
	if item, known := t.s.works.rows[id]; known {
		return item, nil
	}
	return t.s.works.keep(t.reader.Work(id))
}

func (t *tx) LockWork(id string) (plane.WorkItem, error) { return t.Work(id) }

func (t *tx) LiveWork(session string) (plane.WorkItem, error) {
	if item, known := t.s.works.rows[t.s.works.live[session]]; known {
		return item, nil
	}
	return t.s.works.keep(t.reader.LiveWork(session))
}

func (t *tx) LastWork(session string) (plane.WorkItem, error) {
	if item, known := t.s.works.rows[t.s.works.live[session]]; known {
		return item, nil
	}
	return t.s.works.keep(t.reader.LastWork(session))
}
