package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
)

const (
	reconnectMin  = 500 * time.Millisecond
	reconnectMax  = 10 * time.Second
	streamHealthy = 5 * time.Second // a stream that lived so long was a good one
	streamSilence = 60 * time.Second
	historyPage   = 1000
	historyPages  = 2000             // of one pass, at most
	historyTime   = 2 * time.Minute  // for one page
	unreadMost    = 10 * time.Minute // without a history, though the lease goes on
)

// reader follows a session's log: a stream opened first, then the whole
// history, then what the stream brings; again and again until ctx ends. A
// history pass that is asked for is read beside the stream.
type reader struct {
	client  *client.Client
	session string
	log     *slog.Logger
	out     chan<- reading  // read by the runner's loop
	resync  <-chan struct{} // asks for a new history pass
	counted func()          // a stream was opened anew

	had time.Time // when a connection with a history was last there, at first the start
}

// reading is a history pass, an event, or the reader's end.
type reading struct {
	history bool
	notes   []note
	err     error // the reader has ended: what it met is permanent
}

// run returns when ctx has ended or after it has sent its error.
func (r *reader) run(ctx context.Context) {
	known := 0 // how many events the last history pass had
	backoff := time.Duration(0)
	r.had = time.Now()
	for first := true; ctx.Err() == nil; first = false {
		if !first {
			if r.counted != nil {
				r.counted()
			}
			if !sleep(ctx, jitter(backoff)) {
				return
			}
		}
		events, n, err := r.connection(ctx, known)
		if ctx.Err() != nil {
			return
		}
		if err = r.bounded(err); err != nil && final(err) {
			r.send(ctx, reading{err: err})
			return
		}
		// A stream that brought something was a good one: the first new try
		// after it is immediate. Those that bring nothing back off.
		if events > 0 {
			backoff = 0
		} else {
			backoff = min(max(reconnectMin, backoff*2), reconnectMax)
		}
		known = max(known, n)
		if err != nil && events == 0 {
			r.log.Warn("the session's events cannot be had; trying again", "error", err, "pause", backoff)
		} else {
			r.log.Debug("the event stream ended; connecting again", "reason", err, "pause", backoff)
		}
	}
}

// connection serves one stream to its end. good counts what was new on it,
// and is at least 1 when it lived long enough.
func (r *reader) connection(ctx context.Context, known int) (good, length int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := r.client.Stream(ctx, r.session, client.StreamOptions{Silence: streamSilence, As: lean})
	if err != nil {
		return 0, known, err
	}
	began := time.Now()
	events := make(chan streamed)
	pumped := make(chan struct{})
	look := &beside{reader: r}
	defer func() { // the pump ends with its stream
		cancel()
		stream.Close()
		<-pumped
		look.wait()
	}()
	go func() {
		defer close(pumped)
		pump(ctx, stream, events)
	}()

	if length, err = r.pass(ctx); err != nil {
		return 0, known, err
	}
	good = max(0, length-known)
	over := false // nothing comes any more: the runner will end this
	defer func() { r.had = time.Now() }()
	for {
		select {
		case e := <-events:
			if e.err != nil {
				if time.Since(began) >= streamHealthy {
					good++
				}
				switch {
				case over:
					return 0, length, nil
				case errors.Is(e.err, io.EOF):
					return good, length, nil
				}
				return good, length, e.err
			}
			good++
			length++
			n := digest(e.event)
			over = n.ends()
			look.heard(n)
			if !r.send(ctx, reading{notes: []note{n}}) {
				return good, length, ctx.Err()
			}
		case <-look.asked():
			look.begin(ctx)
		case l := <-look.done:
			notes, err := look.ended(ctx, l)
			if err != nil {
				return good, length, err
			}
			if look.done == nil {
				length = len(notes)
				if !r.send(ctx, reading{history: true, notes: notes}) {
					return good, length, ctx.Err()
				}
			}
		case <-ctx.Done():
			return good, length, ctx.Err()
		}
	}
}

// pass reads a new stream's history and hands it over, for everybody who has
// asked so far.
func (r *reader) pass(ctx context.Context) (length int, err error) {
	select {
	case <-r.resync:
	default:
	}
	notes, err := r.history(ctx)
	if err != nil {
		return 0, err
	}
	if !r.send(ctx, reading{history: true, notes: notes}) {
		return 0, ctx.Err()
	}
	return len(notes), nil
}

