package turn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/crash"
	"github.com/berthdev/berth/internal/model"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

// claimed is a model request that was written down as begun: the session as
// it was then, under a lease with a fence.
type claimed struct {
	s    plane.Session
	span string // id of span.model_request_start
}

// request makes one model request of a session, with its retries: claim, ask,
// commit. It reports whether the session wants another one at once.
func (r *Runner) request(session string, at *run) (again bool) {
	ctx, cancel := context.WithCancelCause(r.work)
	defer cancel(nil)
	r.mu.Lock()
	at.cancel = cancel
	t := at.taken
	if at.taken = nil; t != nil && t.s.TurnFence < at.cutBelow {
		t = nil
	}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		at.cancel, at.fence = nil, 0
		r.mu.Unlock()
	}()

	h := r.histories.get(session)
	retrying := false
	for {
		var c *claimed
		var err error
		if t != nil {
			if c, err = &t.claimed, r.catchUp(ctx, h, t); err != nil {
				r.letGo(c, c.span)
			}
			t = nil
		} else {
			c, err = r.claim(ctx, h, retrying)
		}
		if err != nil {
			r.report(session, "taking up a turn", err)
			return false // the history may be half taken in: forget it
		}
		if c == nil {
			r.histories.put(h)
			return false
		}
		r.holds(at, c.s.TurnFence)
		crash.At("turn.before_model")

		resp, ids, err := r.ask(ctx, c, h)
		if err == nil {
			crash.At("turn.after_model")
			again, err = r.commit(c, h, resp, ids)
			if err != nil {
				r.report(session, "writing the model's answer", err)
				return false
			}
			r.histories.put(h)
			return again
		}
		pause, err := r.failed(ctx, c, h, err)
		if err != nil {
			r.report(session, "writing the model's failure", err)
			return false
		}
		if pause < 0 {
			r.histories.put(h)
			return false
		}
		if !r.sleep(ctx, pause) {
			r.letGo(c, "")
			return false
		}
		retrying = true
	}
}

// report logs what went wrong with the store; being cut off or stopped is no
// failure.
func (r *Runner) report(session, doing string, err error) {
	if errors.Is(err, errCutOff) || r.work.Err() != nil {
		return
	}
	r.cfg.Logger.Error(doing, "session", session, "error", err)
}

// claim takes the session's lease and writes a model request down as begun, in
// one transaction: queued messages are taken up, then comes the span. nil says
// that there is nothing to do here. retrying says that this process holds the
// lease and has closed the failed try.
func (r *Runner) claim(ctx context.Context, h *history, retrying bool) (*claimed, error) {
	cold := h.pos == 0
	if cold {
		// A long log is read outside the transaction.
		if err := r.warm(ctx, h); err != nil {
			return nil, err
		}
	}
	var out *claimed
	var fresh batch
	attempts := h.attempts
	err := r.cfg.Store.Update(ctx, func(tx store.Tx) error {
		out, fresh, attempts = nil, batch{}, h.attempts
		s, err := tx.LockSession(h.session)
		if plane.KindOf(err) == plane.NotFound && err != nil {
			return nil
		}
		if err != nil {
			return err
		}
		c := r.change(tx, &s)
		if s.Turn != plane.TurnWanted || s.ArchivedAt != nil || s.Status == api.SessionTerminated {
			return nil
		}
		if other := s.TurnOwner != "" && s.TurnOwner != r.owner; other && r.cfg.Store.Shared() && c.now.Before(s.TurnUntil) {
			return nil
		}
		if fresh, _, err = since(tx, s.ID, h.pos, 0); err != nil {
			return err
		}
		left := s.TurnOwner != "" && !retrying // by a process that died, or a write that failed
		if left {
			if err := c.closeSpan(api.ModelUsage{}); err != nil {
				return err
			}
		}
		if left || cold && !retrying || !retrying && s.Status == api.SessionRescheduling {
			if attempts, err = failures(tx, s.ID, r.cfg.Retries); err != nil {
				return err
			}
		}
		c.hold()
		if len(fresh.queued) > 0 {
			if _, err := c.flush(); err != nil {
				return err
			}
			for _, e := range fresh.queued {
				row, err := r.cfg.Log.Process(tx, &s, e.ID)
				if err != nil {
					return err
				}
				fresh.rows = append(fresh.rows, row)
			}
		}
		span := c.ask()
		if err := c.save(); err != nil {
			return err
		}
		out = &claimed{s: s, span: span}
		return nil
	})
	if err != nil || out == nil {
		return nil, err
	}
	if err := h.take(fresh); err != nil {
		return nil, err
	}
	h.pos, h.attempts = out.s.Pos, attempts
	return out, nil
}

