package httpapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/events"
	"github.com/berthdev/berth/internal/plane"
)

// streamEvents sends a session's events as they are committed. The headers go
// out when the subscription stands: from then on nothing is missed.
//
// A stream ends when the session does, when it is an hour old, when its reader
// is too slow, when the server stops, and when its credential is superseded or
// revoked; at once when an operator stops the reader's item by force. Clients come back and list what they missed, or, where they know how,
// resume by Last-Event-ID.
//
// It stays on the stack of an open stream, as do its callers: together they are
// to leave it below a quarter of 16 KB, from which on the runtime halves it.
func streamEvents(c *call) (any, error) {
	if err := c.s.streams.enter(); err != nil {
		return nil, err
	}
	defer c.s.streams.leave()
	sub, err := subscribe(c)
	if err != nil {
		return nil, err
	}
	defer sub.Close()
	st := &stream{c: c, ctl: http.NewResponseController(c.w), checked: time.Now()}
	if err := st.open(); err != nil {
		return nil, nil // the client is gone, and its answer has begun
	}
	return nil, st.run(sub)
}

// subscribe begins the subscription that a call asks for.
func subscribe(c *call) (*events.Subscription, error) {
	if c.r.Method != http.MethodGet {
		return nil, errMethod(c.r.Method, http.MethodGet)
	}
	q, err := c.query()
	if err != nil {
		return nil, err
	}
	deltas, err := q.list("event_deltas", 100)
	if err != nil {
		return nil, err
	}
	for _, d := range deltas {
		if d != api.TypeAgentMessage && d != api.TypeAgentThinking {
			return nil, plane.Errorf(plane.Invalid, "%q is not one of %s, %s", clip(d), api.TypeAgentMessage, api.TypeAgentThinking).In("event_deltas")
		}
	}
	from, err := resumeFrom(c.r)
	if err != nil {
		return nil, err
	}
	session := c.path("session")
	sub, err := c.s.cfg.Events.Subscribe(c.ctx(), session, from, deltas)
	if err != nil {
		return nil, noSession(err, session)
	}
	if c.who.Kind == plane.CallerSessions {
		c.s.cfg.Queue.MarkStreamed(session)
	}
	return sub, nil
}

// resumeFrom reads Last-Event-ID: the number of the last frame the client has.
func resumeFrom(r *http.Request) (events.From, error) {
	v := r.Header.Get("Last-Event-Id")
	if v == "" {
		return events.From{}, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return events.From{}, plane.Errorf(plane.Invalid, "%q is not the id of a frame of this stream", clip(v)).In("Last-Event-ID")
	}
	return events.From{Resume: true, After: n}, nil
}

// stream is one open event stream.
type stream struct {
	c   *call
	ctl *http.ResponseController
	buf []byte // the head of a frame

	checked time.Time // when the credential was last looked at
}

var (
	errStreamAge = errors.New("the stream is as old as it may get")
	errStreamKey = errors.New("the stream's credential is no longer good")
)

func (s *stream) open() error {
	h := s.c.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	if err := s.deadline(0); err != nil {
		return err
	}
	s.c.w.WriteHeader(http.StatusOK)
	return s.ctl.Flush()
}

// run writes frames until the stream ends. Every end is a clean one for the
// client; a client that is gone is nobody's error.
func (s *stream) run(sub *events.Subscription) error {
	cfg := s.c.s.cfg
	ctx, cancel := context.WithTimeoutCause(s.c.ctx(), cfg.StreamMaxAge, errStreamAge)
	defer cancel()
	ping := time.NewTimer(cfg.PingEvery)
	defer ping.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ping.C:
			if _, err := s.standing(ctx); err != nil {
				return s.end(err)
			}
			if err := s.write([]byte(": ping\n\n")); err != nil {
				return nil
			}
		case <-sub.Ready():
			if last, err := s.drain(ctx, sub); last || err != nil {
				return s.end(err)
			}
		}
		ping.Reset(cfg.PingEvery)
	}
}

