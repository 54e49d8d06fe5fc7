package turn

import (
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

// change is one transition of a session under way: events gather in order and
// are appended together. Make one per run of a closure; it must not outlive it.
type change struct {
	r      *Runner
	tx     store.Tx
	s      *plane.Session
	now    time.Time
	events []api.Event
	said   []said // appended so far
	dirty  bool
}

// said is an event as it was before it was encoded, in so many bytes. What it
// holds is shared and not changed.
type said struct {
	event api.Event
	bytes int
}

func (r *Runner) change(tx store.Tx, s *plane.Session) *change {
	return &change{r: r, tx: tx, s: s, now: time.Now().UTC().Truncate(time.Microsecond)}
}

func (c *change) add(events ...api.Event) {
	c.events = append(c.events, events...)
	c.dirty = true
}

// flush appends what has gathered and gives it as stored.
func (c *change) flush() ([]plane.StoredEvent, error) {
	if len(c.events) == 0 {
		return nil, nil
	}
	stored, err := c.r.cfg.Log.Append(c.tx, c.s, c.events...)
	for i, row := range stored {
		c.said = append(c.said, said{c.events[i], len(row.Body)})
	}
	c.events = nil
	return stored, err
}

// save flushes and stores the session.
func (c *change) save() error {
	if _, err := c.flush(); err != nil {
		return err
	}
	c.s.UpdatedAt = c.now
	c.s.Stats.DurationSeconds = c.now.Sub(c.s.CreatedAt).Seconds()
	return c.tx.UpdateSession(*c.s)
}

func at(kind string) api.EventHead { return api.EventHead{Type: kind} }

func (c *change) threadStatus(kind string) api.Event {
	return &api.SessionThreadStatus{EventHead: at(kind), SessionThreadID: c.s.ThreadID, AgentName: c.s.Agent.Name}
}

// run makes the session want a model request.
func (c *change) run() {
	c.s.Turn = plane.TurnWanted
	c.running()
}

// running says that the session runs, if it did not.
func (c *change) running() {
	if c.s.Status == api.SessionRunning {
		return
	}
	c.s.Status = api.SessionRunning
	if c.s.TurnSince == nil {
		c.s.TurnSince = &c.now
	}
	c.add(&api.SessionStatusRunning{EventHead: at(api.TypeSessionStatusRunning)},
		c.threadStatus(api.TypeSessionThreadStatusRunning))
}

// idle ends the run: the session rests, or waits for answers when the reason
// is requires_action.
func (c *change) idle(reason api.StopReason, details *api.StopDetails) {
	s := c.s
	s.Turn = plane.TurnRest
	if reason.Type == api.StopRequiresAction {
		s.Turn = plane.TurnCalls
	}
	if s.TurnSince != nil {
		active := max(0, c.now.Sub(*s.TurnSince).Seconds())
		s.Stats.ActiveSeconds += active
		s.Usage.ActiveSeconds += active
		s.TurnSince = nil
	}
	s.Status = api.SessionIdle
	s.StopReason = reason.Type
	c.release()
	c.add(
		&api.SessionThreadStatusIdle{EventHead: at(api.TypeSessionThreadStatusIdle), SessionThreadID: s.ThreadID,
			AgentName: s.Agent.Name, StopReason: reason, StopDetails: details},
		&api.SessionUsageEvent{EventHead: at(api.TypeSessionUsage), Usage: s.Usage},
		&api.SessionStatusIdle{EventHead: at(api.TypeSessionStatusIdle), StopReason: reason, StopDetails: details},
	)
}

// waitFor goes idle until the calls are answered.
func (c *change) waitFor(open []plane.Call) {
	ids := make([]string, len(open))
	for i, call := range open {
		ids[i] = call.ID
	}
	c.idle(api.StopReason{Type: api.StopRequiresAction, EventIDs: ids}, nil)
}

// hold takes the turn's lease for this process.
func (c *change) hold() {
	c.s.TurnOwner, c.s.TurnUntil = c.r.owner, c.now.Add(c.r.cfg.Lease)
	c.s.TurnFence++
	c.running()
}

// ask writes a model request down as begun and gives its span's id.
func (c *change) ask() string {
	head := api.EventHead{ID: plane.NewID(plane.PrefixEvent), Type: api.TypeSpanModelRequestStart}
	c.add(&api.SpanModelRequestStart{EventHead: head})
	return head.ID
}

// release gives the turn's lease up.
func (c *change) release() {
	c.s.TurnOwner, c.s.TurnUntil = "", time.Time{}
}

// cutOff takes the turn from whoever holds it and closes what it left open.
// The holder's later writes are refused by the fence.
func (c *change) cutOff() error {
	if c.s.TurnOwner != "" {
		if err := c.closeSpan(api.ModelUsage{}); err != nil {
			return err
		}
	}
	c.s.TurnFence++
	c.release()
	return nil
}

// closeSpan ends the session's open model request, if there is one, as failed.
func (c *change) closeSpan(u api.ModelUsage) error {
	last, err := c.tx.Events(c.s.ID, store.EventQuery{Desc: true, Limit: 1,
		Types: []string{api.TypeSpanModelRequestStart, api.TypeSpanModelRequestEnd}})
	if err != nil || len(last) == 0 || last[0].Type != api.TypeSpanModelRequestStart {
		return err
	}
	c.add(&api.SpanModelRequestEnd{EventHead: at(api.TypeSpanModelRequestEnd), ModelRequestStartID: last[0].ID, IsError: true, ModelUsage: u})
	return nil
}

// void closes open calls that nobody will answer. With a reason, each gets an
// error result that says so.
func (c *change) void(reason string) (voided int, err error) {
	open, err := c.tx.OpenCalls(c.s.ID)
	if err != nil {
		return 0, err
	}
	for _, call := range open {
		call.State = plane.CallVoid
		if reason != "" {
			result := refusal(call.ID, reason)
			call.AnswerID = result.ID
			c.add(result)
		}
		if err := c.tx.UpdateCall(call); err != nil {
			return 0, err
		}
	}
	c.dirty = c.dirty || len(open) > 0
	return len(open), nil
}

// refusal is the control plane's own error result for a call.
func refusal(call, text string) *api.AgentToolResult {
	yes := true
	return &api.AgentToolResult{EventHead: api.EventHead{ID: plane.NewID(plane.PrefixEvent), Type: api.TypeAgentToolResult},
		ToolUseID: call, Content: []api.Block{api.Text(text)}, IsError: &yes}
}

// queued lists the client events that wait for their place, in order.
func (c *change) queued(limit int) ([]plane.StoredEvent, error) {
	return c.tx.Events(c.s.ID, store.EventQuery{Queued: true, Limit: limit})
}

// process gives every queued event its place.
func (c *change) process() error {
	if _, err := c.flush(); err != nil {
		return err
	}
	for {
		waiting, err := c.queued(plane.MaxEventsPerSend)
		if err != nil || len(waiting) == 0 {
			return err
		}
		for _, e := range waiting {
			if _, err := c.r.cfg.Log.Process(c.tx, c.s, e.ID); err != nil {
				return err
			}
		}
		c.dirty = true
	}
}