// warm reads a session's log from its start, page by page.
func (r *Runner) warm(ctx context.Context, h *history) error {
	for more := true; more; {
		var b batch
		err := r.cfg.Store.View(ctx, func(rd store.Reader) (err error) {
			b, more, err = since(rd, h.session, h.pos, 2000)
			return err
		})
		if err != nil {
			return err
		}
		more = more && len(b.rows) > 0
		if err := h.take(b); err != nil {
			return err
		}
	}
	return nil
}

// ask sends the request and shows the answer while it is written. ids are the
// event ids that previews announced, by block.
func (r *Runner) ask(ctx context.Context, c *claimed, h *history) (model.Response, map[int]string, error) {
	m, err := r.cfg.Models.Resolve(c.s.Agent.Model.ID)
	if err != nil {
		return model.Response{}, nil, &model.Error{Kind: model.RequestFailed, Message: fmt.Sprintf("the model %q is not configured on this server", c.s.Agent.Model.ID), Err: err}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(r.cfg.Silence, func() { cancel(errSilent) })
	defer silence.Stop()
	show := &showing{r: r, session: c.s.ID, after: c.s.Emit, silence: silence, ids: map[int]string{}, parts: map[int]int{}}
	resp, err := m.Stream(ctx, model.Request{
		SessionID: c.s.ID,
		Model:     c.s.Agent.Model,
		System:    r.system(c.s.Agent),
		Tools:     offered(c.s.Agent),
		Messages:  slices.Clip(h.msgs),
		Attempt:   h.attempts,
	}, show)
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		err = &model.Error{Kind: model.Unavailable, Message: fmt.Sprintf("the provider sent nothing for %s", r.cfg.Silence), Amid: show.began, Err: err}
	}
	return resp, show.ids, err
}

// showing is the sink of one request: it turns what arrives into previews.
type showing struct {
	r       *Runner
	session string
	after   int64 // the frame before all of them
	silence *time.Timer
	began   bool
	last    model.BlockKind
	message string         // id of the agent.message being written
	count   int            // its content blocks so far
	ids     map[int]string // event id by block
	parts   map[int]int    // place of a text block in its message
}

func (s *showing) Alive() { s.silence.Reset(s.r.cfg.Silence) }

func (s *showing) Start(index int, kind model.BlockKind) {
	s.Alive()
	if kind == model.Text && s.last != model.Text {
		s.message, s.count = "", 0
	}
	s.last = kind
	if kind == model.Thinking {
		s.ids[index] = plane.NewID(plane.PrefixEvent)
		s.start(s.ids[index], api.TypeAgentThinking)
	}
}

func (s *showing) Delta(index int, text string) {
	s.Alive()
	if text == "" {
		return
	}
	if !s.began {
		s.began = true
		crash.At("turn.during_model")
	}
	if s.message == "" {
		s.message = plane.NewID(plane.PrefixEvent)
		s.start(s.message, api.TypeAgentMessage)
	}
	if _, ok := s.ids[index]; !ok {
		s.ids[index] = s.message
		s.parts[index] = s.count
		s.count++
	}
	s.r.cfg.Log.Preview(s.session, s.after, &api.EventDelta{Type: api.TypeEventDelta, EventID: s.message,
		Delta: api.ContentDelta{Type: "content_delta", Index: s.parts[index], Content: api.Text(text)}})
}

func (s *showing) start(id, kind string) {
	s.r.cfg.Log.Preview(s.session, s.after, &api.EventStart{Type: api.TypeEventStart, Event: api.EventPreview{ID: id, Type: kind}})
}

// own locks the session and gives errCutOff when the claim's lease is gone.
func (r *Runner) own(tx store.Tx, c *claimed) (plane.Session, error) {
	s, err := tx.LockSession(c.s.ID)
	if err != nil && plane.KindOf(err) == plane.NotFound {
		return s, errCutOff
	}
	if err == nil && (s.TurnOwner != r.owner || s.TurnFence != c.s.TurnFence) {
		return s, errCutOff
	}
	return s, err
}

