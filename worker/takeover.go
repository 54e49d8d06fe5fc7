package worker

import (
	"time"

	"github.com/berthdev/berth/api"
)

// Takeover is what becomes of a call that an earlier holder of the session may
// have begun, where neither this worker's journal nor the control plane knows.
type Takeover string

const (
	// TakeoverRun runs it: each call runs at least once.
	TakeoverRun Takeover = "run"
	// TakeoverInterrupt answers it as interrupted: no call runs twice, and one
	// that nobody had begun may not run.
	TakeoverInterrupt Takeover = "interrupt"
)

// lapseMin is how long an item must have waited before a lease of it can have
// lapsed unseen.
const lapseMin = 30 * time.Second

// suspect says which of the calls that are open when the item is taken up an
// earlier holder may have begun, by the time from which they could run; nil for
// none. acked is the ack's answer, nil for none.
func (h *held) suspect(acked *api.Work, secret api.WorkSecret) func(since time.Time) bool {
	switch {
	case h.worker.cfg.Takeover != TakeoverInterrupt:
		return nil
	case secret.PossiblyStarted != nil: // the control plane knows
		return nil
	case !h.item.BeatAt.IsZero(): // the lease has never been anybody else's
		return nil
	}
	until := h.handedOver(acked)
	return func(since time.Time) bool { return until.IsZero() || !since.After(until) }
}

// handedOver is the time up to which somebody else may have had the session, in
// the control plane's clock; zero when that cannot be told.
func (h *held) handedOver(acked *api.Work) time.Time {
	if acked == nil || acked.AcknowledgedAt == nil {
		return time.Time{}
	}
	at, w := *acked.AcknowledgedAt, h.item.Work
	heldBefore := w.AcknowledgedAt != nil || w.StartedAt != nil || w.LatestHeartbeatAt != nil
	if !heldBefore && !w.CreatedAt.IsZero() && at.Sub(w.CreatedAt) < lapseMin {
		return w.CreatedAt // nobody can have had this item; who had the one before it saw older calls only
	}
	return at
}
