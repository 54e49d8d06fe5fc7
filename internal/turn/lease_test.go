package turn

import (
	"context"
	"testing"

	"github.com/berthdev/berth/internal/plane"
)

// A look at a lease that began before this process claimed the next try sees
// the new fence: that is no loss.
func TestANewerLeaseOfOurOwnIsNotLost(t *testing.T) {
	for _, tc := range []struct {
		name string
		row  plane.Session
		cut  bool
	}{
		{"ours", plane.Session{TurnOwner: "us", TurnFence: 3}, false},
		{"the next try's", plane.Session{TurnOwner: "us", TurnFence: 4}, false},
		{"released", plane.Session{TurnFence: 4}, true},
		{"another's", plane.Session{TurnOwner: "them", TurnFence: 4}, true},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		r := &Runner{owner: "us", running: map[string]*run{"sesn_1": {fence: 3, cancel: cancel}}}
		r.lost("sesn_1", tc.row, 3, nil)
		if cut := ctx.Err() != nil; cut != tc.cut {
			t.Errorf("%s: cut off %t", tc.name, cut)
		}
		cancel(nil)
	}
}
