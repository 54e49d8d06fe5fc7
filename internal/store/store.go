// Package store is the contract of the control plane's storage and the way to
// open one. Two engines fulfil it, sqlite and postgres, and storetest holds
// both to the same behaviour.
//
// Acknowledged means durable: Update returns after the transaction is on
// disk, and a Note is heard only after that. A reader never sees part of a
// transaction.
package store

import (
	"context"
	"log/slog"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
)

// Store keeps everything the control plane must not forget. Safe for
// concurrent use. Not-found is a *plane.Error of kind NotFound.
type Store interface {
	// Update runs fn in a write transaction and returns when it is durable.
	// Transitions that wait at the same time share one commit. fn may run
	// more than once and must change nothing but tx and variables it sets
	// afresh each time; it must not block on anything else. An error from fn
	// undoes what fn wrote and is returned as it is; a panic in fn becomes an
	// error. The failure of a write may come from the write or, at the latest,
	// from Update. When ctx is done before fn began, fn does not run.
	Update(ctx context.Context, fn func(Tx) error) error
	// View runs fn on one snapshot.
	View(ctx context.Context, fn func(Reader) error) error
	// These give one record as last committed, and cost less than a View; two
	// of them may be of different moments.
	Key(ctx context.Context, publicID string) (plane.Key, error)
	Environment(ctx context.Context, id string) (plane.Environment, error)
	Session(ctx context.Context, id string) (plane.Session, error)
	WorkByToken(ctx context.Context, publicID string) (plane.WorkItem, error)
	// Listen calls hear, from one goroutine in commit order, for every Note
	// committed from now on, by this process or (postgres) another, until
	// cancel is called: when cancel has returned, hear is not called any more.
	// hear must not block and must not call cancel.
	Listen(hear func(Note)) (cancel func())
	// Shared says that other processes may write the same data.
	Shared() bool
	Close() error
}

// Note says that something was committed. Ids only cross processes; Local
// notes also carry the frames.
type Note struct {
	Session     string // its log grew up to Emit
	Emit        int64
	Frames      []plane.StoredEvent // of this commit, in emit order; local notes only
	Turn        bool                // and the session's turn is wanted
	Environment string              // its queue has something to offer
	Deleted     bool                // Session is gone
	Taken       bool                // Session was taken from its worker: streams look whether they may go on
	Local       bool
	// Lost says that notes may have been missed, of other processes or of a
	// commit whose outcome is unknown: whoever hears it looks at everything
	// again. All else is zero then.
	Lost bool
}

// Options tune Open. The zero value is right for the program itself.
type Options struct {
	// NoMigrate leaves the schema alone; an older or newer one than this
	// program's is then an error that says what to do.
	NoMigrate bool
	// Readers bounds the connections that serve View, 4 when zero.
	Readers int
	// Writers is how many connections commit (postgres only), 4 when zero.
	Writers int
	// Log hears about reconnects and retries; nil discards.
	Log *slog.Logger
}

// SchemaStatus says which migrations a database has.
type SchemaStatus struct {
	Current int64 // last migration applied, 0 for an empty database
	Latest  int64 // last migration this program knows
	Pending []string
}

// Reader reads one snapshot.
type Reader interface {
	Key(publicID string) (plane.Key, error)
	// Keys lists keys of an environment, or API keys when environment is "".
	Keys(environment string) ([]plane.Key, error)

	Environment(id string) (plane.Environment, error)
	EnvironmentNamed(name string) (plane.Environment, error)
	Environments(includeArchived bool, w Window) ([]plane.Environment, error)

	// Agent gives a version, the latest when version is 0.
	Agent(id string, version int) (plane.AgentVersion, error)
	Agents(f AgentFilter, w Window) ([]plane.AgentVersion, error)
	// AgentVersions lists an agent's versions, newest first; w.After is a
	// decimal version.
	AgentVersions(id string, w Window) ([]plane.AgentVersion, error)

	Session(id string) (plane.Session, error)
	Sessions(f SessionFilter, w Window) ([]plane.Session, error)
	// SessionsWanted lists sessions whose turn is wanted and whose turn lease
	// has run out at now.
	SessionsWanted(now time.Time, limit int) ([]string, error)
	// LiveSessions counts sessions of an environment that are neither
	// archived nor terminated.
	LiveSessions(environment string) (int, error)

	Event(session, id string) (plane.StoredEvent, error)
	// Events lists by place in the log; queued events come last, by id.
	Events(session string, q EventQuery) ([]plane.StoredEvent, error)
	// Frames lists rows whose emit is greater than after, in emit order. A row
	// that gets its place gets the session's next pos and emit at once.
	Frames(session string, after int64, limit int) ([]plane.StoredEvent, error)

	// Call finds a call by its event id.
	Call(session, id string) (plane.Call, error)
	// OpenCalls lists calls that somebody must still act on, in log order.
	OpenCalls(session string) ([]plane.Call, error)
	// Calls lists every call of a session, in log order.
	Calls(session string) ([]plane.Call, error)
	// Replays lists the model's answers with Pos greater than after.
	Replays(session string, after int64) ([]plane.Replay, error)
	Send(session, key string) (plane.Send, error)

	Work(id string) (plane.WorkItem, error)
	WorkByToken(publicID string) (plane.WorkItem, error)
	// LiveWork is the session's item that is not stopped; NotFound if none.
	LiveWork(session string) (plane.WorkItem, error)
	// LastWork is the session's live item, or its newest; NotFound if none.
	LastWork(session string) (plane.WorkItem, error)
	// WorkItems lists an environment's items, newest first.
	WorkItems(environment string, w Window) ([]plane.WorkItem, error)
	// NextOffer is when the environment will next have an item that is held
	// back now (NotBefore, PreferUntil); zero for never.
	NextOffer(environment string, now time.Time) (time.Time, error)
	// WorkDue lists items whose DueAt has come, oldest first.
	WorkDue(now time.Time, limit int) ([]plane.WorkItem, error)
	// NextDue is the earliest DueAt; zero for none.
	NextDue() (time.Time, error)
	WorkStats(environment string, now time.Time) (WorkStats, error)

	// Setting reads a small named value of the installation, "" if unset.
	Setting(name string) (string, error)
}