// writing is the context of a transition that ends a request: it outlasts the
// request, for what was answered shall be kept, also while the server stops.
func (r *Runner) writing() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(r.work), 30*time.Second)
}

// commit writes the whole answer as one transition and says whether the next
// request is wanted at once.
func (r *Runner) commit(c *claimed, h *history, resp model.Response, ids map[int]string) (again bool, err error) {
	if resp.Stop != model.StopTools {
		crash.At("turn.before_idle")
	}
	ctx, done := r.writing()
	defer done()
	var w *answer
	err = r.cfg.Store.Update(ctx, func(tx store.Tx) error {
		again, w = false, nil
		s, err := r.own(tx, c)
		if err != nil {
			return err
		}
		ch := r.change(tx, &s)
		addUsage(&s.Usage, resp.Usage)
		w = write(s.Agent, resp, ids)
		ch.add(w.events...)
		ch.add(&api.SpanModelRequestEnd{EventHead: at(api.TypeSpanModelRequestEnd), ModelRequestStartID: c.span, ModelUsage: modelUsage(resp.Usage)})
		// Where they will be: what comes after the answer is appended with it.
		w.replay.SessionID, w.replay.RequestID, w.replay.Pos = s.ID, c.span, s.Pos+1
		if err := tx.InsertReplay(w.replay); err != nil {
			return err
		}
		places := make(map[string]int64, len(w.events))
		for i, e := range w.events {
			places[e.Head().ID] = s.Pos + 1 + int64(i)
		}
		var open []plane.Call
		for i := range w.calls {
			call := &w.calls[i]
			call.SessionID, call.RequestID, call.Pos = s.ID, c.span, places[call.ID]
			if call.Open() {
				open = append(open, *call)
			}
		}
		if err := tx.InsertCalls(w.calls...); err != nil {
			return err
		}
		if again, err = r.after(ch, resp, w, open); err != nil {
			return err
		}
		if err := ch.save(); err != nil {
			return err
		}
		c.s = s
		return nil
	})
	if err != nil {
		return false, err
	}
	if len(w.calls) > 0 {
		crash.At("turn.after_tool_use")
	}
	h.answered(w.replay)
	for _, e := range w.events {
		if e, ok := e.(*api.AgentToolResult); ok {
			h.result(e.ToolUseID, e.Content, e.IsError)
		}
	}
	h.pos, h.attempts = c.s.Pos, 0
	return again, nil
}

// after sets what comes after an answer: its open calls are waited for, the
// model is asked again, or the session is idle.
func (r *Runner) after(ch *change, resp model.Response, w *answer, open []plane.Call) (again bool, err error) {
	switch {
	case len(open) > 0:
		ch.waitFor(open)
		return false, r.cfg.Queue.Offer(ch.tx, ch.s)
	case len(w.calls) > 0 || resp.Stop == model.StopPause && len(w.events) > 0:
		// Refused calls, or a pause: the model goes on, within reason.
		stuck, err := ch.stuck()
		if err != nil {
			return false, err
		}
		if !stuck {
			ch.release()
			return true, nil
		}
		ch.add(&api.SessionError{EventHead: at(api.TypeSessionError), Error: api.SessionErrorBody{Type: api.SessionErrUnknown,
			Message:     fmt.Sprintf("the model was asked %d times in a row and asked for nothing that this agent may run; the turn was ended", maxFruitless),
			RetryStatus: api.RetryStatus{Type: api.RetryExhausted}}})
		ch.idle(api.StopReason{Type: api.StopRetriesExhausted}, nil)
		return false, nil
	}
	waiting, err := ch.queued(1)
	if err != nil {
		return false, err
	}
	if len(waiting) > 0 {
		ch.release()
		return true, nil
	}
	reason := api.StopReason{Type: api.StopEndTurn}
	if resp.Stop == model.StopRefusal {
		reason.Type = api.StopRefusal
	}
	ch.idle(reason, resp.Refusal)
	return false, nil
}

// maxFruitless bounds the requests in a row that bring nothing to run and do
// not end the turn.
const maxFruitless = 25

