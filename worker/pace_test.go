package worker

import (
	"testing"
	"time"
)

func TestPaceFollowsBehaviour(t *testing.T) {
	const block = 999 * time.Millisecond
	tests := []struct {
		name     string
		pace     Pace
		origin   string
		took     time.Duration
		min, max time.Duration
	}{
		{"a held poll is repeated at once", PaceAuto, "http://10.0.0.1:8400", block, 0, 0},
		{"80 % of the block counts as held", PaceAuto, "http://10.0.0.1:8400", 800 * time.Millisecond, 0, 0},
		{"less does not", PaceAuto, "http://10.0.0.1:8400", 790 * time.Millisecond, time.Second, 3 * time.Second},
		{"an early answer pauses", PaceAuto, "http://10.0.0.1:8400", time.Millisecond, time.Second, 3 * time.Second},
		{"Anthropic pauses always", PaceAuto, "https://api.anthropic.com", block, time.Second, 3 * time.Second},
		{"the default origin is Anthropic's", PaceAuto, "", block, time.Second, 3 * time.Second},
		{"AWS pauses always", PaceAuto, "https://agents.us-east-1.amazonaws.com/x", block, time.Second, 3 * time.Second},
		{"a look-alike is no official origin", PaceAuto, "https://notanthropic.com", block, 0, 0},
		{"eager overrides the origin", PaceEager, "https://api.anthropic.com", block, 0, 0},
		{"eager still pauses after early answers", PaceEager, "https://api.anthropic.com", time.Millisecond, time.Second, 3 * time.Second},
		{"official pauses everywhere", PaceOfficial, "http://10.0.0.1:8400", block, time.Second, 3 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for range 50 {
				if got := newPacer(tt.pace, tt.origin, block).empty(tt.took); got < tt.min || got > tt.max {
					t.Fatalf("pause %v, want %v to %v", got, tt.min, tt.max)
				}
			}
		})
	}
	if got := newPacer(PaceEager, "http://x", 0).empty(0); got < time.Second {
		t.Errorf("polls that are not held are repeated after %v", got)
	}
	if got := newPacer(PaceAuto, "http://x", time.Millisecond).empty(time.Millisecond); got < 19*time.Millisecond {
		t.Errorf("the floor between polls is %v", got)
	}
}

func TestPaceBacksOffFromErrors(t *testing.T) {
	p := newPacer(PaceAuto, "http://x", time.Second)
	for _, full := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60} {
		full *= time.Second
		if got := p.failed(); got < full/2 || got > full {
			t.Errorf("pause %v, want %v to %v", got, full/2, full)
		}
	}
	p.reset()
	if got := p.failed(); got > time.Second {
		t.Errorf("after a success: %v", got)
	}
}
