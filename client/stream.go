package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/berthdev/berth/api"
)

// maxLine bounds a line of a stream, as the official Go client does.
const maxLine = 32 << 20

// StreamOptions say what a stream carries. Zero is the live tail without
// previews.
type StreamOptions struct {
	Deltas      []string      // event types to preview: agent.message, agent.thinking
	LastEventID string        // resume after this frame (Berth only)
	Silence     time.Duration // give up when nothing comes for so long, pings included; 0 never does
	// As gives what an event of a type is decoded into, for readers that want
	// little of it; nil is the type of package api. A nil As is nil for all.
	As func(kind string) api.Event
}

// ErrSilence ends a stream that was silent for longer than it may be.
var ErrSilence = errors.New("the event stream is silent; the connection is presumed dead")

// ErrLineTooLong ends a stream with a line beyond 32 MiB.
var ErrLineTooLong = errors.New("a line of the event stream is longer than 32 MiB")

// Stream is a session's events as they happen. One goroutine reads it; Close
// may come from any.
type Stream struct {
	client  *Client
	body    io.Closer
	cancel  context.CancelCauseFunc
	ctx     context.Context
	sse     *Frames
	watch   *time.Timer
	silence time.Duration
	as      func(string) api.Event
	lastID  string
	raw     []byte
}

// Stream opens a session's stream. It returns when the server has answered,
// from when on nothing is missed; it is not retried. Close it. The context
// ends the stream, too.
func (c *Client) Stream(ctx context.Context, session string, o StreamOptions) (*Stream, error) {
	return c.stream(ctx, []string{"sessions", session, "events", "stream"}, o)
}

func (c *Client) stream(ctx context.Context, path []string, o StreamOptions) (*Stream, error) {
	q := url.Values{}
	for _, d := range o.Deltas {
		q.Add("event_deltas[]", d)
	}
	h := http.Header{"Accept": {"text/event-stream"}}
	if o.LastEventID != "" {
		h.Set("Last-Event-Id", o.LastEventID)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	s := &Stream{client: c, cancel: cancel, ctx: ctx, silence: o.Silence, as: o.As}
	if o.Silence > 0 {
		s.watch = time.AfterFunc(o.Silence, func() { cancel(ErrSilence) })
	}
	req, err := c.newRequest(ctx, request{method: http.MethodGet, path: path, query: q, header: h}, nil)
	if err != nil {
		s.end()
		return nil, err
	}
	res, err := c.send(req)
	if err == nil {
		if kind := mediaType(res.Header); kind != "" && kind != "text/event-stream" {
			res.Body.Close()
			err = &unexpected{"GET /v1/" + strings.Join(path, "/"), "it is " + nameOf(kind) + ", not an event stream; look at what stands between here and " + c.BaseURL()}
		}
	}
	if err != nil {
		s.end()
		return nil, s.cause(err)
	}
	s.body = res.Body
	s.sse = NewFrames(&watched{s, res.Body})
	return s, nil
}

// Next waits for the next event. io.EOF is a clean end by the server; an
// *Error is an error frame; anything else is a broken connection or the
// context's cause.
func (s *Stream) Next() (api.Event, error) {
	for {
		f, err := s.sse.Next()
		if err != nil {
			s.end()
			if err == io.EOF && s.ctx.Err() == nil {
				return nil, io.EOF
			}
			return nil, s.cause(err)
		}
		switch f.Event {
		case "ping":
			continue
		case "error":
			e := s.client.parseError(f.Data)
			e.Status = http.StatusOK
			return nil, e
		}
		if len(f.Data) == 0 {
			continue
		}
		e, err := api.DecodeEventAs(f.Data, s.as)
		if err != nil {
			return nil, &unexpected{"stream", s.client.plain(err.Error())}
		}
		if f.ID != "" {
			s.lastID = f.ID
		}
		s.raw = f.Data
		return e, nil
	}
}

// Raw is the last event as it came; valid until the next call of Next.
func (s *Stream) Raw() []byte { return s.raw }

// LastEventID is the id of the last frame that had one, for
// StreamOptions.LastEventID; "" if the server sends none.
func (s *Stream) LastEventID() string { return s.lastID }

// Close ends the stream; a Next that waits returns. Twice is fine.
func (s *Stream) Close() error {
	s.end()
	if s.body != nil {
		return s.body.Close()
	}
	return nil
}

func (s *Stream) end() {
	if s.watch != nil {
		s.watch.Stop()
	}
	s.cancel(context.Canceled)
}

// cause prefers the reason of a cancelled context to the error it became.
func (s *Stream) cause(err error) error {
	if c := context.Cause(s.ctx); c != nil && (errors.Is(c, ErrSilence) || !errors.Is(c, context.Canceled)) {
		return c
	}
	return err
}

// watched puts the silence off whenever something comes.
type watched struct {
	s *Stream
	r io.Reader
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if n > 0 && w.s.watch != nil && w.s.ctx.Err() == nil {
		w.s.watch.Reset(w.s.silence)
	}
	return n, err
}

// Frame is one frame of an event stream. Data is valid until the next one is
// read.
type Frame struct {
	Event, ID string
	Data      []byte
}

// Frames reads the frames of a text/event-stream: comments and fields it does
// not know are skipped, several data lines are joined by a line feed, lines
// end in LF or CRLF. Not safe for concurrent use.
type Frames struct {
	r    *bufio.Reader
	line []byte
	data []byte
}

// NewFrames reads frames from r.
func NewFrames(r io.Reader) *Frames { return &Frames{r: bufio.NewReaderSize(r, 4096)} }

// Next gives the next frame that has an event name or data. A frame cut off by
// the end of the stream is dropped: io.EOF.
func (f *Frames) Next() (Frame, error) {
	if cap(f.data) > 1<<20 {
		f.data = nil
	}
	f.data = f.data[:0]
	var frame Frame
	hasData := false
	for {
		line, err := f.readLine()
		if err != nil {
			return Frame{}, err
		}
		if len(line) == 0 {
			if !hasData && frame.Event == "" {
				frame = Frame{}
				continue
			}
			frame.Data = f.data
			return frame, nil
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "event":
			frame.Event = string(value)
		case "id":
			frame.ID = string(value)
		case "data":
			if hasData {
				f.data = append(f.data, '\n')
			}
			if len(f.data)+len(value) > maxLine {
				return Frame{}, ErrLineTooLong
			}
			f.data = append(f.data, value...)
			hasData = true
		}
	}
}

// readLine gives a line without its end, valid until the next call.
func (f *Frames) readLine() ([]byte, error) {
	part, err := f.r.ReadSlice('\n')
	if err == nil {
		return trimEnd(part), nil
	}
	if cap(f.line) > 1<<20 {
		f.line = nil
	}
	f.line = append(f.line[:0], part...)
	for err == bufio.ErrBufferFull {
		part, err = f.r.ReadSlice('\n')
		f.line = append(f.line, part...)
		if len(f.line) > maxLine {
			return nil, ErrLineTooLong
		}
	}
	if err != nil {
		return nil, err
	}
	return trimEnd(f.line), nil
}

func trimEnd(b []byte) []byte {
	b = bytes.TrimSuffix(b, []byte("\n"))
	return bytes.TrimSuffix(b, []byte("\r"))
}
