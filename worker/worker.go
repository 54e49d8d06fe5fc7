// Package worker serves an environment's queue: it claims sessions, runs their
// tools in sandboxes and posts the results, on Berth's control plane and on
// Anthropic's alike.
package worker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
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

	// Sandboxes gives sessions their sandboxes. Required unless there are Tools,
	// which then have a Host without files whose shell fails.
	Sandboxes Sandboxes
	// Journal remembers calls across a crash; nil remembers nothing, so that
	// a call which was running then runs again.
	Journal Journal
	// Ledger remembers the items this worker holds; Run goes on with what a
	// former worker held while its leases last. nil remembers nothing.
	Ledger Ledger
	// Tools makes a session's tools over its sandbox; nil is the agent
	// toolset (bash, read, write, edit, glob, grep).
	Tools func(toolset.Host) Tools

	// Takeover is what becomes of calls that an earlier holder of a session may
	// have begun, where the control plane does not say; "" is TakeoverRun.
	Takeover Takeover

	// Preparer brings what comes with a session; nil brings nothing.
	Preparer Preparer

	// MaxSessions is how many sessions may have work to do at one time; 0 is 8.
	MaxSessions int
	// MaxParked is how many sessions whose turn is over may stay attached with
	// their sandboxes, beside MaxSessions; 0 is 64, less than 0 none.
	MaxParked int
	// Room is how many sessions fit on this machine, at work and parked
	// together: no more are attached, and a parked one gives way to work that
	// waits. 0 is no bound of its own.
	Room int
	// MaxIdle is how long a session stays attached after its turn; 0 is 60 s,
	// less than 0 for ever.
	MaxIdle time.Duration
	// DrainLimit is how long running calls may go on after the stop of
	// taking work; 0 is 155 s, a bash command's own limit and 30 s.
	DrainLimit time.Duration

	// Pace is how eagerly an empty queue is polled; "" is PaceAuto.
	Pace Pace
	// Block is how long a poll may be held, 1 to 999 ms; 0 is 999 ms, less
	// than 0 asks for an answer at once.
	Block time.Duration
	// Reclaim is how old an unacknowledged delivery must be to be given to
	// this worker; 0 is 5 s, or 2 s with Wake.
	Reclaim time.Duration
	// Drain ends Run at the first empty poll, once every session is let go.
	Drain bool
	// Wake, where it is set, is waited for after each empty poll, and Block is
	// not used: the queue is emptied at the start and whenever Wake says so.
	Wake <-chan struct{}
	// Sweep is how long, at most, the queue is not looked at with Wake when
	// nobody says so; 0 is 60 s, less than 0 for ever.
	Sweep time.Duration

	// Logger gets what an operator wants to know; nil discards it. Secrets
	// never reach it.
	Logger *slog.Logger
	// Counters is told what happens; nil discards it.
	Counters Counters
	// Tracer is told of spans; nil discards them.
	Tracer Tracer
	// At is called with the name of each point at which a crash would matter
	// (the Point constants), where tests end the process; nil is not called.
	At func(point string)
}

// Points of an item and of a call, in their order.
const (
	PointClaimed   = "worker.claimed"   // polled, not acked
	PointAcked     = "worker.acked"     // acked, no beat sent
	PointOpening   = "worker.opening"   // the session's sandbox is about to be asked for
	PointJournaled = "worker.journaled" // the journal has the call, which does not run yet
	PointRunning   = "worker.running"   // the call is about to be handed to its tool
	PointFinished  = "worker.finished"  // the journal has its result, which is not posted yet
	PointPosted    = "worker.posted"    // its result was accepted; the journal does not know yet
	PointReleased  = "worker.released"  // the ledger was told to forget the item, which is not stopped yet
)

