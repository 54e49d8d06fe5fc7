package app

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
)

// Previews are the event types that Follow shows while they are written.
var Previews = []string{api.TypeAgentMessage, api.TypeAgentThinking}

const (
	// streamSilence is how long a stream may be silent before it is opened
	// anew; servers send a ping every 15 s.
	streamSilence = 60 * time.Second
	// streamTries bounds how often in a row a broken stream is opened anew.
	streamTries = 8
)

// Follow shows a session's events from now on, each once and in order, until
// show says that it has seen enough, the session is gone or ctx ends, which is
// then the error. Once the first stream is open, when nothing can be missed
// any more, it calls begin (nil for none). A stream that breaks is opened anew
// and what happened between is read from the log.
func Follow(ctx context.Context, c *client.Client, session string, begin func() error, show func(api.Event) (enough bool)) error {
	f := follower{client: c, session: session, show: show, seen: map[string]bool{}}
	for try := 0; ; try++ {
		if try > 0 {
			if err := pause(ctx, try); err != nil {
				return err
			}
		}
		before := f.shown
		enough, err := f.stream(ctx, begin)
		if begin != nil && f.open {
			begin = nil
		}
		if f.shown > before {
			try = 0
		}
		switch {
		case enough:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && (!f.open || try >= streamTries || !temporary(err)):
			return err
		}
	}
}

// errBegin marks a failure of the caller's own.
type errBegin struct{ error }

func (e errBegin) Unwrap() error { return e.error }

func temporary(err error) bool {
	if _, ok := errors.AsType[errBegin](err); ok {
		return false
	}
	if e, ok := errors.AsType[*client.Error](err); ok {
		return e.Temporary()
	}
	return true
}

// follower is one Follow.
type follower struct {
	client  *client.Client
	session string
	show    func(api.Event) bool

	open   bool            // a stream was open once
	shown  int             // frames shown
	seen   map[string]bool // events shown with their time; false while they were queued
	last   time.Time       // processed_at of the newest event shown
	lastID string          // of the last frame, for servers that resume
}

// stream shows one stream until it ends.
func (f *follower) stream(ctx context.Context, begin func() error) (enough bool, err error) {
	s, err := f.client.Stream(ctx, f.session, client.StreamOptions{Deltas: Previews, Silence: streamSilence, LastEventID: f.lastID})
	if err != nil {
		return false, err
	}
	defer s.Close()
	again := f.open
	f.open = true
	if begin != nil && !again {
		if err := begin(); err != nil {
			return false, errBegin{err}
		}
	}
	if again && !f.last.IsZero() {
		missed, err := f.client.AllEvents(ctx, f.session, client.EventQuery{After: f.last})
		if err != nil {
			return false, err
		}
		for _, e := range missed {
			if f.take(e) {
				return true, nil
			}
		}
	}
	for {
		e, err := s.Next()
		if err == io.EOF {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if id := s.LastEventID(); id != "" {
			f.lastID = id
		}
		if f.take(e) {
			return true, nil
		}
	}
}

// take shows an event unless it was shown before.
func (f *follower) take(e api.Event) (enough bool) {
	head := e.Head()
	if head.ID != "" {
		done, known := f.seen[head.ID]
		if done || known && head.ProcessedAt == nil {
			return false
		}
		f.seen[head.ID] = head.ProcessedAt != nil
		if head.ProcessedAt != nil && head.ProcessedAt.After(f.last) {
			f.last = *head.ProcessedAt
		}
	}
	f.shown++
	enough = f.show(e)
	switch e.(type) {
	case *api.SessionStatusTerminated, *api.SessionDeleted:
		enough = true
	}
	return enough
}

// pause waits before another try, longer with each.
func pause(ctx context.Context, try int) error {
	timer := time.NewTimer(min(100*time.Millisecond<<min(try, 6), 5*time.Second))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
