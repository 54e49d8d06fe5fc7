package turn

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/crash"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

// Accept takes a client's events, all or none, and gives them back as stored,
// in order. A result or confirmation that says again what was already accepted
// gives the stored event. Errors name the field at fault: Invalid for what
// repeating will not help, Conflict for an archived session, NotFound.
func (r *Runner) Accept(ctx context.Context, session string, raws []json.RawMessage) (api.EventList, error) {
	return r.AcceptSend(ctx, session, Send{Events: raws})
}

// Send is a client's request to take events.
type Send struct {
	// Who sends. A sessions token must still be good when the events are
	// written: Unauthenticated otherwise. A request may have been admitted long
	// before its body arrived.
	Who plane.Identity
	// Key is the client's idempotency key, "" for none. For KeepSends a send
	// that repeats one with the same key gives what that one gave; the key with
	// other events is Invalid.
	Key    string
	Events []json.RawMessage
}

// KeepSends is how long an idempotency key is remembered at least.
const KeepSends = 24 * time.Hour

// AcceptSend is Accept for a send.
func (r *Runner) AcceptSend(ctx context.Context, session string, send Send) (api.EventList, error) {
	if len(send.Events) == 0 {
		return nil, plane.Errorf(plane.Invalid, "needs at least one event").In("events")
	}
	sent, err := plane.ParseSent("events", send.Events)
	if err != nil {
		return nil, err
	}
	room := r.seat(session)
	var a *accepting
	err = r.cfg.Store.Update(ctx, func(tx store.Tx) error {
		s, err := tx.LockSession(session)
		if err != nil {
			return err
		}
		proven, err := fenced(tx, send.Who)
		if err != nil {
			return err
		}
		a = &accepting{change: r.change(tx, &s), resting: s.Turn == plane.TurnRest, proven: proven, room: room != nil, after: s.Pos}
		if known, err := a.sentBefore(send); known || err != nil {
			return err
		}
		if s.ArchivedAt != nil {
			return plane.Errorf(plane.Conflict, "session %s is archived and takes no more events", session)
		}
		if s.Status == api.SessionTerminated {
			return plane.Errorf(plane.Invalid, "session %s has terminated and takes no more events", session)
		}
		for i, e := range sent {
			if err := a.take(fmt.Sprintf("events[%d]", i), clone(e)); err != nil {
				return err
			}
		}
		if err := a.finish(); err != nil {
			return err
		}
		return a.noteSend(send)
	})
	if err != nil {
		room.leave(nil)
		return nil, err
	}
	if a.cut {
		r.cut(session, a.s.TurnFence)
	}
	if a.started {
		crash.At("turn.accepted")
	}
	if a.results {
		crash.At("turn.result_accepted")
	}
	room.leave(a.taken)
	if a.s.Turn == plane.TurnWanted && a.wanted && a.taken == nil {
		r.wake(session)
	}
	return a.out, nil
}

// fenced refuses a sessions token whose delivery has ended. The session's
// lock is held: a lapse, which takes it too, comes before or after. proven says
// that the delivery has brought a result.
func fenced(tx store.Tx, who plane.Identity) (proven bool, err error) {
	if who.Kind != plane.CallerSessions {
		return false, nil
	}
	w, err := tx.Work(who.WorkID)
	if err != nil && plane.KindOf(err) != plane.NotFound {
		return false, err
	}
	if err != nil || w.TokenID != who.KeyID || w.TokenStanding(time.Now()) != plane.Live {
		return false, plane.Errorf(plane.Unauthenticated, "the work item of this sessions token has ended or was given to another worker")
	}
	return w.Tries == 0, nil
}

// accepting is one request's events on their way into the log.
type accepting struct {
	*change
	out     api.EventList
	given   map[string]api.Event // events of this request by id
	resting bool                 // no turn is under way: messages have their place at once
	proven  bool                 // see fenced

	started bool // a message begins a turn
	answers bool // calls were answered or refused
	results bool // by results
	freed   bool // a worker may be needed now
	cut     bool // an interrupt
	wanted  bool // the turn is wanted by this request

	room  bool   // for a model request
	after int64  // the log's end before this
	taken *taken // the turn, by this request
}

func (a *accepting) take(at string, e api.Event) error {
	switch e := e.(type) {
	case *api.UserMessage:
		return a.message(e)
	case *api.UserInterrupt:
		return a.interrupt(at, e)
	case *api.UserToolConfirmation:
		return a.confirmation(at, e)
	case *api.UserToolResult:
		return a.result(at+".tool_use_id", e.ToolUseID, plane.CallTool, e, plane.ResultDigest(e.Content, e.IsError))
	case *api.UserCustomToolResult:
		return a.result(at+".custom_tool_use_id", e.CustomToolUseID, plane.CallCustom, e, plane.ResultDigest(e.Content, e.IsError))
	}
	return plane.Errorf(plane.Invalid, "%s is not supported by this server yet", e.Head().Type).In(at + ".type")
}