// Item is a claimed work item.
type Item struct {
	// Work is the item as polled; its Secret, where there is one, holds the
	// sessions token. Its EnvironmentID is the one to use.
	Work api.Work
	// Acked says that the item was acknowledged already.
	Acked bool
	// LastHeartbeat continues a lease another process began; "" begins one.
	LastHeartbeat string
	// LeaseKept says that somebody else beats for the item and stops it.
	LeaseKept bool
	// Traceparent is the trace that the item is part of at the control plane, as
	// the answer to its poll said (W3C trace context); "" for none.
	Traceparent string
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

// Rememberer is Tools some of whose calls are commands of the sandbox's shell
// under the call's id: a Lasting sandbox answers them for a worker that comes
// later.
type Rememberer interface{ Remembers(c Call) bool }

func remembers(t Tools, c Call) bool {
	r, ok := t.(Rememberer)
	return ok && r.Remembers(c)
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
	// Warned counts a warning that a session is told with its results.
	Warned()
}

// Defaults of Config.
const (
	DefaultBaseURL     = "https://api.anthropic.com"
	DefaultMaxSessions = 8
	DefaultMaxParked   = 64
	DefaultMaxIdle     = 60 * time.Second
	DefaultDrainLimit  = 155 * time.Second
	DefaultBlock       = 999 * time.Millisecond
	DefaultReclaim     = 5 * time.Second
	DefaultSweep       = 60 * time.Second
)

// Worker serves one environment's queue. Safe for concurrent use.
type Worker struct {
	cfg    Config
	log    *slog.Logger
	client *client.Client // the environment's key, tried once
	slots  *slots
	rooms  keyed // one item of a session at a time
	gate   *gate
	bad    streak // of items that came to nothing

	mu       sync.Mutex
	attached map[*status]bool
}

// New checks the configuration and makes a worker.
func New(cfg Config) (*Worker, error) {
	switch {
	case cfg.Sandboxes == nil && cfg.Tools == nil:
		return nil, errors.New("worker: Config.Sandboxes is required for the agent toolset")
	case cfg.EnvironmentID == "":
		return nil, errors.New("worker: Config.EnvironmentID is required")
	case cfg.HTTPClient != nil && cfg.HTTPClient.Timeout != 0:
		return nil, errors.New("worker: Config.HTTPClient has a Timeout; it would cut event streams")
	case cfg.Block > DefaultBlock:
		return nil, fmt.Errorf("worker: Config.Block is %v; it must be at most 999 ms", cfg.Block)
	case cfg.MaxSessions < 0:
		return nil, fmt.Errorf("worker: Config.MaxSessions is %d", cfg.MaxSessions)
	case cfg.Room < 0:
		return nil, fmt.Errorf("worker: Config.Room is %d", cfg.Room)
	}
	switch cfg.Pace {
	case "":
		cfg.Pace = PaceAuto
	case PaceAuto, PaceOfficial, PaceEager:
	default:
		return nil, fmt.Errorf("worker: Config.Pace is %q; it is auto, official or eager", cfg.Pace)
	}
	switch cfg.Takeover {
	case "":
		cfg.Takeover = TakeoverRun
	case TakeoverRun, TakeoverInterrupt:
	default:
		return nil, fmt.Errorf("worker: Config.Takeover is %q; it is run or interrupt", cfg.Takeover)
	}
	if cfg.Sandboxes == nil {
		cfg.Sandboxes = nowhere{}
	}
	if cfg.BaseURL == "" {
		cfg.BaseURL = DefaultBaseURL
	}
	if cfg.WorkerID == "" {
		cfg.WorkerID = newWorkerID()
	}
	cfg.MaxSessions = orDefault(cfg.MaxSessions, DefaultMaxSessions)
	cfg.MaxParked = max(0, orDefault(cfg.MaxParked, DefaultMaxParked))
	cfg.MaxIdle = orDefault(cfg.MaxIdle, DefaultMaxIdle)
	cfg.DrainLimit = orDefault(cfg.DrainLimit, DefaultDrainLimit)
	cfg.Block, cfg.Reclaim = pollTimes(cfg.Block, cfg.Reclaim, cfg.Wake != nil)
	if cfg.Journal == nil {
		cfg.Journal = noJournal{}
	}
	if cfg.Ledger == nil {
		cfg.Ledger = noLedger{}
	}
	if cfg.Counters == nil {
		cfg.Counters = noCounters{}
	}
	if cfg.Tracer == nil {
		cfg.Tracer = noTracer{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.At == nil {
		cfg.At = func(string) {}
	}
	return &Worker{
		cfg:      cfg,
		log:      cfg.Logger,
		client:   client.New(cfg.BaseURL, client.Bearer(cfg.EnvironmentKey), cfg.HTTPClient).WithRetries(0),
		slots:    newSlots(cfg.MaxSessions, cfg.MaxParked, cfg.Room),
		gate:     newGate(),
		attached: map[*status]bool{},
	}, nil
}

// Run claims sessions and serves them until the queue refuses this worker
// (the error says why), take or work ends, or with Config.Drain the queue is
// empty. When take ends nothing more is claimed, running calls finish and
// their results are posted, and every session is let go; when work ends, all
// is cancelled. Run returns when nothing of it goes on any more.
func (w *Worker) Run(take, work context.Context) error {
	take, stopTaking := context.WithCancelCause(take)
	defer stopTaking(nil)
	defer context.AfterFunc(work, func() { stopTaking(stopCause(EndCancelled)) })()
	var items sync.WaitGroup
	defer w.hangUp()
	defer items.Wait()

	if err := w.resume(take, work, &items); err != nil {
		return err
	}
	poller := w.poller(w.client)
	w.log.Info("polling for work", "environment", w.cfg.EnvironmentID, "worker", w.cfg.WorkerID, "sessions", w.cfg.MaxSessions)
	for {
		if !w.vacancy(take) || !w.bad.over(take) {
			return nil
		}
		asking, done := w.gate.ask(take)
		polled, err := poller.poll(asking)
		left := asking.Err() != nil
		done()
		switch {
		case take.Err() != nil:
			return nil
		case left:
			continue // and waits there; what was just given is given to the next
		case errors.Is(err, io.EOF):
			w.slots.drain()
			return nil
		case err != nil:
			stopTaking(stopCause(EndDrained))
			return err
		}
		parent := poller.parent
		slot := w.slots.take(false)
		if !w.enter(take) {
			w.slots.give(slot)
			w.log.Info("no session has made room for an item; leaving it to the queue", "work", polled.ID)
			continue
		}
		items.Go(func() {
			defer w.slots.exit()
			// What goes wrong with an item has been logged and is not the queue's end.
			_, _ = w.serve(take, work, HeldItem{Item: Item{Work: *polled, Traceparent: parent}}, slot, w.slots)
		})
	}
}

// vacancy waits until a slot is free and there is room, or a parked session
// to make some; false when ctx ended first.
func (w *Worker) vacancy(ctx context.Context) bool {
	for {
		free, changed := w.slots.vacancy()
		if free {
			return ctx.Err() == nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// enter waits for room as long as the queue waits for the ack of an item.
func (w *Worker) enter(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Reclaim)
	defer cancel()
	return w.slots.enter(ctx)
}

// HandleItem serves one item that is claimed already, or yet to be acked, and
// returns when it has been let go. take and work are those of Run. The error
// is set when the item could not be served.
func (w *Worker) HandleItem(take, work context.Context, item Item) (End, error) {
	defer w.hangUp()
	return w.serve(take, work, HeldItem{Item: item}, nil, nil)
}

// hangUp closes connections that are not in use, if they are the worker's own.
func (w *Worker) hangUp() {
	if w.cfg.HTTPClient == nil {
		w.client.CloseIdleConnections()
	}
}

// poller is the worker's own, which hands items over before they are acked.
func (w *Worker) poller(c *client.Client) *Poller {
	return &Poller{cfg: PollerConfig{
		Client: c, EnvironmentID: w.cfg.EnvironmentID, WorkerID: w.cfg.WorkerID, Pace: w.cfg.Pace, Block: w.cfg.Block,
		Reclaim: w.cfg.Reclaim, Drain: w.cfg.Drain, Wake: w.cfg.Wake, Sweep: w.cfg.Sweep, Logger: w.log, Counters: w.cfg.Counters,
	}, pacer: newPacer(w.cfg.Pace, w.cfg.BaseURL, w.cfg.Block), log: w.log, counters: w.cfg.Counters}
}

// newWorkerID is the host's name and a random part.
func newWorkerID() string {
	suffix := strings.ToLower(rand.Text()[:12])
	if host, err := os.Hostname(); err == nil && host != "" {
		return host + "-" + suffix
	}
	return "berth-" + suffix
}

func orDefault[T ~int | ~int64](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

type noCounters struct{}

func (noCounters) Polled(string)                             {}
func (noCounters) Claimed()                                  {}
func (noCounters) Ended(End, time.Duration)                  {}
func (noCounters) Called(string, CallOutcome, time.Duration) {}
func (noCounters) Reconnected()                              {}
func (noCounters) Warned()                                   {}
