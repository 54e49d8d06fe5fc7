package worker

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/toolset"
)

// Config says which queue a Worker serves and how. Zero fields take the
// defaults named here.
type Config struct {
	// BaseURL is the control plane's origin, with an optional path prefix.
	// "" is Anthropic's own.
	BaseURL string
	// HTTPClient carries the requests; nil is a client of the worker's own.
	// Its Timeout must be zero, streams live for long.
	HTTPClient *http.Client
	// EnvironmentID is the queue and EnvironmentKey its credential. HandleItem
	// does without the key where the item's secret holds a sessions token.
	EnvironmentID  string
	EnvironmentKey string
	// WorkerID names this worker to the control plane; "" is the host's name
	// and a random part.
	WorkerID string

	// Sandboxes gives sessions their sandboxes. Required.
	Sandboxes Sandboxes
	// Journal remembers calls across a crash; nil remembers nothing, so that
	// a call which was running then runs again.
	Journal Journal
	// Tools makes a session's tools over its sandbox; nil is the agent
	// toolset (bash, read, write, edit, glob, grep).
	Tools func(toolset.Host) Tools

	// MaxSessions is how many sessions may have work to do at one time; 0 is 4.
	MaxSessions int
	// MaxParked is how many sessions whose turn is over may stay attached with
	// their sandboxes, beside MaxSessions; 0 is 64, less than 0 none.
	MaxParked int
	// MaxIdle is how long a session stays attached after its turn; 0 is 60 s,
	// less than 0 for ever.
	MaxIdle time.Duration
	// CallLimit bounds one tool call whatever the tool says; 0 is 125 s. A
	// call that names a timeout_ms of its own has that and 5 s.
	CallLimit time.Duration
	// DrainLimit is how long running calls may go on after the stop of
	// taking work, beside CallLimit; 0 is 30 s.
	DrainLimit time.Duration

	// Pace is how eagerly an empty queue is polled; "" is PaceAuto.
	Pace Pace
	// Block is how long a poll may be held, 1 to 999 ms; 0 is 999 ms.
	Block time.Duration
	// Reclaim is how old an unacknowledged delivery must be to be given to
	// this worker; 0 is 5 s.
	Reclaim time.Duration
	// Drain ends Run at the first empty poll, once every session is let go.
	Drain bool

	// Logger gets what an operator wants to know; nil discards it. Secrets
	// never reach it.
	Logger *slog.Logger
	// Counters is told what happens; nil discards it.
	Counters Counters
}

// Item is a claimed work item.
type Item struct {
	// Work is the item as polled; its Secret, where there is one, holds the
	// sessions token. Its EnvironmentID is the one to use.
	Work api.Work
	// Acked says that the item was acknowledged already.
	Acked bool
	// LastHeartbeat continues a lease another process began; "" begins one.
	LastHeartbeat string
}

// Tools are what a session's calls may ask for. Run is called once at a time.
type Tools interface {
	// Owns says whether calls of that name are answered here. custom tells
	// an agent.custom_tool_use from an agent.tool_use.
	Owns(name string, custom bool) bool
	// Run runs a call and always answers. ctx ends when the call is
	// interrupted.
	Run(ctx context.Context, c Call) (content []api.Block, isError bool)
}

// Call is one tool call of a session.
type Call struct {
	ID     string
	Name   string
	Custom bool
	Input  []byte // a JSON object
}

// Counters is told what happens, as it happens. Safe for concurrent use;
// methods return at once.
type Counters interface {
	// Polled counts a poll: "item", "empty" or "error".
	Polled(outcome string)
	// Claimed counts an item whose ack was accepted.
	Claimed()
	// Ended counts an item let go, by the reason it ended for.
	Ended(reason End, held time.Duration)
	// Called counts a tool call: how it ended and how long it ran.
	Called(tool string, outcome CallOutcome, ran time.Duration)
	// Reconnected counts an event stream opened anew.
	Reconnected()
}
