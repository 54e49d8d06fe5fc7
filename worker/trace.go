package worker

import "context"

// Tracer is told what a worker does while it does it. Safe for concurrent use;
// nothing in it waits.
type Tracer interface {
	// Begin begins a span below the one that ctx holds, if it holds one. The
	// context it gives holds the new one; end is called once.
	Begin(ctx context.Context, s Span) (_ context.Context, end func(SpanEnd))
}

// Span is a piece of work. It holds nothing of what goes into a call or comes
// out of it.
type Span struct {
	Kind      SpanKind
	WorkID    string
	SessionID string
	Call      Call   // of SpanCall and SpanPost, without its input
	Link      string // of SpanItem: Item.Traceparent
}

// SpanKind is what a span is about.
type SpanKind string

// The spans. Those of one item are below its SpanItem.
const (
	SpanItem    SpanKind = "item"    // from an item's poll until it is let go
	SpanClaim   SpanKind = "claim"   // its ack
	SpanSandbox SpanKind = "sandbox" // its session's preparations and the start of its sandbox
	SpanCall    SpanKind = "call"    // a tool call, while it runs
	SpanPost    SpanKind = "post"    // the posting of a call's result
)

// SpanEnd is how a span ended.
type SpanEnd struct {
	// Outcome is an End, a CallOutcome, or "ok" and "error".
	Outcome string
	// Err is why it failed; nil when it did not. What a call's tool answers as
	// an error is ErrTool.
	Err error
}

type toolError struct{}

func (toolError) Error() string { return "the tool answered with an error" }

// ErrTool is the SpanEnd.Err of a call that ran and whose result is an error.
var ErrTool error = toolError{}

// ended is the end of what may have failed.
func ended(err error) SpanEnd {
	if err != nil {
		return SpanEnd{"error", err}
	}
	return SpanEnd{"ok", nil}
}

// named is a call without its input.
func named(c Call) Call {
	c.Input = nil
	return c
}

type noTracer struct{}

func (noTracer) Begin(ctx context.Context, _ Span) (context.Context, func(SpanEnd)) {
	return ctx, func(SpanEnd) {}
}
