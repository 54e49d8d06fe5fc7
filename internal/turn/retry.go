package turn

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/model"
	"github.com/berthdev/berth/internal/store"
)

// failed writes a failed try down. It gives the pause before the next one, or
// a negative one when there is none: the turn was cut off, let go, or has given
// up.
func (r *Runner) failed(ctx context.Context, c *claimed, h *history, cause error) (time.Duration, error) {
	switch {
	case errors.Is(context.Cause(ctx), errCutOff):
		return -1, nil // whoever cut it off has written all there is to say
	case ctx.Err() != nil:
		r.letGo(c, c.span)
		return -1, nil
	}
	fault, ok := errors.AsType[*model.Error](cause)
	if !ok {
		fault = &model.Error{Kind: model.Unavailable, Message: "the model request failed", Err: cause}
	}
	tries := h.attempts + 1
	retry := fault.Retry() && tries < r.cfg.Retries
	r.cfg.Logger.Warn("model request failed", "session", c.s.ID, "kind", fault.Kind, "try", tries, "again", retry,
		"amid", fault.Amid, "message", fault.Message, "cause", fault.Err)

	writing, done := r.writing()
	defer done()
	err := r.cfg.Store.Update(writing, func(tx store.Tx) error {
		s, err := r.own(tx, c)
		if err != nil {
			return err
		}
		ch := r.change(tx, &s)
		addUsage(&s.Usage, fault.Usage)
		ch.add(&api.SpanModelRequestEnd{EventHead: at(api.TypeSpanModelRequestEnd), ModelRequestStartID: c.span,
			IsError: true, ModelUsage: modelUsage(fault.Usage)})
		status := api.RetryExhausted
		if retry {
			status = api.RetryRetrying
		}
		ch.add(&api.SessionError{EventHead: at(api.TypeSessionError), Error: api.SessionErrorBody{
			Type: errorType(fault.Kind), Message: short(fault.Message), RetryStatus: api.RetryStatus{Type: status}}})
		if retry {
			s.Status = api.SessionRescheduling
			ch.add(&api.SessionStatusRescheduled{EventHead: at(api.TypeSessionStatusRescheduled)},
				ch.threadStatus(api.TypeSessionThreadStatusRescheduled))
		} else {
			if err := ch.process(); err != nil {
				return err
			}
			ch.idle(api.StopReason{Type: api.StopRetriesExhausted}, nil)
		}
		return ch.save()
	})
	if err != nil {
		return -1, err
	}
	if !retry {
		h.attempts = 0
		return -1, nil
	}
	h.attempts++
	return r.pause(tries, fault.RetryAfter), nil
}

// pause grows from RetryFirst by doubling up to RetryMost, less up to half of
// it at random, and is at least what the provider asked for, within reason.
func (r *Runner) pause(tries int, asked time.Duration) time.Duration {
	d := r.cfg.RetryMost
	if tries < 30 {
		d = min(d, r.cfg.RetryFirst<<(tries-1))
	}
	d -= time.Duration(rand.Int64N(int64(d)/2 + 1))
	return max(d, min(asked, 5*r.cfg.RetryMost))
}

// short bounds an error's text.
func short(s string) string {
	if r := []rune(s); len(r) > 1000 {
		return string(r[:1000]) + "…"
	}
	return s
}

// sleep waits for d. False says that the turn was cut off or the runner stops.
func (r *Runner) sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-r.take.Done():
	}
	return false
}

// letGo gives the lease of a turn up that this process will not finish, so
// that another or the next start goes on at once. span is the request it left
// open, "" for none. Best effort: a lease that stays runs out.
func (r *Runner) letGo(c *claimed, span string) {
	ctx, done := r.writing()
	defer done()
	err := r.cfg.Store.Update(ctx, func(tx store.Tx) error {
		s, err := r.own(tx, c)
		if err != nil {
			return err
		}
		ch := r.change(tx, &s)
		if span != "" {
			ch.add(&api.SpanModelRequestEnd{EventHead: at(api.TypeSpanModelRequestEnd), ModelRequestStartID: span, IsError: true})
		}
		ch.release()
		return ch.save()
	})
	if err != nil && !errors.Is(err, errCutOff) {
		r.cfg.Logger.Error("giving a turn's lease up", "session", c.s.ID, "error", err)
	}
}

func errorType(k model.ErrorKind) string {
	switch k {
	case model.Overloaded:
		return api.SessionErrOverloaded
	case model.RateLimited:
		return api.SessionErrRateLimited
	case model.Billing:
		return api.SessionErrBilling
	case model.RequestFailed, model.Unavailable, model.Credential:
		return api.SessionErrRequestFailed
	}
	return api.SessionErrUnknown
}
