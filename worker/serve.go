package worker

import (
	"context"
	"errors"
	"time"

	"github.com/berthdev/berth/api"
)

// farewell bounds the posting of a result after the work was cancelled.
const farewell = 3 * time.Second

// What the model is told of calls that did not come to their end.
const (
	textMayHaveRun = "interrupted: this call may have been started by a worker that went away before it could report. " +
		"It was not run again. Look at what it has done before you repeat it."
	textCancelled = "interrupted: the worker was stopped while this call ran. It may have run in part. " +
		"Look at what it has done before you repeat it."
	textNewWorkspace = "[the session's earlier workspace is gone; this is a new one, its files are not there]\n"
)

// errInterrupted cancels a call that a user.interrupt has made void.
var errInterrupted = errors.New("interrupted by the user")

// callDone is how a call came to its end.
type callDone struct {
	call    *pending
	state   callState
	outcome CallOutcome
	ran     time.Duration
	result  []byte // of a callUnsent
}

// serve runs a call and posts its result. ctx ends when the call is void or
// the work is cancelled; its cause says which.
func (r *run) serve(ctx context.Context, c *pending) callDone {
	began := time.Now()
	done := func(s callState, o CallOutcome) callDone {
		return callDone{call: c, state: s, outcome: o, ran: time.Since(began)}
	}
	key := CallKey{Session: r.session, Call: c.ID}
	pass := r.gate.pass()
	defer pass.leave()
	if c.result != nil {
		state, outcome := r.deliver(ctx, c, key, c.result)
		d := done(state, outcome)
		d.result = c.result
		return d
	}
	pass.leave() // nothing has begun: whoever comes after this worker opens the sandbox
	tools, err := r.tools(ctx)
	pass.enter()
	if err != nil && ctx.Err() != nil {
		return done(callVoid, CallInterrupted) // nothing ran: whoever holds the session next may run it
	}
	if err == nil && !tools.Owns(c.Name, c.Custom) {
		return done(callForeign, CallInterrupted)
	}
	birth := ""
	if err == nil && remembers(tools, c.Call) {
		birth = r.birth()
	}
	c.begun = true
	known, jerr := r.journal.Started(ctx, key, birth)
	var result []byte
	switch {
	case ctx.Err() != nil && jerr != nil:
		return done(callVoid, CallInterrupted)
	case jerr != nil:
		r.log.Error("the journal failed; a call was not run", "call", c.ID, "error", jerr)
		result, err = resultEvent(c.Call, []api.Block{api.Text("The worker could not record this call, so it was not run.")}, true)
	case (known.State == CallFinished || known.State == CallPosted) && len(known.Result) > 0:
		r.log.Info("posting the result of a call that ran before", "call", c.ID)
		result, err = known.Result, nil
	case known.State == CallStarted && birth != "" && known.Birth == birth:
		r.log.Info("a call that a former worker started goes on", "call", c.ID)
		result, err = r.perform(ctx, c, tools, birth, pass)
	case known.State != CallNew || r.possibly[c.ID]:
		r.log.Warn("a call may have been started before; answering it as interrupted", "call", c.ID)
		result, err = resultEvent(c.Call, announced(r.news(), []api.Block{api.Text(textMayHaveRun)}), true)
	case err != nil:
		r.log.Error("no sandbox for a call", "call", c.ID, "error", err)
		result, err = resultEvent(c.Call, []api.Block{api.Text(textOfOpening(err))}, true)
	default:
		r.at(PointJournaled)
		result, err = r.perform(ctx, c, tools, birth, pass)
	}
	if err != nil && ctx.Err() != nil {
		return done(callVoid, CallInterrupted)
	}
	if err != nil {
		r.log.Error("a result could not be encoded", "call", c.ID, "error", err)
		return done(callUnsent, CallUnsent)
	}
	state, outcome := r.deliver(ctx, c, key, result)
	d := done(state, outcome)
	d.result = result
	return d
}

// textOfOpening tells the session why it has no sandbox.
func textOfOpening(err error) string {
	if oe, ok := errors.AsType[*OpenError](err); ok {
		return "This call was not run: " + oe.Text
	}
	return "The sandbox could not be started, so this call was not run. Try again; if it keeps failing, the operator has to look at the worker."
}

