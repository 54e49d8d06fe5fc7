package api

import "fmt"

// ErrorType is the error.type of an error answer.
type ErrorType string

const (
	ErrInvalidRequest  ErrorType = "invalid_request_error"
	ErrAuthentication  ErrorType = "authentication_error"
	ErrBilling         ErrorType = "billing_error"
	ErrPermission      ErrorType = "permission_error"
	ErrNotFound        ErrorType = "not_found_error"
	ErrConflict        ErrorType = "conflict_error"
	ErrRequestTooLarge ErrorType = "request_too_large"
	ErrRateLimit       ErrorType = "rate_limit_error"
	ErrAPI             ErrorType = "api_error"
	ErrTimeout         ErrorType = "timeout_error"
	ErrOverloaded      ErrorType = "overloaded_error"

	ErrMemoryPrecondition ErrorType = "memory_precondition_failed_error"
	ErrMemoryPathConflict ErrorType = "memory_path_conflict_error"
)

// ErrorResponse is the body of every answer that is not 2xx, and the data of
// an "error" frame on a stream.
type ErrorResponse struct {
	Type      string    `json:"type"` // "error"
	Error     ErrorBody `json:"error"`
	RequestID string    `json:"request_id,omitempty"`
}

// ErrorBody says what went wrong. Details is free of form; error_code in it
// is stable.
type ErrorBody struct {
	Type    ErrorType      `json:"type"`
	Message string         `json:"message"`
	Details map[string]any `json:"details,omitempty"`
}

// FieldError is a request that does not fit its schema. Path is the dotted
// path of the field at fault ("events[2].content[0].text"), empty for the
// body as a whole.
type FieldError struct {
	Path    string
	Problem string
}

func (e *FieldError) Error() string {
	if e.Path == "" {
		return e.Problem
	}
	return fmt.Sprintf("%s: %s", e.Path, e.Problem)
}