// drain sends all that is at hand; last says that the session has ended.
func (s *stream) drain(ctx context.Context, sub *events.Subscription) (last bool, err error) {
	if sub.Taken() {
		if _, err := s.standing(ctx); err != nil {
			return false, err
		}
	}
	for {
		frames, err := sub.Take(ctx)
		if err != nil {
			return false, err
		}
		if len(frames) == 0 {
			return false, s.flush()
		}
		// A worker whose item went to another must see nothing more; one whose
		// item ended because the session did is still told that it did.
		farewell := false
		if s.c.who.Kind == plane.CallerSessions {
			standing, err := s.standing(ctx)
			if farewell = standing == plane.Grace; err != nil && !farewell {
				return false, err
			}
		} else if time.Since(s.checked) >= s.c.s.cfg.PingEvery {
			// A busy stream never comes to a ping.
			if _, err := s.standing(ctx); err != nil {
				return false, err
			}
		}
		size := 0
		for _, f := range frames {
			size += len(f.Body)
		}
		if err := s.deadline(size); err != nil {
			return false, gone{err}
		}
		for _, f := range frames {
			last := f.Type == api.TypeSessionStatusTerminated || f.Type == api.TypeSessionDeleted
			if farewell && !last {
				continue
			}
			if err := s.frame(f); err != nil {
				return false, gone{err}
			}
			if last {
				return true, s.flush()
			}
		}
	}
}

// standing looks whether the caller may still read; errStreamKey when not.
func (s *stream) standing(ctx context.Context) (plane.Standing, error) {
	presented, err := credential(s.c.r, true)
	if err != nil {
		return plane.Dead, errStreamKey
	}
	who, err := s.c.s.cfg.Keys.Check(ctx, presented)
	if err != nil && plane.KindOf(err) == plane.Unauthenticated {
		return plane.Dead, errStreamKey
	}
	if err == nil && !who.Live() {
		err = errStreamKey
	}
	s.checked = time.Now()
	return who.Standing, err
}

// gone is a failed write: the client does not read any more.
type gone struct{ error }

// end closes the stream. An error of ours is told in an error frame first,
// which makes official clients come back after a pause.
func (s *stream) end(err error) error {
	if _, ok := errors.AsType[gone](err); err == nil || ok || err == io.EOF || errors.Is(err, errStreamKey) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, events.ErrStopped) || errors.Is(err, events.ErrSlow) || errors.Is(err, events.ErrClosed) {
		return nil
	}
	s.c.s.log.Error("httpapi: event stream failed", "request", s.c.id, "session", s.c.path("session"), "error", err)
	_, body := translate(err)
	frame := append([]byte("event: error\ndata: "), envelope(s.c.id, body)...)
	s.write(append(frame, "\n\n"...)) // the last word; whether it arrives or not
	return nil
}

// frame writes one frame and leaves its time and flushing to the caller. The
// body is shared with other streams and goes out as it is.
func (s *stream) frame(f *events.Frame) error {
	name := f.Type
	if s.c.s.cfg.MessageFrames {
		name = "message"
	}
	s.buf = append(append(s.buf[:0], "event: "...), name...)
	if f.Emit > 0 {
		s.buf = strconv.AppendInt(append(s.buf, "\nid: "...), f.Emit, 10)
	}
	s.buf = append(s.buf, "\ndata: "...)
	for _, part := range [][]byte{s.buf, f.Body, frameEnd} {
		if _, err := s.c.w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

var frameEnd = []byte("\n\n")

func (s *stream) write(b []byte) error {
	if err := s.deadline(len(b)); err != nil {
		return err
	}
	if _, err := s.c.w.Write(b); err != nil {
		return err
	}
	return s.ctl.Flush()
}

func (s *stream) flush() error {
	if err := s.ctl.Flush(); err != nil {
		return gone{err}
	}
	return nil
}

// deadline gives the next write of n bytes its time.
func (s *stream) deadline(n int) error { return s.c.s.patience(s.ctl, n) }
