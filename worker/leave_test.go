package worker

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/berthdev/berth/toolset"
)

// hollow opens nothing.
type hollow struct{}

func (hollow) Open(context.Context, Opening) (Sandbox, bool, error) { return nil, false, nil }

// TestLeaveWhileASandboxIsFilled: what follows an opening, such as a download,
// keeps no worker from leaving.
func TestLeaveWhileASandboxIsFilled(t *testing.T) {
	g := newGate()
	p := newPlace(t.Context(), hollow{}, func(toolset.Host) Tools { return nil }, slog.New(slog.DiscardHandler))
	p.inside = g.beat
	left := errors.New("not called")
	p.prepared = &Prepared{Opened: func(ctx context.Context, _ Sandbox) error {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		left = g.leave(ctx)
		return nil
	}}
	if err := p.open(t.Context(), &opening{}); err != nil || left != nil {
		t.Errorf("left: %v, opened: %v", left, err)
	}
}
