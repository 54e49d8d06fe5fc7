package worker

import (
	"context"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Pace is how eagerly an empty queue is polled.
type Pace string

const (
	// PaceAuto polls again at once where the server holds polls, and pauses
	// like the official worker where it does not, and on Anthropic's and
	// AWS's origins always.
	PaceAuto Pace = "auto"
	// PaceOfficial pauses 1 to 3 s after every empty poll.
	PaceOfficial Pace = "official"
	// PaceEager is PaceAuto on every origin.
	PaceEager Pace = "eager"
)

const (
	pollFloor     = 20 * time.Millisecond // between two polls, at least
	heldShare     = 0.8                   // of block: an empty answer that took as long was held
	emptyPauseMin = time.Second
	emptyPauseMax = 3 * time.Second
	errorPauseMin = time.Second
	errorPauseMax = 60 * time.Second
	badPauseMin   = 100 * time.Millisecond // after an item that could not be served
	badPauseMax   = 10 * time.Second
	nothingMax    = 2 * time.Second // the longest after one that was sound and over at once, with nothing done
	lasting       = 5 * time.Second // an item that took as long was not over at once
)

// pacer says how long to wait between polls. It belongs to the poll loop.
type pacer struct {
	block    time.Duration
	official bool
	failures int
}

// newPacer makes a pacer; polls that are not held (block 0) are never eager.
func newPacer(pace Pace, baseURL string, block time.Duration) *pacer {
	return &pacer{block: block, official: block == 0 || pace == PaceOfficial || pace != PaceEager && officialOrigin(baseURL)}
}

// officialOrigin says whether the URL is Anthropic's or AWS's.
func officialOrigin(baseURL string) bool {
	if baseURL == "" {
		return true
	}
	u, err := url.Parse(baseURL)
	if err != nil {
		return true
	}
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	for _, domain := range []string{"anthropic.com", "claude.com", "amazonaws.com", "api.aws", "aws.dev"} {
		if host == domain || strings.HasSuffix(host, "."+domain) {
			return true
		}
	}
	return false
}

// reset forgets the polls that failed.
func (p *pacer) reset() { p.failures = 0 }

// empty says how long to wait after a poll that took took and gave nothing.
func (p *pacer) empty(took time.Duration) time.Duration {
	p.failures = 0
	if !p.official && took >= time.Duration(heldShare*float64(p.block)) {
		return max(0, pollFloor-took)
	}
	return between(emptyPauseMin, emptyPauseMax)
}

// failed says how long to wait after a poll that failed.
func (p *pacer) failed() time.Duration {
	d := errorPauseMax
	if p.failures < 6 {
		d = min(errorPauseMin<<p.failures, errorPauseMax)
	}
	p.failures++
	return jitter(d)
}

// streak counts items in a row that came to nothing, so that a queue which
// gives nothing else is not asked all the time. Safe for concurrent use.
type streak struct {
	mu    sync.Mutex
	n     int
	until time.Time
}

// failed says how long to wait for the next item, most at most.
func (s *streak) failed(most time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := jitter(min(badPauseMin<<min(s.n, 10), most))
	s.n++
	s.until = later(s.until, time.Now().Add(d))
	return d
}

func (s *streak) passed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n, s.until = 0, time.Time{}
}

// over waits until the next item may be asked for.
func (s *streak) over(ctx context.Context) bool {
	s.mu.Lock()
	until := s.until
	s.mu.Unlock()
	return sleep(ctx, time.Until(until))
}

// jitter spreads a pause over its upper half.
func jitter(d time.Duration) time.Duration { return between(d/2, d) }

func between(low, high time.Duration) time.Duration {
	if high <= low {
		return low
	}
	return low + rand.N(high-low)
}
