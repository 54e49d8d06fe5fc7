package turn

import (
	"testing"
	"time"
)

// The pauses between tries double up to a bound, differ from session to
// session, and are no shorter than what a provider asks for within reason.
func TestRetriesPause(t *testing.T) {
	r := &Runner{cfg: Config{RetryFirst: time.Second, RetryMost: time.Minute}}
	for tries, most := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 7: time.Minute, 100: time.Minute} {
		seen := map[time.Duration]bool{}
		for range 100 {
			d := r.pause(tries, 0)
			if d < most/2 || d > most {
				t.Fatalf("after %d tries: %s, want %s to %s", tries, d, most/2, most)
			}
			seen[d] = true
		}
		if len(seen) < 50 {
			t.Errorf("after %d tries a hundred sessions come back at %d times", tries, len(seen))
		}
	}
	for asked, want := range map[time.Duration]time.Duration{30 * time.Second: 30 * time.Second, 24 * time.Hour: 5 * time.Minute} {
		if d := r.pause(1, asked); d != want {
			t.Errorf("asked to wait for %s: %s, want %s", asked, d, want)
		}
	}
}
