package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"syscall"

	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/plane"
)

// explain says what happened and what to do about it.
func explain(err error) string {
	if ce, ok := errors.AsType[*config.Error](err); ok {
		return ce.Error()
	}
	if e, ok := errors.AsType[*client.Error](err); ok {
		return explainAnswer(e, err)
	}
	if e, ok := errors.AsType[*plane.Error](err); ok && e.Kind == plane.NotFound {
		return e.Error() + "; check the id, and that it is in this database"
	}
	if s, ok := errors.AsType[*stopped](err); ok {
		return s.Error()
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		why := "no answer"
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			why = "connection refused"
		case errors.Is(err, context.DeadlineExceeded):
			why = "it took too long"
		case ue.Err != nil:
			why = ue.Err.Error()
		}
		at := ue.URL
		if u, perr := url.Parse(ue.URL); perr == nil {
			at = u.Scheme + "://" + u.Host
		}
		return fmt.Sprintf("cannot reach %s: %s; start the server (berth dev) or name the right one with --base-url or its variable", at, why)
	}
	return err.Error()
}

// serving marks a worker's failure: its credentials are other ones.
type serving struct{ error }

func (s serving) Unwrap() error { return s.error }

func explainAnswer(e *client.Error, whole error) string {
	cure := ""
	_, worker := errors.AsType[serving](whole)
	switch {
	case worker && (e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden):
		cure = "give this environment's own key with ANTHROPIC_ENVIRONMENT_KEY (berth keys create --environment ID makes one), or the item's secret with ANTHROPIC_WORK_SECRET"
	case e.Status == http.StatusUnauthorized:
		cure = "give a valid key with BERTH_API_KEY or --api-key (berth keys create --api makes one)"
	case e.Status == http.StatusForbidden:
		cure = "use a key that may do this"
	case e.Status == http.StatusNotFound:
		cure = "check the id, and that it belongs to this server"
	case e.Status == http.StatusTooManyRequests || e.Status == http.StatusServiceUnavailable:
		cure = "try again in a moment"
	case e.Status == http.StatusInternalServerError:
		cure = "the server's log has the cause under this request id"
	}
	text := e.Message
	if text == "" {
		text = fmt.Sprintf("the server answered with status %d", e.Status)
	}
	if e.RequestID != "" && e.Status >= 500 {
		text += " (" + e.RequestID + ")"
	}
	if cure != "" {
		text += "; " + cure
	}
	return text
}
