package app

import (
	"runtime/debug"
	"testing"
)

// TestCollector has garbage collected earlier while many streams are open, and
// leaves alone what the operator has set.
func TestCollector(t *testing.T) {
	percent := func() int {
		p := debug.SetGCPercent(100)
		debug.SetGCPercent(p)
		return p
	}
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	c := newCollector()
	for _, step := range []struct{ open, percent int }{{1, usualPercent}, {manyStreams, fullPercent}, {manyStreams - 1, fullPercent}, {manyStreams / 2, usualPercent}, {manyStreams - 1, usualPercent}} {
		if c.streams(step.open); percent() != step.percent {
			t.Errorf("%d streams: %d %%, want %d", step.open, percent(), step.percent)
		}
	}
	debug.SetGCPercent(150)
	c = newCollector()
	if c.streams(manyStreams); percent() != 150 {
		t.Errorf("the operator's 150 %% became %d", percent())
	}
}