// stuck says that the model was asked that often since somebody last said
// something, and that nobody waits to.
func (c *change) stuck() (bool, error) {
	if _, err := c.flush(); err != nil {
		return false, err
	}
	last, err := c.tx.Events(c.s.ID, store.EventQuery{Desc: true, Limit: maxFruitless, Types: []string{api.TypeSpanModelRequestEnd,
		api.TypeUserMessage, api.TypeUserToolResult, api.TypeUserCustomToolResult, api.TypeUserToolConfirmation}})
	if err != nil {
		return false, fmt.Errorf("count the turn's requests: %w", err)
	}
	for _, e := range last {
		if e.Type != api.TypeSpanModelRequestEnd {
			return false, nil // queued ones, which come first here, among them
		}
	}
	return len(last) == maxFruitless, nil
}

// answer is a response as the log will hold it.
type answer struct {
	events []api.Event
	calls  []plane.Call
	replay plane.Replay
}

// write turns a response's blocks into events, in their order: neighbouring
// texts are one message, a refused tool use has its result right behind it.
func write(agent api.SessionAgent, resp model.Response, ids map[int]string) *answer {
	w := &answer{replay: plane.Replay{Provider: resp.Provider, Content: resp.Raw}}
	var message *api.AgentMessage
	id := func(block int) string {
		if known := ids[block]; known != "" {
			return known
		}
		return plane.NewID(plane.PrefixEvent)
	}
	for i, b := range resp.Blocks {
		if b.Kind == model.Text {
			if b.Text == "" {
				continue
			}
			if message == nil {
				message = &api.AgentMessage{EventHead: api.EventHead{ID: id(i), Type: api.TypeAgentMessage}}
				w.events = append(w.events, message)
			}
			message.Content = append(message.Content, api.Text(b.Text))
			continue
		}
		message = nil
		switch {
		case b.Kind == model.Thinking:
			w.events = append(w.events, &api.AgentThinking{EventHead: api.EventHead{ID: id(i), Type: api.TypeAgentThinking}})
		case resp.Stop == model.StopRefusal:
			// What a refused answer asks for is not done.
		default:
			w.call(agent, b)
		}
	}
	if w.replay.Content == nil || resp.Stop == model.StopRefusal {
		w.replay.Content = json.RawMessage("[]")
	}
	return w
}

func (w *answer) call(agent api.SessionAgent, b model.Block) {
	call := plane.Call{ID: plane.NewID(plane.PrefixEvent), Kind: plane.CallTool, Name: b.Name, State: plane.CallOpen}
	head := api.EventHead{ID: call.ID, Type: api.TypeAgentToolUse}
	input := b.Input
	if len(input) == 0 {
		input = json.RawMessage("{}")
	}
	v := judge(agent, b.Name)
	if v.custom {
		call.Kind, head.Type = plane.CallCustom, api.TypeAgentCustomToolUse
		w.events = append(w.events, &api.AgentCustomToolUse{EventHead: head, Name: b.Name, Input: input})
	} else {
		w.events = append(w.events, &api.AgentToolUse{EventHead: head, Name: b.Name, Input: input,
			EvaluatedPermission: v.permission, Evaluation: v.evaluation})
	}
	switch v.permission {
	case api.PermissionAsk:
		call.State = plane.CallAsked
	case api.PermissionDeny:
		result := refusal(call.ID, v.why)
		call.State, call.AnswerID = plane.CallDenied, result.ID
		w.events = append(w.events, result)
	}
	w.calls = append(w.calls, call)
	w.replay.CallIDs = append(w.replay.CallIDs, call.ID)
}

func addUsage(sum *api.SessionUsage, u model.Usage) {
	sum.InputTokens += u.Input
	sum.OutputTokens += u.Output
	sum.CacheReadInputTokens += u.CacheRead
	sum.CacheCreation.Ephemeral5mInputTokens += u.CacheCreation5m
	sum.CacheCreation.Ephemeral1hInputTokens += u.CacheCreation1h
}

func modelUsage(u model.Usage) api.ModelUsage {
	return api.ModelUsage{InputTokens: u.Input, OutputTokens: u.Output, CacheReadInputTokens: u.CacheRead,
		CacheCreationInputTokens: u.CacheCreation5m + u.CacheCreation1h, Speed: u.Speed}
}
