package httpapi

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/berthdev/berth/internal/plane"
)

// limiter bounds the requests of each credential: a bucket that fills at the
// allowed rate and holds a tenth of a minute's worth, at least one.
type limiter struct {
	every time.Duration // one request; 0 is no limit
	burst float64

	mu      sync.Mutex
	buckets map[string]bucket
	swept   time.Time
}

type bucket struct {
	left float64
	at   time.Time
}

func newLimiter(perMinute int) *limiter {
	l := &limiter{buckets: map[string]bucket{}}
	if perMinute > 0 {
		l.every = time.Minute / time.Duration(perMinute)
		l.burst = max(1, float64(perMinute)/10)
	}
	return l
}

// take uses up one request of key or says when there will be one.
func (l *limiter) take(key string, now time.Time) error {
	if l.every <= 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.swept) > time.Minute {
		for k, b := range l.buckets {
			if now.Sub(b.at) > time.Minute {
				delete(l.buckets, k) // it is full again
			}
		}
		l.swept = now
	}
	b, ok := l.buckets[key]
	if !ok {
		b = bucket{l.burst, now}
	}
	b.left = min(l.burst, b.left+float64(now.Sub(b.at))/float64(l.every))
	b.at = now
	if b.left >= 1 {
		b.left--
		l.buckets[key] = b
		return nil
	}
	l.buckets[key] = b
	return retryError{
		plane.Errorf(plane.RateLimited, "too many requests with this credential"),
		time.Duration((1 - b.left) * float64(l.every)),
	}
}

// streamCount bounds the open streams.
type streamCount struct {
	max  int64
	told func(open int) // nil for nobody
	open atomic.Int64
}

func (n *streamCount) enter() error {
	if n.add(1) > n.max {
		n.add(-1)
		return retryError{plane.Errorf(plane.RateLimited, "too many event streams are open on this server"), 5 * time.Second}
	}
	return nil
}

func (n *streamCount) leave() { n.add(-1) }

func (n *streamCount) add(d int64) int64 {
	open := n.open.Add(d)
	if n.told != nil {
		n.told(int(open))
	}
	return open
}