// streamed is an event of a stream, or its end.
type streamed struct {
	event api.Event
	err   error
}

// pump reads a stream until it ends. What comes while the history is read
// waits in the connection's buffers.
func pump(ctx context.Context, s *client.Stream, out chan<- streamed) {
	for {
		e, err := s.Next()
		select {
		case out <- streamed{e, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// history reads the whole log, and tries again as long as the connection
// holds: without it, no call can be told from an answered one.
func (r *reader) history(ctx context.Context) ([]note, error) {
	for backoff := reconnectMin; ; backoff = min(backoff*2, reconnectMax) {
		notes, err := r.list(ctx)
		if err == nil || ctx.Err() != nil {
			return notes, err
		}
		if err = r.bounded(err); final(err) {
			return nil, err
		}
		r.log.Warn("the session's history could not be read; trying again", "error", err)
		if !sleep(ctx, jitter(backoff)) {
			return nil, ctx.Err()
		}
	}
}

// errHistory marks a history that no further try can read.
var errHistory = errors.New("the session's history cannot be read")

// bounded makes a failure final when there has been no history for too long: a
// control plane that answers beats and nothing else would hold the session, and
// its slot, for ever.
func (r *reader) bounded(err error) error {
	if err == nil || final(err) || time.Since(r.had) < unreadMost {
		return err
	}
	return fmt.Errorf("%w for %v: %w", errHistory, unreadMost, err)
}

// final says that no further try will do better.
func final(err error) bool { return !temporary(err) || errors.Is(err, errHistory) }

// list reads the whole log once. Calls that need no answer any more come
// without their input.
func (r *reader) list(ctx context.Context) ([]note, error) {
	var notes []note
	var open openCalls
	idle := -1 // the last one, whose ids alone count
	q := client.EventQuery{PageQuery: client.PageQuery{Limit: historyPage}, Order: "asc"}
	for range historyPages {
		p, err := r.page(ctx, &q)
		if err != nil {
			return nil, err
		}
		for _, e := range p.Data {
			n := digest(e)
			if n.kind == api.TypeSessionStatusIdle {
				if idle >= 0 {
					notes[idle].stop.EventIDs = nil
				}
				idle = len(notes)
			}
			notes = append(notes, n)
			if open.add(n); open.takes > maxKept {
				return nil, fmt.Errorf("%w: more calls are open than a worker can keep: %d MiB of them", errHistory, maxKept>>20)
			}
		}
		if p.NextPage == nil || *p.NextPage == "" || *p.NextPage == q.Page {
			return notes, nil
		}
		q.Page = *p.NextPage
	}
	return nil, fmt.Errorf("%w: it has no end after %d pages", errHistory, historyPages)
}

// openCalls are the calls of a history that still wait for an answer. The zero
// value has none.
type openCalls struct {
	byID  map[string]*pending
	takes int64 // bytes, as run counts them
}

// add takes the next event in.
func (o *openCalls) add(n note) {
	switch {
	case n.call != nil && n.call.permission != api.PermissionDeny && o.byID[n.id] == nil:
		if o.byID == nil {
			o.byID = map[string]*pending{}
		}
		o.byID[n.id] = n.call
		o.takes += int64(len(n.call.Input)) + perCall
	case n.call != nil: // comes again, or is nobody's
		n.call.Input = nil
	case n.answers():
		o.drop(n.ref)
	case n.interrupts():
		for id := range o.byID {
			o.drop(id)
		}
	}
}

func (o *openCalls) drop(id string) {
	if c := o.byID[id]; c != nil {
		o.takes -= int64(len(c.Input)) + perCall
		c.Input = nil
		delete(o.byID, id)
	}
}

// page reads one page; where it is too long it asks for fewer events from then
// on.
func (r *reader) page(ctx context.Context, q *client.EventQuery) (*api.EventPage, error) {
	for {
		try, cancel := context.WithTimeout(ctx, historyTime)
		p, err := r.client.Events(try, r.session, *q)
		cancel()
		switch {
		case !errors.Is(err, client.ErrTooLong):
			return p, err
		case q.Limit == 1:
			return nil, fmt.Errorf("%w: one event of it: %w", errHistory, err)
		}
		q.Limit = max(1, q.Limit/10)
	}
}

func (r *reader) send(ctx context.Context, x reading) bool {
	select {
	case r.out <- x:
		return true
	case <-ctx.Done():
		return false
	}
}

// sleep says false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
