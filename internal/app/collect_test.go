package app

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func gcPercent() int {
	p := debug.SetGCPercent(100)
	debug.SetGCPercent(p)
	return p
}

// TestCollector has garbage collected the later the less is in use, earlier
// while many streams are open, and leaves alone what the operator has set.
func TestCollector(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	runtime.GC()
	c := newCollector(planePercent)
	few := gcPercent()
	if few <= planePercent {
		t.Errorf("of a small process: %d %%", few)
	}
	for _, step := range []struct{ open, percent int }{{1, few}, {manyStreams, fullPercent}, {manyStreams - 1, fullPercent}, {manyStreams / 2, few}, {manyStreams - 1, few}} {
		if c.streams(step.open); gcPercent() != step.percent {
			t.Errorf("%d streams: %d %%, want %d", step.open, gcPercent(), step.percent)
		}
	}
	held := make([]byte, 2*litter)
	for end := time.Now().Add(10 * time.Second); gcPercent() != planePercent; runtime.GC() {
		if time.Now().After(end) {
			t.Fatalf("with %d MiB in use: %d %%, want %d", len(held)>>20, gcPercent(), planePercent)
		}
	}
	runtime.KeepAlive(held)
	debug.SetGCPercent(150)
	c.adjust()
	c = newCollector(planePercent)
	if c.streams(manyStreams); gcPercent() != 150 {
		t.Errorf("the operator's 150 %% became %d", gcPercent())
	}
}
