// Package events is the session's log as seen from above the store: it gives
// events their id, place, frame number and time inside the caller's
// transaction, and shows what was committed to those who listen.
//
// Every row has a place (pos, the list's order) and the number of its latest
// frame (emit, the stream's order). An event that waits in the queue has a
// frame and no place; taking it up gives it its place and a second frame.
package events

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

// Log appends events and fans them out. Append, Queue, Process and Deleted may
// be called at any time; subscriptions are served between Start and Stop.
// Safe for concurrent use.
type Log struct {
	st          store.Store
	now         func() time.Time
	previewWait time.Duration

	// A hub outlives no subscription: sessions nobody listens to have none.
	mu      sync.Mutex
	hubs    map[string]*hub
	started bool
	cancel  func() // of Listen; nil while not running
}

// New makes a Log over a store.
func New(st store.Store) *Log {
	return &Log{st: st, now: time.Now, previewWait: previewWait, hubs: map[string]*hub{}}
}

// Start begins to listen to the store. Twice is fine.
func (l *Log) Start() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.started {
		l.started = true
		l.cancel = l.st.Listen(l.hear)
	}
}

// Stop ends every subscription with ErrStopped and listens no more. Twice is
// fine.
func (l *Log) Stop() {
	l.mu.Lock()
	cancel := l.cancel
	l.cancel, l.started = nil, false
	hubs := l.hubs
	l.hubs = map[string]*hub{}
	l.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	for _, h := range hubs {
		h.end(ErrStopped)
	}
}

// Append stores events at the end of the log. An event without an id gets
// one; its time is now, or just after the session's last one, so that times
// rise strictly within a session. The caller holds the session's lock and
// stores s, whose counters have changed, afterwards. The rows are given back
// in order.
func (l *Log) Append(tx store.Tx, s *plane.Session, evs ...api.Event) ([]plane.StoredEvent, error) {
	if len(evs) == 0 {
		return nil, nil
	}
	rows := make([]plane.StoredEvent, len(evs))
	for i, e := range evs {
		head := e.Head()
		if head.ID == "" {
			head.ID = plane.NewID(plane.PrefixEvent)
		}
		at := l.stamp(s)
		head.ProcessedAt = &at
		s.Pos++
		row, err := l.row(s, e, s.Pos)
		if err != nil {
			return nil, err
		}
		rows[i] = row
	}
	if err := tx.InsertEvents(rows...); err != nil {
		return nil, fmt.Errorf("append events: %w", err)
	}
	note(tx, s, rows...)
	return rows, nil
}

// Queue stores a client's event that waits: it is listed after all others
// with no time, and streamed once like that. Process gives it its place. The
// rules of Append hold.
func (l *Log) Queue(tx store.Tx, s *plane.Session, e api.Event) (plane.StoredEvent, error) {
	head := e.Head()
	if head.ID == "" {
		head.ID = plane.NewID(plane.PrefixEvent)
	}
	head.ProcessedAt = nil
	row, err := l.row(s, e, 0)
	if err != nil {
		return row, err
	}
	if err := tx.InsertEvents(row); err != nil {
		return row, fmt.Errorf("queue an event: %w", err)
	}
	note(tx, s, row)
	return row, nil
}

// Process takes up a queued event: it gets its place at the end of the log
// and its time, and is streamed again. One that has its place already is
// given as it is. The rules of Append hold.
func (l *Log) Process(tx store.Tx, s *plane.Session, id string) (plane.StoredEvent, error) {
	row, err := tx.Event(s.ID, id)
	if err != nil || row.Pos != 0 {
		return row, err
	}
	e, err := api.DecodeEvent(row.Body)
	if err != nil {
		return row, fmt.Errorf("process %s: %w", id, err)
	}
	at := l.stamp(s)
	e.Head().ProcessedAt = &at
	s.Pos++
	if row, err = l.row(s, e, s.Pos); err != nil {
		return row, err
	}
	if err := tx.UpdateEvent(row); err != nil {
		return row, fmt.Errorf("process %s: %w", id, err)
	}
	note(tx, s, row)
	return row, nil
}

// stamp is the session's next time: now, but later than the last one.
func (l *Log) stamp(s *plane.Session) time.Time {
	at := l.now().UTC().Truncate(time.Microsecond)
	if !at.After(s.LastProcessedAt) {
		at = s.LastProcessedAt.UTC().Add(time.Microsecond)
	}
	s.LastProcessedAt = at
	return at
}

func (l *Log) row(s *plane.Session, e api.Event, pos int64) (plane.StoredEvent, error) {
	head := e.Head()
	body, err := json.Marshal(e)
	if err != nil {
		return plane.StoredEvent{}, fmt.Errorf("encode %s: %w", head.Type, err)
	}
	s.Emit++
	return plane.StoredEvent{
		SessionID: s.ID, ID: head.ID, Type: head.Type, Pos: pos, Emit: s.Emit,
		ProcessedAt: head.ProcessedAt, Body: body,
	}, nil
}

func note(tx store.Tx, s *plane.Session, rows ...plane.StoredEvent) {
	tx.Notify(store.Note{Session: s.ID, Emit: s.Emit, Frames: rows})
}

// Preview shows an event_start or event_delta to the session's subscribers
// that asked for previews of that type, and that have the frame after, which is
// committed: for a start it waits a while until they have. Previews are never
// stored and may be shed; a delta reaches only who got all of its event so far.
func (l *Log) Preview(session string, after int64, e api.Event) {
	l.mu.Lock()
	h := l.hubs[session]
	l.mu.Unlock()
	if h == nil {
		return
	}
	var p preview
	switch e := e.(type) {
	case *api.EventStart:
		p = preview{of: e.Event.ID, kind: e.Event.Type, start: true, after: after}
		h.await(after, l.previewWait)
	case *api.EventDelta:
		p = preview{of: e.EventID}
	default:
		return
	}
	h.preview(p, func() *Frame {
		body, err := json.Marshal(e)
		if err != nil {
			return nil
		}
		return &Frame{Type: e.Head().Type, Body: body}
	})
}

// deletedFrame is the last frame of a session that was deleted.
func (l *Log) deletedFrame() *Frame {
	at := l.now().UTC().Truncate(time.Microsecond)
	e := &api.SessionDeleted{EventHead: api.EventHead{
		ID: plane.NewID(plane.PrefixEvent), Type: api.TypeSessionDeleted, ProcessedAt: &at,
	}}
	body, err := json.Marshal(e)
	if err != nil {
		body = []byte(`{"type":"session.deleted"}`)
	}
	return &Frame{ID: e.ID, Type: e.Type, Body: body}
}

// Frame is what one frame of a stream shows. It is shared between
// subscriptions: do not change it.
type Frame struct {
	Emit int64  // its number, to resume after; 0 for previews and session.deleted
	ID   string // "" for previews
	Type string
	Body json.RawMessage // one line of JSON
}

func frameOf(row plane.StoredEvent) *Frame {
	body := row.Body
	if bytes.IndexByte(body, '\n') >= 0 { // never written so by this package
		var one bytes.Buffer
		if json.Compact(&one, body) == nil {
			body = one.Bytes()
		}
	}
	return &Frame{Emit: row.Emit, ID: row.ID, Type: row.Type, Body: body}
}