// Tx reads and writes. Reads see the transaction's own writes. Lock methods
// hold the row until commit.
type Tx interface {
	Reader

	InsertKey(plane.Key) error
	UpdateKey(plane.Key) error // a revocation is never taken back

	InsertEnvironment(plane.Environment) error // Conflict when the name is taken
	LockEnvironment(id string) (plane.Environment, error)
	UpdateEnvironment(plane.Environment) error
	// DeleteEnvironment removes it with its keys, items and ended sessions;
	// Conflict while a session of it lives.
	DeleteEnvironment(id string) error

	// InsertAgentVersion adds an agent's next version, or its first.
	InsertAgentVersion(plane.AgentVersion) error
	// LockAgent gives the latest version: there is no newer one until commit.
	LockAgent(id string) (plane.AgentVersion, error)
	// UpdateAgent rewrites the latest version in place (archive).
	UpdateAgent(plane.AgentVersion) error

	InsertSession(plane.Session) error
	LockSession(id string) (plane.Session, error)
	UpdateSession(plane.Session) error
	// DeleteSession removes it with its events, calls, replays and sends. Its items
	// stay until they are pruned, so that a holder can let go.
	DeleteSession(id string) error

	InsertEvents(...plane.StoredEvent) error
	UpdateEvent(plane.StoredEvent) error // pos, emit, processed_at and body
	InsertCalls(...plane.Call) error
	UpdateCall(plane.Call) error
	InsertReplay(plane.Replay) error
	InsertSend(plane.Send) error // Conflict when the session has one of this key
	// PruneSends forgets a session's sends before a time.
	PruneSends(session string, before time.Time) error

	// InsertWork adds an item. A session has one live item at most: stop the
	// old one first (Conflict otherwise, at the latest from Update).
	InsertWork(plane.WorkItem) error
	LockWork(id string) (plane.WorkItem, error)
	// LockWorkCalls is LockWork with the open calls of the item's session, as
	// they are once it is locked.
	LockWorkCalls(id string) (plane.WorkItem, []plane.Call, error)
	UpdateWork(plane.WorkItem) error
	// ClaimWork locks and gives the item to offer next, oldest first and
	// those with input before those without; NotFound when there is none.
	// Items locked by another transaction are passed over.
	ClaimWork(c Claim) (plane.WorkItem, error)
	// SawWorker remembers that a worker polled, for workers_polling.
	SawWorker(environment, worker string, at time.Time) error
	// PruneWork deletes items that stopped before a time, and workers that
	// polled last before another.
	PruneWork(stoppedBefore, seenBefore time.Time) error

	SetSetting(name, value string) error

	// Notify makes a Note heard when the transaction has committed.
	Notify(Note)
}

// Window is a page of a list ordered by id (ids sort by age). After is the
// last id of the page before. Backward lists towards the list's start,
// nearest first; the caller turns the rows round.
type Window struct {
	After    string
	Limit    int
	Asc      bool // oldest first; newest first otherwise
	Backward bool
}

// AgentFilter narrows the agent list. Zero fields do not narrow.
type AgentFilter struct {
	IncludeArchived        bool
	CreatedGTE, CreatedLTE time.Time
}

// SessionFilter narrows the session list. Zero fields do not narrow.
type SessionFilter struct {
	AgentID         string
	AgentVersion    int
	EnvironmentID   string
	Statuses        []api.SessionStatus
	IncludeArchived bool
	Created         TimeRange
}

// TimeRange bounds a time; zero bounds do not.
type TimeRange struct {
	GT, GTE, LT, LTE time.Time
}

// EventQuery selects part of a log. AfterPos and AfterQueued are the cursor:
// the last row's pos, or the last row's id when it was a queued one. Both
// together, for an ascending read that has come to the queued ones, also give
// what has got a place beyond AfterPos since. Queued leaves all out that have
// a place.
type EventQuery struct {
	AfterPos    int64
	AfterQueued string
	Queued      bool
	Limit       int
	Desc        bool
	Types       []string
	Processed   TimeRange
}

// Claim says who asks for work.
type Claim struct {
	Environment string
	Worker      string
	Now         time.Time
	// ReclaimBefore offers delivered, unacked items again when they were
	// delivered before it.
	ReclaimBefore time.Time
}

// WorkStats are a queue's counts.
type WorkStats struct {
	Depth, Delivered, Pending int
	OldestQueuedAt            *time.Time
	WorkersPolling            int // seen in the last 30 s
}