// message has its place at once when no turn is under way, else it waits for
// the next request to begin.
func (a *accepting) message(e *api.UserMessage) error {
	a.s.HasInput = true
	if a.resting {
		if a.cut { // what was queued when the interrupt came was said before
			if err := a.process(); err != nil {
				return err
			}
		}
		a.started = true
		a.give(e)
		return nil
	}
	if _, err := a.flush(); err != nil {
		return err
	}
	if _, err := a.r.cfg.Log.Queue(a.tx, a.s, e); err != nil {
		return err
	}
	a.dirty, a.freed = true, true
	a.out = append(a.out, e)
	return nil
}

// interrupt takes the turn away from whoever holds it, closes the calls that
// are open, and rests. What was sent before it and not yet taken up, and what
// comes after it, begins the next turn.
func (a *accepting) interrupt(at string, e *api.UserInterrupt) error {
	if id := e.SessionThreadID; id != nil && *id != a.s.ThreadID {
		return plane.Errorf(plane.Invalid, "%q is not a thread of this session", *id).In(at + ".session_thread_id")
	}
	e.SessionThreadID = nil
	a.give(e)
	if _, err := a.flush(); err != nil { // its time comes before anything it causes
		return err
	}
	voided, err := a.void("")
	if err != nil {
		return err
	}
	if err := a.cutOff(); err != nil {
		return err
	}
	a.cut, a.freed = true, true
	if a.s.Turn != plane.TurnRest || voided > 0 || a.started {
		a.idle(api.StopReason{Type: api.StopEndTurn}, nil)
	}
	a.resting, a.started, a.answers = true, false, false
	return nil
}

func (a *accepting) confirmation(at string, e *api.UserToolConfirmation) error {
	at += ".tool_use_id"
	call, err := a.call(at, e.ToolUseID)
	if err != nil {
		return err
	}
	if call.Kind != plane.CallTool {
		return plane.Errorf(plane.Invalid, "%s is a custom tool use, which nobody confirms", call.ID).In(at)
	}
	switch call.State {
	case plane.CallAsked:
	case plane.CallVoid:
		return interrupted(call).In(at)
	default:
		before, err := a.confirmed(call)
		if err != nil {
			return err
		}
		if before == nil {
			return plane.Errorf(plane.Invalid, "%s did not ask for a confirmation", call.ID).In(at)
		}
		if before.Result != e.Result || deref(before.DenyMessage) != deref(e.DenyMessage) {
			return plane.Errorf(plane.Invalid, "%s was already confirmed with %s", call.ID, before.Result).In(at)
		}
		a.out = append(a.out, before)
		return nil
	}
	a.give(e)
	if e.Result == "allow" {
		call.State = plane.CallOpen
		a.freed = true
		return a.tx.UpdateCall(call)
	}
	text := "The user did not allow this tool call."
	if m := deref(e.DenyMessage); m != "" {
		text += " They said: " + m
	}
	denial := refusal(call.ID, text)
	a.add(denial)
	a.answers = true
	call.State, call.AnswerID = plane.CallDenied, denial.ID
	return a.tx.UpdateCall(call)
}

// confirmed finds the confirmation that a call had, nil for none.
func (a *accepting) confirmed(call plane.Call) (*api.UserToolConfirmation, error) {
	for _, e := range a.given {
		if c, ok := e.(*api.UserToolConfirmation); ok && c.ToolUseID == call.ID {
			return c, nil
		}
	}
	const page = 1000
	q := store.EventQuery{AfterPos: call.Pos, Limit: page, Types: []string{api.TypeUserToolConfirmation}}
	for {
		rows, err := a.tx.Events(a.s.ID, q)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			var c api.UserToolConfirmation
			if err := json.Unmarshal(row.Body, &c); err != nil {
				return nil, err
			}
			if c.ToolUseID == call.ID {
				return &c, nil
			}
		}
		if len(rows) < page {
			return nil, nil
		}
		q.AfterPos = rows[page-1].Pos
	}
}

