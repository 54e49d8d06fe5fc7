package agent

import (
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
)

// TestSetClock has a record say since when it is a session's: what is left of the
// session's time does not change with the machine's clock from then on.
func TestSetClock(t *testing.T) {
	b := &Box{record: sandbox.Record{
		StartedAt: time.Now().Add(-time.Minute).Round(0), Spec: sandbox.Spec{Limits: sandbox.Limits{SessionTime: time.Hour}},
	}}
	b.arm()
	defer b.deadline.Stop()
	if b.until == b.until.Round(0) { // without a reading of the other clock
		t.Error("it ends at a time of the machine's clock")
	}
	if left := time.Until(b.until); left > 59*time.Minute || left < 58*time.Minute {
		t.Errorf("%v are left", left)
	}
}
