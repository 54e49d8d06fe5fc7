// Package turn is the session loop: history in, model turn, events out, wait
// or continue. It alone changes sessions: what clients send is accepted here,
// and what the agent answers is written here, each as one transition.
package turn

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/model"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

// Log writes a session's events inside the caller's transaction and shows
// unfinished ones to who asks; *events.Log is one.
type Log interface {
	// Append gives each event its id (unless it has one), place, frame number
	// and time, and stores it. It changes the session's counters; the caller
	// stores the session.
	Append(tx store.Tx, s *plane.Session, events ...api.Event) ([]plane.StoredEvent, error)
	// Queue stores an event that waits for its place.
	Queue(tx store.Tx, s *plane.Session, e api.Event) (plane.StoredEvent, error)
	// Process gives a queued event its place.
	Process(tx store.Tx, s *plane.Session, id string) (plane.StoredEvent, error)
	// Preview shows an event_start or event_delta to subscribers that asked.
	Preview(session string, e api.Event)
}

// Queue keeps a session's work item; *queue.Queue is one.
type Queue interface {
	// Offer makes sure that a live item exists when the session needs one.
	Offer(tx store.Tx, s *plane.Session) error
	// Progress says that a result was accepted.
	Progress(tx store.Tx, session string) error
	// EndSession ends the session's item.
	EndSession(tx store.Tx, session string) error
}

// Config is what a Runner needs. Zero durations and counts get the defaults
// named beside them.
type Config struct {
	Store  store.Store
	Log    Log
	Queue  Queue
	Models *model.Registry
	Logger *slog.Logger // slog.Default()

	// NoEnvironmentNote leaves out the note on the sandbox that is otherwise
	// added to the system prompt.
	NoEnvironmentNote bool

	Lease   time.Duration // of a turn: 15 s
	Renew   time.Duration // how often a running turn renews it: 5 s
	Sweep   time.Duration // safety net that looks for forgotten turns: 5 s
	Silence time.Duration // longest silence of a provider amid a request: 2 min

	Retries    int           // tries of one request before the turn gives up: 5
	RetryFirst time.Duration // pause before the second try: 1 s, doubling
	RetryMost  time.Duration // longest pause: 60 s
	Requests   int           // model requests at once: 1,000
}

// NewSession is a session to be made. Agent is the snapshot the session will
// keep; the caller has applied overrides and resolved versions.
type NewSession struct {
	EnvironmentID string
	Agent         api.SessionAgent
	Title         *string
	Metadata      api.Metadata
	InitialEvents []json.RawMessage
}

// Runner runs the turns of sessions and takes what clients send. Start it
// before use and Stop it after; its other methods are safe for concurrent use.
type Runner struct {
	cfg Config
}

// New makes a Runner that is not yet running.
func New(cfg Config) *Runner { return &Runner{cfg: cfg} }

// Start takes up wanted turns until Stop.
func (r *Runner) Start(ctx context.Context) error { return nil }

// Stop takes no more turns, lets running ones end until ctx is done, then cuts
// them off; another replica or the next start continues them. It returns when
// all goroutines are gone.
func (r *Runner) Stop(ctx context.Context) error { return nil }

// Create stores a session with its initial events and begins its first turn
// if it has any. Invalid names the field at fault.
func (r *Runner) Create(ctx context.Context, n NewSession) (plane.Session, error) {
	return plane.Session{}, plane.Errorf(plane.Internal, "not yet")
}

// Accept takes a client's events, all or none, and gives them back as stored,
// in order. A result that was already accepted gives the stored event.
func (r *Runner) Accept(ctx context.Context, session string, events []json.RawMessage) (api.EventList, error) {
	return nil, plane.Errorf(plane.Internal, "not yet")
}

// Update changes title, metadata and the agent's tools.
func (r *Runner) Update(ctx context.Context, session string, u api.UpdateSession) (plane.Session, error) {
	return plane.Session{}, plane.Errorf(plane.Internal, "not yet")
}

// Archive ends a session that is not running; its log stays readable.
func (r *Runner) Archive(ctx context.Context, session string) (plane.Session, error) {
	return plane.Session{}, plane.Errorf(plane.Internal, "not yet")
}

// Delete removes a session that is not running.
func (r *Runner) Delete(ctx context.Context, session string) error {
	return plane.Errorf(plane.Internal, "not yet")
}

// Terminate ends a session for good, whatever it is doing.
func (r *Runner) Terminate(ctx context.Context, session string) (plane.Session, error) {
	return plane.Session{}, plane.Errorf(plane.Internal, "not yet")
}

// GiveUp is for the queue: it ends a session's turn that no worker serves,
// with an error that the client sees. The caller stores s.
func (r *Runner) GiveUp(tx store.Tx, s *plane.Session, reason string) error {
	return plane.Errorf(plane.Internal, "not yet")
}
