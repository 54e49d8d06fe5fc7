package events

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

// Why a subscription ended. Take gives io.EOF after session.deleted.
var (
	ErrSlow    = errors.New("the reader of the stream was too slow")
	ErrStopped = errors.New("the server is stopping")
	ErrClosed  = errors.New("the subscription was closed")
)

const (
	bufferFrames = 256
	bufferBytes  = 1 << 20
	pageFrames   = 32 // read from the store at once
	// slowAfter is how long a full buffer may go untaken. Until then the
	// reader only falls behind and catches up from the store.
	slowAfter = 30 * time.Second
	// previewWait bounds how long the start of an event waits for the notes of
	// the frames before it, which come from another goroutine.
	previewWait = time.Second
)

// From says where a subscription begins. The zero value is the live tail:
// what is committed from now on.
type From struct {
	Resume bool  // instead of the live tail, after frame After
	After  int64 // taken as the newest frame when it is beyond it
}

// Subscription is one reader of a session's frames: each committed frame
// once, in order, never before it is committed. Wait on Ready, then Take
// until it gives nothing. One goroutine may call Take; Close is for any.
type Subscription struct {
	log     *Log
	hub     *hub
	ready   chan struct{}
	message bool // asked for previews of agent.message
	think   bool // and of agent.thinking

	// Below: guarded by hub.mu.
	cursor    int64 // the last frame taken or buffered
	buffer    []*Frame
	bytes     int
	behind    bool // the next frames come from the store; ready is set or Take runs
	verify    bool // and whether the session still exists
	fullSince time.Time
	preview   string // event whose previews it has got completely so far
	taken     bool   // see Taken
	err       error  // after the buffer is empty
}

// Subscribe begins to listen to a session; deltas are the event types whose
// previews are wanted (agent.message, agent.thinking). NotFound when there is
// no such session. When it has returned, no frame committed later is missed.
// Of a session that has terminated the last frame, which says so, always comes.
func (l *Log) Subscribe(ctx context.Context, session string, from From, deltas []string) (*Subscription, error) {
	s := &Subscription{
		log: l, ready: make(chan struct{}, 1), behind: true,
		message: slices.Contains(deltas, api.TypeAgentMessage),
		think:   slices.Contains(deltas, api.TypeAgentThinking),
	}
	l.mu.Lock()
	if !l.started {
		l.mu.Unlock()
		return nil, plane.Wrap(plane.Unavailable, ErrStopped, "event streams are not being served")
	}
	s.hub = l.hubs[session]
	if s.hub == nil {
		s.hub = &hub{session: session}
		l.hubs[session] = s.hub
	}
	s.hub.add(s)
	l.mu.Unlock()

	// Only now, so that what is committed after this look is heard of.
	row, err := l.st.Session(ctx, session)
	emit := row.Emit
	if err != nil {
		s.Close()
		return nil, err
	}
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	s.cursor = emit
	if from.Resume {
		s.cursor = max(0, min(from.After, emit))
	}
	if row.Status == api.SessionTerminated { // nothing follows its last frame: who comes late is shown it
		s.cursor = min(s.cursor, emit-1)
	}
	s.behind = s.cursor < emit || s.cursor < h.heard || s.verify
	if s.behind || s.err != nil || len(s.buffer) > 0 {
		s.signal()
	}
	return s, nil
}

// Ready holds a value when Take has something to give.
func (s *Subscription) Ready() <-chan struct{} { return s.ready }

// Take gives the next frames, all that are at hand; none and no error means
// to wait on Ready. An error ends the subscription: io.EOF after the last
// frame of a deleted session, ErrSlow, ErrStopped, ErrClosed, or what the
// store or ctx say.
func (s *Subscription) Take(ctx context.Context) ([]*Frame, error) {
	h := s.hub
	for {
		h.mu.Lock()
		if len(s.buffer) > 0 {
			frames := s.buffer
			s.buffer, s.bytes = nil, 0
			s.fullSince = time.Time{}
			if s.behind || s.err != nil {
				s.signal()
			}
			h.mu.Unlock()
			return frames, nil
		}
		if s.err != nil || !s.behind {
			err := s.err
			h.mu.Unlock()
			return nil, err
		}
		after, heard, verify := s.cursor, h.heard, s.verify
		s.verify = false
		h.mu.Unlock()

		frames, deleted, err := s.read(ctx, after, verify)
		if err != nil {
			return nil, err
		}
		h.mu.Lock()
		if deleted && s.err == nil {
			s.finish(s.log.deletedFrame())
		}
		if n := len(frames); n > 0 {
			s.cursor = frames[n-1].Emit
		}
		if len(frames) < pageFrames {
			// All frames up to heard were visible to the read; the numbers
			// in between belong to frames that newer ones replaced.
			s.cursor = max(s.cursor, heard)
			s.behind = s.cursor < h.heard || s.verify
		}
		if len(frames) > 0 && (s.behind || s.err != nil || len(s.buffer) > 0) {
			s.signal()
		}
		h.mu.Unlock()
		if len(frames) > 0 {
			return frames, nil
		}
	}
}

func (s *Subscription) read(ctx context.Context, after int64, verify bool) (frames []*Frame, deleted bool, err error) {
	err = s.log.st.View(ctx, func(r store.Reader) error {
		frames, deleted = nil, false
		rows, err := r.Frames(s.hub.session, after, pageFrames)
		if err != nil {
			return err
		}
		for _, row := range rows {
			frames = append(frames, frameOf(row))
		}
		if len(rows) == 0 && verify {
			if _, err := r.Session(s.hub.session); err != nil {
				deleted = plane.KindOf(err) == plane.NotFound
				if !deleted {
					return err
				}
			}
		}
		return nil
	})
	return frames, deleted, err
}

