package worker

import (
	"context"
	"time"
)

// Journal remembers calls across a crash of the worker. What Started and
// Finished take is durable when they return. Safe for concurrent use.
type Journal interface {
	// Started notes that a call is about to run, and in which Lasting
	// sandbox, "" for none. It answers with what is known of the call
	// already: a call that is not new must not be run, but in the same
	// sandbox.
	Started(ctx context.Context, c CallKey, birth string) (Known, error)
	// Finished keeps the call's result until it has been posted.
	Finished(ctx context.Context, c CallKey, result []byte) error
	// Posted forgets a result that the control plane has accepted or refused
	// for good. It may come undone by a crash: the result is then posted again.
	Posted(ctx context.Context, c CallKey) error
}

// Ledger remembers the items that a worker holds, for the worker that comes
// after it on this host. What Hold takes is durable when it returns. Safe for
// concurrent use.
type Ledger interface {
	// Hold notes an item: when it was acked, and each accepted beat but the
	// first.
	Hold(ctx context.Context, h HeldItem) error
	// Release forgets an item. It may come undone by a crash: the item's lease
	// then tells that it is over.
	Release(ctx context.Context, work string) error
	// Items gives the items noted, by this worker or a former one.
	Items(ctx context.Context) ([]HeldItem, error)
}

// HeldItem is an item with its lease.
type HeldItem struct {
	Item
	BeatAt time.Time     // when the ack or the last accepted beat was sent; zero for an item of no former worker
	TTL    time.Duration // of the lease from then on; 0 when it is not known
}

// CallKey names a call.
type CallKey struct {
	Session string
	Call    string
}

// Known is what a journal knows of a call.
type Known struct {
	State  CallState
	Result []byte    // of a Finished or Posted call
	Birth  string    // of a Started call: as it was noted
	At     time.Time // of the last change
}

// CallState is how far a call has come.
type CallState string

const (
	CallNew      CallState = "new" // nothing was known; it is Started now
	CallStarted  CallState = "started"
	CallFinished CallState = "finished"
	CallPosted   CallState = "posted"
)

type noLedger struct{}

func (noLedger) Hold(context.Context, HeldItem) error      { return nil }
func (noLedger) Release(context.Context, string) error     { return nil }
func (noLedger) Items(context.Context) ([]HeldItem, error) { return nil, nil }

type noJournal struct{}

func (noJournal) Started(context.Context, CallKey, string) (Known, error) {
	return Known{State: CallNew}, nil
}
func (noJournal) Finished(context.Context, CallKey, []byte) error { return nil }
func (noJournal) Posted(context.Context, CallKey) error           { return nil }
