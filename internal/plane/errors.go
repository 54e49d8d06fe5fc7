// Package plane holds the control plane's words and rules: what an
// environment, agent, session, event, call and work item are, which requests
// make sense, and the kinds of error. It does no input or output.
package plane

import (
	"errors"
	"fmt"
)

// Kind is what sort of failure an Error is. internal/httpapi alone turns
// kinds into statuses.
type Kind int

const (
	Internal        Kind = iota
	Invalid              // 400: the request makes no sense; repeating it will not help
	Unauthenticated      // 401: no credential, or an unknown or revoked one
	Forbidden            // 403: a good credential for something else
	NotFound             // 404
	Conflict             // 409: answered with x-should-retry: false
	LeaseLost            // 412: a beat that does not continue the lease
	TooLarge             // 413
	RateLimited          // 429
	Unavailable          // 503: try again; the cause is logged
)

// Error is a failure with a kind and a message fit for the client's eyes.
type Error struct {
	Kind    Kind
	Message string
	Code    string         // details.error_code, when the contract names one
	Field   string         // dotted path of the request field at fault
	Details map[string]any // more details, e.g. current_state of a LeaseLost
	Err     error          // the cause; logged, never sent
}

func (e *Error) Error() string {
	msg := e.Message
	if e.Field != "" {
		msg = e.Field + ": " + msg
	}
	if e.Err != nil {
		msg += ": " + e.Err.Error()
	}
	return msg
}

func (e *Error) Unwrap() error { return e.Err }

// Errorf is an error of a kind. A %w operand becomes its hidden cause only
// when it stands in Wrap; the formatted text is sent to the client.
func Errorf(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// Wrap hides cause behind a message of a kind.
func Wrap(kind Kind, cause error, format string, args ...any) *Error {
	e := Errorf(kind, format, args...)
	e.Err = cause
	return e
}

// In names the request field at fault.
func (e *Error) In(field string) *Error { e.Field = field; return e }

// WithCode sets details.error_code.
func (e *Error) WithCode(code string) *Error { e.Code = code; return e }

// KindOf is the kind of the first *Error in err's chain, else Internal.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}
