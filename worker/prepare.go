package worker

import (
	"context"
	"errors"
	"log/slog"
	"time"

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
	Token   bool           // that is the item's own sessions token, not the environment's key
	// Warn tells the session something with its next result, in one line that
	// holds nothing the session may not know; it is logged and counted.
	Warn func(text string)
	Log  *slog.Logger
}

// Prepared is what has been made ready. The zero value is nothing.
type Prepared struct {
	Mounts []Mount
	// Folders are directories of the session's own that the sandbox must have.
	Folders []Folder
	// Warnings are told with the session's next result, a line each, logged and
	// counted. They must hold nothing that the session may not know.
	Warnings []string
	// Opened follows each opening of the session's sandbox, before its first
	// call; nil does nothing. After an error the sandbox is closed again and the
	// error is Sandboxes.Open's.
	Opened func(ctx context.Context, sb Sandbox) error
	// After follows each call of the session, before its result is posted; nil
	// does nothing.
	After func(ctx context.Context)
	// Finish is called once, before the sandbox closes and the item is stopped;
	// nil does nothing. end is why the session is let go. Its ctx bounds it to
	// FinishLimit and does not end with the work, but when the item's lease is
	// lost. Its error is logged.
	Finish func(ctx context.Context, end End) error
}

// FinishLimit is how long the end of what was prepared may take. The item's
// lease is kept meanwhile.
const FinishLimit = 75 * time.Second

// Preparers prepare one after the other, as one.
type Preparers []Preparer

// Prepare joins what each has made ready. After an error of one what those
// before it have made ready is finished.
func (all Preparers) Prepare(ctx context.Context, in PrepareInput) (*Prepared, error) {
	var got []*Prepared
	joined := &Prepared{
		Opened: func(ctx context.Context, sb Sandbox) error {
			for _, p := range got {
				if p.Opened != nil {
					if err := p.Opened(ctx, sb); err != nil {
						return err
					}
				}
			}
			return nil
		},
		After: func(ctx context.Context) {
			for _, p := range got {
				if p.After != nil {
					p.After(ctx)
				}
			}
		},
		Finish: func(ctx context.Context, end End) error {
			var errs []error
			for _, p := range got {
				if p.Finish != nil {
					errs = append(errs, p.Finish(ctx, end))
				}
			}
			return errors.Join(errs...)
		},
	}
	for _, one := range all {
		p, err := one.Prepare(ctx, in)
		if err != nil {
			return nil, errors.Join(err, joined.Finish(ctx, EndFailed))
		}
		got = append(got, p)
		joined.Mounts = append(joined.Mounts, p.Mounts...)
		joined.Folders = append(joined.Folders, p.Folders...)
		joined.Warnings = append(joined.Warnings, p.Warnings...)
	}
	return joined, nil
}