// perform runs a call. Of one that was cancelled and is not answered the error
// is the cause.
func (r *run) perform(ctx context.Context, c *pending, tools Tools, birth string, p *pass) ([]byte, error) {
	r.state(StateRunning, c.Name)
	r.at(PointRunning)
	if birth != "" { // whoever comes after this worker can ask for it
		p.leave()
	}
	spanned, end := r.traced(ctx, SpanCall, c.Call)
	content, isError := tools.Run(spanned, c.Call)
	switch {
	case ctx.Err() != nil:
		end(SpanEnd{string(CallInterrupted), context.Cause(ctx)})
	case isError:
		end(SpanEnd{"error", ErrTool})
	default:
		end(SpanEnd{"ok", nil})
	}
	p.enter()
	if ctx.Err() != nil {
		if !speaks(ctx) {
			// What has begun stays in the journal, for the case that the
			// session comes back here; a void call never does.
			if errors.Is(context.Cause(ctx), errInterrupted) || endOf(ctx, "") == EndTerminated {
				r.forget(CallKey{Session: r.session, Call: c.ID})
			}
			return nil, context.Cause(ctx)
		}
		content, isError = append(content, api.Text(textCancelled)), true
	}
	if ctx.Err() == nil {
		r.after(ctx)
	}
	return resultEvent(c.Call, announced(r.news(), content), isError)
}

// deliver records and posts a result.
func (r *run) deliver(ctx context.Context, c *pending, key CallKey, result []byte) (_ callState, outcome CallOutcome) {
	r.state(StatePosting, c.Name)
	ctx, end := r.traced(ctx, SpanPost, c.Call)
	var err error
	defer func() { end(SpanEnd{string(outcome), err}) }()
	if ctx.Err() != nil { // the work was cancelled, and the session should know
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
	}
	if err := r.journal.Finished(ctx, key, result); err != nil && ctx.Err() == nil {
		r.log.Error("the journal failed; a crash now would cost a result", "call", c.ID, "error", err)
	}
	r.at(PointFinished)
	outcome, err = r.poster.post(ctx, result, c.echoed)
	if outcome == CallInterrupted && speaks(ctx) && context.Cause(ctx) != context.DeadlineExceeded {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
		outcome, err = r.poster.post(late, result, c.echoed)
	}
	if outcome == CallRefused && replaceable(err, result) {
		r.log.Warn("a result was refused for what it holds; saying so instead", "call", c.ID, "error", err)
		if plain, perr := replacement(c.Call, err, len(result)); perr == nil {
			outcome, err = r.poster.post(ctx, plain, c.echoed)
		}
	}
	switch outcome {
	case CallAnswered:
		r.at(PointPosted)
		r.forget(key)
		return callSettled, outcome
	case CallRefused:
		r.log.Warn("a result was refused", "call", c.ID, "error", err)
		r.forget(key)
		return callSettled, outcome
	case CallUnsent:
		r.log.Error("a result could not be posted in time", "call", c.ID, "error", err)
		return callUnsent, outcome
	}
	if errors.Is(context.Cause(ctx), errInterrupted) {
		r.forget(key)
	}
	return callVoid, outcome // else the journal keeps the result
}

// forget tells the journal that a call is done with, or void.
func (r *run) forget(key CallKey) {
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	if err := r.journal.Posted(ctx, key); err != nil {
		r.log.Error("the journal failed", "call", key.Call, "error", err)
	}
}

// speaks says whether a call whose ctx ended is still answered: when this
// worker stops by its own will, and not when the call is void or the session
// somebody else's.
func speaks(ctx context.Context) bool {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errInterrupted):
		return false
	default:
		switch endOf(ctx, EndCancelled) {
		case EndLost, EndStopped, EndTerminated:
			return false
		}
		return true
	}
}

// announced is content that begins with news, where there is any.
func announced(news string, content []api.Block) []api.Block {
	if news == "" {
		return content
	}
	content = filled(content)
	if content[0].Type == "text" {
		content[0].Text = news + content[0].Text
		return content
	}
	return append([]api.Block{api.Text(news)}, content...)
}

// stopCause ends a context and says what a session's end is called for it.
type stopCause End

func (c stopCause) Error() string { return "the session is let go: " + string(c) }

// endOf is the end that ctx was cancelled for.
func endOf(ctx context.Context, otherwise End) End {
	if c, ok := errors.AsType[stopCause](context.Cause(ctx)); ok {
		return End(c)
	}
	return otherwise
}