func (a *accepting) result(at, id string, kind plane.CallKind, e api.Event, digest [32]byte) error {
	call, err := a.call(at, id)
	if err != nil {
		return err
	}
	if call.Kind != kind {
		return plane.Errorf(plane.Invalid, "%s is answered by another type of event, not by %s", id, e.Head().Type).In(at)
	}
	switch call.State {
	case plane.CallOpen:
	case plane.CallAsked:
		return plane.Errorf(plane.Invalid, "%s waits for a user.tool_confirmation; its tool must not run before", id).In(at)
	case plane.CallDenied:
		return plane.Errorf(plane.Invalid, "%s was denied; it takes no result", id).In(at)
	case plane.CallVoid:
		return interrupted(call).In(at)
	case plane.CallAnswered:
		if call.AnswerDigest != digest {
			return plane.Errorf(plane.Invalid, "%s was already answered, by %s, with a different result", id, call.AnswerID).In(at)
		}
		return a.again(call.AnswerID)
	}
	if !a.results && !a.proven { // while nothing is written: to wait for the item undoes nobody else
		if err := a.r.cfg.Queue.Progress(a.tx, a.s.ID); err != nil {
			return err
		}
	}
	e.Head().ID = plane.NewID(plane.PrefixEvent)
	a.give(e)
	a.answers, a.results = true, true
	call.State, call.AnswerID, call.AnswerDigest = plane.CallAnswered, e.Head().ID, digest
	return a.tx.UpdateCall(call)
}

func interrupted(call plane.Call) *plane.Error {
	return plane.Errorf(plane.Invalid, "%s was ended by an interrupt or given up; it takes no answer", call.ID)
}

func (a *accepting) call(at, id string) (plane.Call, error) {
	call, err := a.tx.Call(a.s.ID, id)
	if err != nil && plane.KindOf(err) == plane.NotFound {
		return call, plane.Errorf(plane.Invalid, "%s is not a tool use of this session", id).In(at)
	}
	return call, err
}

// give appends an event and answers with it.
func (a *accepting) give(e api.Event) {
	if e.Head().ID == "" {
		e.Head().ID = plane.NewID(plane.PrefixEvent)
	}
	if a.given == nil {
		a.given = map[string]api.Event{}
	}
	a.given[e.Head().ID] = e
	a.add(e)
	a.out = append(a.out, e)
}

// again answers with an event that is already there.
func (a *accepting) again(id string) error {
	if e := a.given[id]; e != nil {
		a.out = append(a.out, e)
		return nil
	}
	row, err := a.tx.Event(a.s.ID, id)
	if err != nil {
		return err
	}
	e, err := api.DecodeEvent(row.Body)
	if err != nil {
		return err
	}
	a.out = append(a.out, e)
	return nil
}

// finish says what follows from what was taken and stores it.
func (a *accepting) finish() error {
	if !a.dirty {
		return nil // all of it was there already
	}
	a.s.LastInputAt = &a.now
	switch {
	case a.started:
		a.wanted = true
	case a.cut:
		// What was queued before the interrupt begins the next turn.
		waiting, err := a.queued(1)
		if err != nil {
			return err
		}
		a.wanted = len(waiting) > 0
	case a.answers:
		open, err := a.tx.OpenCalls(a.s.ID)
		if err != nil {
			return err
		}
		if a.wanted = len(open) == 0; !a.wanted {
			a.waitFor(open)
		}
	}
	if a.wanted {
		a.run()
	}
	if a.started || a.freed {
		if err := a.r.cfg.Queue.Offer(a.tx, a.s); err != nil {
			return err
		}
	}
	if a.wanted && a.room && !a.cut {
		return a.takeUp()
	}
	return a.save()
}

// takeUp begins the model request that is wanted, unless messages wait to be
// taken up with it: claiming a turn is what does that.
func (a *accepting) takeUp() error {
	if a.answers {
		waiting, err := a.queued(1)
		if err != nil {
			return err
		}
		if len(waiting) > 0 {
			return a.save()
		}
	}
	a.hold()
	span := a.ask()
	if err := a.save(); err != nil {
		return err
	}
	a.taken = &taken{claimed: claimed{s: *a.s, span: span}, after: a.after, said: a.said}
	return nil
}

// clone copies a client's event, for a transition may run twice.
func clone(e api.Event) api.Event {
	switch e := e.(type) {
	case *api.UserMessage:
		c := *e
		return &c
	case *api.UserInterrupt:
		c := *e
		return &c
	case *api.UserToolConfirmation:
		c := *e
		return &c
	case *api.UserToolResult:
		c := *e
		return &c
	case *api.UserCustomToolResult:
		c := *e
		return &c
	}
	return e
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// fresh are copies of a list of events.
func fresh(events []api.Event) []api.Event {
	out := slices.Clone(events)
	for i, e := range out {
		out[i] = clone(e)
	}
	return out
}