// Taken says, once, that the session was taken from its worker: whoever reads
// for that one may not go on.
func (s *Subscription) Taken() bool {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	taken := s.taken
	s.taken = false
	return taken
}

// Close ends the subscription and frees what it holds. Twice is fine.
func (s *Subscription) Close() {
	l, h := s.log, s.hub
	l.mu.Lock()
	h.mu.Lock()
	h.subs = slices.DeleteFunc(h.subs, func(o *Subscription) bool { return o == s })
	if len(h.subs) == 0 && l.hubs[h.session] == h {
		delete(l.hubs, h.session)
	}
	s.fail(ErrClosed)
	h.mu.Unlock()
	l.mu.Unlock()
}

// The methods below are called under hub.mu.

func (s *Subscription) signal() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

func (s *Subscription) room(f *Frame) bool {
	return len(s.buffer) == 0 || len(s.buffer) < bufferFrames && s.bytes+len(f.Body) <= bufferBytes
}

func (s *Subscription) push(f *Frame) {
	s.buffer = append(s.buffer, f)
	s.bytes += len(f.Body)
	s.signal()
}

// fail ends the subscription at once, finish after what is buffered.
func (s *Subscription) fail(err error) {
	if s.err == nil || s.err == io.EOF {
		s.err = err
	}
	s.buffer, s.bytes, s.behind = nil, 0, false
	s.signal()
}

func (s *Subscription) finish(last *Frame) {
	if s.err != nil {
		return
	}
	s.err, s.behind = io.EOF, false // its rows are gone: nothing left to read
	s.push(last)
}

// hub is a session's subscriptions. Its methods may be called at once.
type hub struct {
	session string

	mu    sync.Mutex
	heard int64 // the newest frame any note told of
	subs  []*Subscription
	news  chan struct{} // closed by the next note; nil when nobody waits
}

func (h *hub) add(s *Subscription) {
	h.mu.Lock()
	h.subs = append(h.subs, s)
	h.mu.Unlock()
}

// hear is the store's listener.
func (l *Log) hear(n store.Note) {
	if n.Lost {
		l.mu.Lock()
		hubs := make([]*hub, 0, len(l.hubs))
		for _, h := range l.hubs {
			hubs = append(hubs, h)
		}
		l.mu.Unlock()
		for _, h := range hubs {
			h.lookAgain()
		}
		return
	}
	if n.Session == "" || n.Emit == 0 && !n.Deleted && !n.Taken {
		return
	}
	l.mu.Lock()
	h := l.hubs[n.Session]
	l.mu.Unlock()
	if h == nil {
		return
	}
	if n.Deleted {
		h.deleted(l.deletedFrame())
		return
	}
	if n.Taken {
		h.taken()
		return
	}
	frames := make([]*Frame, len(n.Frames))
	for i, row := range n.Frames {
		frames[i] = frameOf(row)
	}
	h.deliver(n.Emit, frames, l.now())
}

// deliver gives frames to who has all before them; the others, and all when
// the note carried none, look into the store.
func (h *hub) deliver(emit int64, frames []*Frame, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.told()
	h.heard = max(h.heard, emit)
	for _, s := range h.subs {
		if s.err != nil {
			continue
		}
		for _, f := range frames {
			if s.behind || f.Emit > s.cursor+1 {
				break
			}
			if f.Emit <= s.cursor {
				continue
			}
			if !s.room(f) {
				s.fullSince = now
				break
			}
			s.cursor = f.Emit
			if f.ID == s.preview {
				s.preview = ""
			}
			s.push(f)
		}
		if s.cursor < emit && !s.behind {
			s.behind, s.preview = true, ""
			s.signal()
		}
		if !s.fullSince.IsZero() && now.Sub(s.fullSince) >= slowAfter {
			s.fail(ErrSlow)
		}
	}
}

func (h *hub) lookAgain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.told()
	for _, s := range h.subs {
		if s.err == nil {
			s.behind, s.verify, s.preview = true, true, ""
			s.signal()
		}
	}
}

func (h *hub) taken() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.subs {
		s.taken = true
		s.signal()
	}
}

func (h *hub) deleted(last *Frame) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.subs {
		s.finish(last)
	}
}

func (h *hub) end(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.subs {
		s.fail(err)
	}
}

// told is called under mu.
func (h *hub) told() {
	if h.news != nil {
		close(h.news)
		h.news = nil
	}
}

// await returns when nobody has still to hear of a frame, or after most.
func (h *hub) await(emit int64, most time.Duration) {
	var timer *time.Timer
	for {
		h.mu.Lock()
		if !slices.ContainsFunc(h.subs, func(s *Subscription) bool { return s.err == nil && !s.behind && s.cursor < emit }) {
			h.mu.Unlock()
			return
		}
		if h.news == nil {
			h.news = make(chan struct{})
		}
		news := h.news
		h.mu.Unlock()
		if timer == nil {
			timer = time.NewTimer(most)
			defer timer.Stop()
		}
		select {
		case <-news:
		case <-timer.C:
			return
		}
	}
}

type preview struct {
	of    string // the event's id
	kind  string // its type; of a start
	start bool
	after int64 // the frame before it; of a start
}

func (h *hub) preview(p preview, frame func() *Frame) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var f *Frame
	for _, s := range h.subs {
		switch {
		case s.err != nil:
			continue
		case p.start && !(p.kind == api.TypeAgentMessage && s.message || p.kind == api.TypeAgentThinking && s.think):
			continue
		case !p.start && s.preview != p.of:
			continue
		}
		if f == nil {
			if f = frame(); f == nil {
				return
			}
		}
		if s.behind || s.cursor < p.after || !s.room(f) {
			s.preview = ""
			continue
		}
		if p.start {
			s.preview = p.of
		}
		s.push(f)
	}
}
