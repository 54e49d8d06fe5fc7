package plane

import (
	"time"

	"github.com/berthdev/berth/api"
)

// CallerKind is the kind of credential a request came with.
type CallerKind string

const (
	CallerAPI         CallerKind = "api"         // an API key: the workspace
	CallerEnvironment CallerKind = "environment" // an environment key: its queue and its sessions
	CallerSessions    CallerKind = "sessions"    // a sessions token: one delivery and its session
)

// Standing is what a sessions token may still do. Keys are always Live.
type Standing string

const (
	// Live may do everything its kind may.
	Live Standing = "live"
	// Grace is a token whose item ended as it should: for TokenGrace it may
	// write memory, upload outputs and stop, and nothing else.
	Grace Standing = "grace"
	// Dead may do nothing. Ack, beat and stop of its own item still get the
	// queue's answer (conflict, lease lost, no effect), so that a worker that
	// comes back learns what happened.
	Dead Standing = "dead"
)

// TokenGrace is how long a token outlives an item that ended normally.
const TokenGrace = 2 * time.Minute

// Identity is who makes a request.
type Identity struct {
	Kind          CallerKind
	KeyID         string // public id of the key or token
	EnvironmentID string // of an environment key or a sessions token
	SessionID     string // of a sessions token
	WorkID        string // of a sessions token
	Standing      Standing
}

// Live says that nothing but its scope bounds the identity.
func (i Identity) Live() bool { return i.Standing == Live }

// MayFinish says that the identity may write memory, upload outputs and stop
// its item: live, or within the grace.
func (i Identity) MayFinish() bool { return i.Standing == Live || i.Standing == Grace }

// Lapsed says that the holder's lease has run out at now.
func (w WorkItem) Lapsed(now time.Time) bool {
	switch w.State {
	case api.WorkStarting, api.WorkActive, api.WorkStopping:
		return !w.LeaseUntil.IsZero() && !now.Before(w.LeaseUntil)
	}
	return false
}

// TokenStanding is what the item's sessions token may do at now. A lapsed
// lease is lost from that moment on, whether or not anybody has noticed.
func (w WorkItem) TokenStanding(now time.Time) Standing {
	switch {
	case w.SupersededBy != "", w.Lapsed(now), w.EndedBy == EndedLapse, w.EndedBy == EndedReclaim:
		return Dead
	case w.State == api.WorkStopped:
		if w.StoppedAt != nil && now.Before(w.StoppedAt.Add(TokenGrace)) {
			return Grace
		}
		return Dead
	case w.EndedBy == EndedSession:
		return Grace
	}
	return Live
}
