package worker

import (
	"context"
	"log/slog"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
)

// Preparer brings what comes with a session, such as skills, before its
// sandbox opens. Safe for concurrent use.
type Preparer interface {
	// Prepare is called once for a session that is taken up, when it first
	// needs its sandbox, and again after an error. A failure that the session
	// can do without is a warning. The error is the answer to the call that
	// waits for the sandbox; see OpenError.
	Prepare(ctx context.Context, in PrepareInput) (*Prepared, error)
}

// PrepareInput is a session to prepare for.
type PrepareInput struct {
	Session api.Session
	Client  *client.Client // with the credential of the session's item
	Log     *slog.Logger
}

// Prepared is what has been made ready. The zero value is nothing.
type Prepared struct {
	Mounts []Mount
	// Warnings are told with the session's next result, a line each, logged and
	// counted. They must hold nothing that the session may not know.
	Warnings []string
	// After follows each call of the session, before its result is posted; nil
	// does nothing.
	After func(ctx context.Context)
	// Finish is called once, before the sandbox closes and the item is stopped;
	// nil does nothing. Its error is logged.
	Finish func(ctx context.Context) error
}
