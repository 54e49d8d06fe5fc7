package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
)

// statusClientGone is logged nowhere and read by nobody: the client hung up.
const statusClientGone = 499

// kinds turns a kind of error into its status and error.type.
var kinds = map[plane.Kind]struct {
	status int
	kind   api.ErrorType
}{
	plane.Internal:        {http.StatusInternalServerError, api.ErrAPI},
	plane.Invalid:         {http.StatusBadRequest, api.ErrInvalidRequest},
	plane.Unauthenticated: {http.StatusUnauthorized, api.ErrAuthentication},
	plane.Forbidden:       {http.StatusForbidden, api.ErrPermission},
	plane.NotFound:        {http.StatusNotFound, api.ErrNotFound},
	plane.Conflict:        {http.StatusConflict, api.ErrInvalidRequest},
	plane.LeaseLost:       {http.StatusPreconditionFailed, api.ErrInvalidRequest},
	plane.TooLarge:        {http.StatusRequestEntityTooLarge, api.ErrRequestTooLarge},
	plane.RateLimited:     {http.StatusTooManyRequests, api.ErrRateLimit},
	plane.Unavailable:     {http.StatusServiceUnavailable, api.ErrAPI},
}

// methodError is a method that a path does not have: 405.
type methodError struct{ method, allow string }

func errMethod(method, allow string) error { return methodError{method, allow} }

func (e methodError) Error() string {
	return clip(e.method) + " is not allowed here; use " + e.allow
}

// retryError says when a refused request may come again.
type retryError struct {
	err   *plane.Error
	after time.Duration
}

func (e retryError) Error() string { return e.err.Error() }
func (e retryError) Unwrap() error { return e.err }

// fail answers with an error. It is the only place that turns errors into
// statuses; what the client must not see is logged here, once.
func (s *server) fail(c *call, err error) {
	status, body := translate(err)
	h := c.w.Header()
	switch {
	case status == http.StatusConflict:
		h.Set("X-Should-Retry", "false")
	case status == http.StatusTooManyRequests:
		after := time.Second
		if r, ok := errors.AsType[retryError](err); ok {
			after = r.after
		}
		h.Set("Retry-After", strconv.Itoa(max(1, int((after+time.Second-1)/time.Second))))
		h.Set("Retry-After-Ms", strconv.FormatInt(max(1, after.Milliseconds()), 10))
	case status == http.StatusUnauthorized:
		h.Set("WWW-Authenticate", "Bearer")
	case status == statusClientGone:
		status = http.StatusServiceUnavailable
	case status >= 500:
		s.log.Error("httpapi: request failed", "request", c.id, "method", c.r.Method, "path", clip(c.r.URL.Path), "error", err)
	}
	s.send(c, status, envelope(c.id, body))
}

// translate gives an error's status and what the client is told of it.
func translate(err error) (int, api.ErrorBody) {
	if e, ok := errors.AsType[*api.FieldError](err); ok {
		err = plane.Errorf(plane.Invalid, "%s", e.Problem).In(e.Path)
	}
	if e, ok := errors.AsType[*plane.Error](err); ok && e.Kind != plane.Internal {
		k := kinds[e.Kind]
		body := api.ErrorBody{Type: k.kind, Message: e.Message}
		details := maps.Clone(e.Details)
		if details == nil {
			details = map[string]any{}
		}
		if e.Field != "" {
			body.Message = e.Field + ": " + e.Message
			details["field"] = e.Field
		}
		if e.Code != "" {
			details["error_code"] = e.Code
			details["error_visibility"] = "user_facing"
		}
		if len(details) > 0 {
			body.Details = details
		}
		return k.status, body
	}
	if e, ok := errors.AsType[methodError](err); ok {
		return http.StatusMethodNotAllowed, api.ErrorBody{Type: api.ErrInvalidRequest, Message: e.Error()}
	}
	if e, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return http.StatusRequestEntityTooLarge, api.ErrorBody{
			Type: api.ErrRequestTooLarge, Message: "the request body is longer than " + strconv.FormatInt(e.Limit, 10) + " bytes",
		}
	}
	switch {
	case errors.Is(err, context.Canceled):
		return statusClientGone, api.ErrorBody{Type: api.ErrAPI, Message: "the request was cancelled"}
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout, api.ErrorBody{Type: api.ErrTimeout, Message: "the request took too long"}
	}
	return http.StatusInternalServerError, api.ErrorBody{Type: api.ErrAPI, Message: "internal server error"}
}

func envelope(requestID string, body api.ErrorBody) []byte {
	body.Message = strings.ToValidUTF8(body.Message, "\uFFFD")
	out, err := json.Marshal(api.ErrorResponse{Type: "error", Error: body, RequestID: requestID})
	if err != nil { // details that are no JSON: a mistake of ours
		return internalError(requestID)
	}
	return out
}

func internalError(requestID string) []byte {
	out, _ := json.Marshal(api.ErrorResponse{ // strings only: cannot fail
		Type: "error", Error: api.ErrorBody{Type: api.ErrAPI, Message: "internal server error"}, RequestID: requestID,
	})
	return out
}
