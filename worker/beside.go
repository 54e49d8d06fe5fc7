package worker

import (
	"context"
	"errors"
	"time"
)

// manyMeanwhile is how many events a stream may bring while the history is
// read beside it.
const manyMeanwhile = 10_000

var errMeanwhile = errors.New("the stream brought too many events meanwhile")

// beside reads the history while a stream goes on. What the stream brings
// meanwhile is heard at once, and comes once more after the history that lacks
// it, so that no pass sets back what is known. One goroutine uses it.
type beside struct {
	reader    *reader
	done      chan listed // of a pass that is under way, else nil
	meanwhile []note
	pause     time.Duration // before the next try
}

// listed is what one try to read the history gave.
type listed struct {
	notes []note
	err   error
}

// asked is r.resync while no pass is under way.
func (b *beside) asked() <-chan struct{} {
	if b.done != nil {
		return nil
	}
	return b.reader.resync
}

// begin begins a try after the pause.
func (b *beside) begin(ctx context.Context) {
	done, pause := make(chan listed, 1), b.pause
	b.done, b.meanwhile = done, nil
	go func() {
		if !sleep(ctx, jitter(pause)) {
			done <- listed{nil, ctx.Err()}
			return
		}
		notes, err := b.reader.list(ctx)
		done <- listed{notes, err}
	}()
}

// heard notes what the stream has brought.
func (b *beside) heard(n note) {
	if b.done != nil && len(b.meanwhile) <= manyMeanwhile {
		n.call = nil // routed already, or left to the log
		b.meanwhile = append(b.meanwhile, n)
	}
}

// ended takes a try's end in. Without notes and err, it is tried again.
func (b *beside) ended(ctx context.Context, l listed) (notes []note, err error) {
	meanwhile := b.meanwhile
	b.done, b.meanwhile = nil, nil
	if l.err == nil && len(meanwhile) > manyMeanwhile {
		l.err = errMeanwhile
	}
	switch {
	case l.err == nil:
		b.pause = 0
		return completed(l.notes, meanwhile), nil
	case ctx.Err() != nil || final(l.err):
		return nil, l.err
	}
	b.pause = min(max(reconnectMin, b.pause*2), reconnectMax)
	b.reader.log.Warn("the session's history could not be read; trying again", "error", l.err, "pause", b.pause)
	b.begin(ctx)
	return nil, nil
}

// wait waits for the try that is under way; its context has ended.
func (b *beside) wait() {
	if b.done != nil {
		<-b.done
	}
}

// completed is a history with what it lacks of later events: those it does not
// have, and those it has as still queued.
func completed(notes, later []note) []note {
	if len(later) == 0 {
		return notes
	}
	processed := make(map[string]bool, len(notes))
	for _, n := range notes {
		processed[n.id] = processed[n.id] || !n.at.IsZero()
	}
	for _, n := range later {
		if was, known := processed[n.id]; n.id == "" || !known || !was && !n.at.IsZero() {
			notes = append(notes, n)
		}
	}
	return notes
}
