package plane

import (
	"encoding/json"
	"time"

	"github.com/berthdev/berth/api"
)

// KeyKind is what a key opens.
type KeyKind string

const (
	KeyAPI         KeyKind = "api" // everything in the workspace
	KeyEnvironment KeyKind = "env" // one environment's queue and sessions
)

// Key is a stored credential: its public id finds it, Hash is the SHA-256 of
// the whole key, which is shown once and never kept.
type Key struct {
	ID            string // the 8 public characters
	Kind          KeyKind
	EnvironmentID string // of an environment key
	Name          string
	Hash          [32]byte
	CreatedAt     time.Time
	LastUsedAt    *time.Time
	RevokedAt     *time.Time
}

// Wire is the key as operators see it, without its secret.
func (k Key) Wire() api.Key {
	w := api.Key{ID: k.ID, Type: "api", Name: k.Name, CreatedAt: k.CreatedAt, LastUsedAt: k.LastUsedAt, RevokedAt: k.RevokedAt}
	if k.Kind == KeyEnvironment {
		w.Type, w.EnvironmentID = "environment", &k.EnvironmentID
	}
	return w
}

// TurnState is what the session's loop owes.
type TurnState string

const (
	TurnRest   TurnState = "rest"   // nothing until a client sends something
	TurnWanted TurnState = "wanted" // a model request, by whoever holds the turn lease
	TurnCalls  TurnState = "calls"  // waiting for answers to open calls
)

// Session is a session's row: the wire's fields and what the loop keeps.
// Counters, Turn and lease change under the row's lock only.
type Session struct {
	api.Session

	ThreadID string // the primary thread

	Pos             int64     // last place given in the log
	Emit            int64     // last frame number given
	LastProcessedAt time.Time // processed_at never falls below it

	Turn        TurnState
	TurnOwner   string    // replica that holds the turn
	TurnFence   int64     // grows with every holder; goes with every write of the turn
	TurnUntil   time.Time // end of the turn lease
	TurnSince   *time.Time
	StopReason  string     // type of the last idle's stop reason
	HasInput    bool       // ever had a client event that wants an answer
	LastInputAt *time.Time // for the stall budget and for letting idle items go
}

// StoredEvent is an event's row. Body is the event as it is on the wire now.
type StoredEvent struct {
	SessionID   string
	ID          string
	Type        string
	Pos         int64 // 0 while queued
	Emit        int64 // of its latest frame
	ProcessedAt *time.Time
	Body        json.RawMessage
}

// CallKind says who may answer a call.
type CallKind string

const (
	CallTool   CallKind = "tool"   // agent.tool_use ← user.tool_result
	CallCustom CallKind = "custom" // agent.custom_tool_use ← user.custom_tool_result
)

// CallState is where a tool call stands.
type CallState string

const (
	CallAsked    CallState = "asked"    // waits for a user.tool_confirmation
	CallOpen     CallState = "open"     // waits for its result
	CallAnswered CallState = "answered" // has its one result
	CallDenied   CallState = "denied"   // refused by policy or by a client
	CallVoid     CallState = "void"     // cut off by an interrupt
)

// Call is a tool use and what became of it. Its id is the event's id.
type Call struct {
	SessionID    string
	ID           string
	Kind         CallKind
	Name         string
	State        CallState
	Pos          int64    // of the tool-use event
	RequestID    string   // span.model_request_start it came from
	AnswerID     string   // event that answered it
	AnswerDigest [32]byte // of the accepted result's content, to recognise a repeat
}

// Open says that somebody must still act on the call.
func (c Call) Open() bool { return c.State == CallAsked || c.State == CallOpen }

// Replay is a model's answer in the provider's own form, kept to be sent back
// unchanged (thinking blocks and their signatures included). CallIDs are the
// event ids of its tool uses, in order.
type Replay struct {
	SessionID string
	RequestID string // span.model_request_start
	Pos       int64  // of the first event the answer became
	Provider  string
	Content   json.RawMessage
	CallIDs   []string
}

// Send is what a client's send of events became that had an idempotency key.
type Send struct {
	SessionID string
	Key       string
	Digest    [32]byte // of the events as they were sent, to tell a repeat from another send
	EventIDs  []string
	At        time.Time
}

// WorkItem is a work item's row: one delivery, one token, one fence.
type WorkItem struct {
	ID            string
	EnvironmentID string
	SessionID     string
	State         api.WorkState
	Metadata      api.Metadata
	HasInput      bool // its session has input: offered before those that have none

	TokenID   string   // public id of its sessions token
	TokenHash [32]byte // SHA-256 of the token, zero before delivery

	CreatedAt       time.Time // kept when the item is offered again under a new id
	NotBefore       time.Time // not offered before
	PreferWorker    string    // affinity: offered to this worker alone ...
	PreferUntil     time.Time // ... until then
	DeliveredAt     *time.Time
	DeliveredTo     string // worker id
	AckedAt         *time.Time
	AckedByKey      string // public id of the key or token that acked
	StartedAt       *time.Time
	HeartbeatAt     *time.Time
	LastHeartbeat   string // the string the holder must send next, "" before the first beat
	PrevExpected    string // what the last accepted beat expected, for a repeat of it
	BeatByToken     bool   // the lease was claimed by the item's own token
	TTLSeconds      int
	LeaseUntil      time.Time // zero while nobody holds it
	DueAt           time.Time // when the sweep must look at it next; zero for never
	StopRequestedAt *time.Time
	StoppedAt       *time.Time
	EndedBy         EndedBy
	SupersededBy    string // id of the item that took its place
	Streamed        bool   // its holder opened the session's stream: calls may have begun
	Tries           int    // deliveries in a row without progress
	PossiblyStarted []string
}

// EndedBy says why an item stopped.
type EndedBy string

const (
	EndedNot        EndedBy = ""
	EndedHolder     EndedBy = "holder"     // the worker let go
	EndedOperator   EndedBy = "operator"   // stopped with an API key: final until input
	EndedLapse      EndedBy = "lapse"      // no beat within the lease
	EndedReclaim    EndedBy = "reclaim"    // delivered, never acked
	EndedSession    EndedBy = "session"    // the session was archived, deleted or terminated
	EndedUnattended EndedBy = "unattended" // nothing for its holder to do: no input ever, or none in sight
	EndedStall      EndedBy = "stall"      // its holder was silent too long; the session was given up
)

// AgentVersion is one version of an agent; the latest is the agent.
type AgentVersion struct{ api.Agent }

// Environment is an environment's row.
type Environment struct{ api.Environment }
