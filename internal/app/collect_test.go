package app

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"testing"
	"time"
)

func gcPercent() int {
	state := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(state)
	return int(state[0].Value.Uint64())
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
	for end := time.Now().Add(time.Minute); gcPercent() != planePercent; runtime.GC() {
		if time.Now().After(end) {
			t.Fatalf("with %d MiB in use: %d %%, want %d", len(held)>>20, gcPercent(), planePercent)
		}
	}
	runtime.KeepAlive(held)
	for _, percent := range []int{150, 100, 0} {
		t.Setenv("GOGC", strconv.Itoa(percent))
		debug.SetGCPercent(percent)
		c.adjust()
		c = newCollector(planePercent)
		c.streams(manyStreams)
		if c.adjust(); gcPercent() != percent {
			t.Errorf("the operator's %d %% became %d", percent, gcPercent())
		}
	}
}
