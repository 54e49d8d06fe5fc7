package worker

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
)

const (
	beatFirstEvery = 30 * time.Second // before a TTL is known
	beatFirstTTL   = 90 * time.Second // likewise, the staleness ceiling
	beatMaxEvery   = 30 * time.Second
	beatMinEvery   = time.Second
	maxBeat        = 256                    // bytes of a beat's value
	beatRetry      = 250 * time.Millisecond // first pause after a beat that failed; doubles up to the interval
)

// LeaseNews is what a lease has to say to its holder.
type LeaseNews string

const (
	LeaseStopping LeaseNews = "stopping" // finish and let go; the lease goes on
	LeaseStopped  LeaseNews = "stopped"  // it is over: cancel
	LeaseRefused  LeaseNews = "refused"  // beats are refused for good: cancel
	LeaseLost     LeaseNews = "lost"     // somebody else's: cancel, and touch the item no more
)

// lease keeps one item's lease alive from the ack on.
type lease struct {
	// send sends one beat, tried once.
	send func(ctx context.Context, expected string) (*api.Heartbeat, error)
	// tell hears the news; stopping may come once, each other ends the lease.
	tell func(LeaseNews)
	log  *slog.Logger
	// last is the expected value of the next beat, NoHeartbeat at first.
	last string
	// from is when a former worker's last beat that it noted was sent; it may
	// have sent one more. Zero for a lease that begins here.
	from time.Time
	// asks are answered with a beat at once; the channel in one is closed
	// when its news has been told. nil: nobody asks.
	asks chan chan struct{}

	ttl     time.Duration
	lastOK  time.Time // when the last beat that was accepted had been sent
	doubt   time.Time // when the first one was sent that may have been accepted since without our knowing, zero for none
	stopped bool      // stopping has been told
	fails   int
}

// run beats until ctx ends or the lease does.
func (l *lease) run(ctx context.Context) {
	l.lastOK = time.Now()
	if !l.from.IsZero() {
		l.lastOK, l.doubt = l.from, l.from
	}
	if l.last == "" {
		l.last = api.NoHeartbeat
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var asked chan struct{}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case asked = <-l.asks:
		}
		next, news := l.beat(ctx)
		if ctx.Err() != nil {
			return
		}
		switch news {
		case "":
		case LeaseStopping:
			if !l.stopped {
				l.stopped = true
				l.tell(news)
			}
		default:
			l.tell(news)
			closeIf(asked)
			return
		}
		closeIf(asked)
		timer.Reset(next)
	}
}

func closeIf(ch chan struct{}) {
	if ch != nil {
		close(ch)
	}
}

// beat sends one beat and says when the next one is due.
func (l *lease) beat(ctx context.Context) (next time.Duration, news LeaseNews) {
	sent := time.Now()
	ceiling := l.lastOK.Add(l.ceiling())
	reqCtx, cancel := context.WithDeadline(ctx, earlier(sent.Add(l.every()), ceiling))
	hb, err := l.send(reqCtx, l.last)
	cancel()
	if err == nil {
		return l.accepted(hb, sent)
	}
	if ctx.Err() != nil {
		return l.every(), "" // cut off by the item's end: no failure
	}
	status := client.StatusOf(err)
	if status == http.StatusPreconditionFailed {
		state, ok := leaseState(err)
		switch {
		case !ok || !l.ours(state, sent):
			return 0, LeaseLost
		case !l.shows(state):
			l.log.Info("a beat's answer was lost; the lease is still ours")
			l.adopt(*state.LastHeartbeat, state.TTLSeconds, l.doubt)
			return l.due(), l.stateNews(state.State)
		}
		// As we know it: that beat should have been accepted, and was not.
	} else if status != 0 && !temporary(err) {
		l.log.Error("beats are refused", "error", err)
		return 0, LeaseRefused
	} else if status != http.StatusTooManyRequests && l.doubt.IsZero() {
		l.doubt = sent
	}
	l.fails++
	if !time.Now().Before(ceiling) {
		l.log.Error("no beat came through for the whole of the lease", "error", err)
		return 0, LeaseLost
	}
	l.log.Warn("a beat failed; trying again", "error", err, "failures", l.fails)
	pause := jitter(min(beatRetry<<min(l.fails-1, 8), l.every()))
	return min(pause, time.Until(ceiling)), ""
}

func (l *lease) accepted(hb *api.Heartbeat, sent time.Time) (time.Duration, LeaseNews) {
	if !hb.LeaseExtended && hb.State != api.WorkStopping {
		return 0, LeaseStopped
	}
	if hb.State == api.WorkStopped {
		return 0, LeaseStopped
	}
	l.adopt(hb.LastHeartbeat, hb.TTLSeconds, sent)
	return l.due(), l.stateNews(hb.State)
}

func (l *lease) adopt(last string, ttlSeconds int, sent time.Time) {
	if last != "" && len(last) <= maxBeat {
		l.last = last
	}
	if ttlSeconds > 0 {
		l.ttl = ttlOf(ttlSeconds)
	}
	l.lastOK, l.doubt, l.fails = sent, time.Time{}, 0
}

// due is how long the next beat has time.
func (l *lease) due() time.Duration { return max(0, time.Until(l.lastOK.Add(l.every()))) }

func (l *lease) stateNews(s api.WorkState) LeaseNews {
	switch s {
	case api.WorkStopping:
		return LeaseStopping
	case api.WorkStopped:
		return LeaseStopped
	}
	return ""
}

// ours says whether the state in a 412 is that of our own lease: it shows our
// last beat, or another one that only we can have sent, because a beat of ours
// is in doubt and our lease cannot have lapsed meanwhile.
func (l *lease) ours(s api.LeaseState, sent time.Time) bool {
	if s.State == api.WorkStopped || s.State == api.WorkQueued {
		return false
	}
	lasts := l.ceiling()
	if l.ttl <= 0 && s.TTLSeconds > 0 {
		lasts = min(lasts, ttlOf(s.TTLSeconds))
	}
	if sent.Sub(l.lastOK) >= lasts {
		return false
	}
	return l.shows(s) || s.LastHeartbeat != nil && !l.doubt.IsZero()
}

// shows says whether the state has the beat that we know as the last one.
func (l *lease) shows(s api.LeaseState) bool { return orNoHeartbeat(s.LastHeartbeat) == l.last }

func orNoHeartbeat(last *string) string {
	if last == nil {
		return api.NoHeartbeat
	}
	return *last
}

// KeepLease beats for a claimed item until ctx ends or the lease does, for
// callers that serve items by themselves. The client's credential is the
// item's token or the environment's key. tell hears the news, from this
// goroutine: LeaseStopping may come once and the lease goes on, each other ends
// it.
func KeepLease(ctx context.Context, c *client.Client, item Item, log *slog.Logger, tell func(LeaseNews)) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c = c.WithRetries(0)
	l := &lease{last: item.LastHeartbeat, tell: tell, log: log, send: func(ctx context.Context, expected string) (*api.Heartbeat, error) {
		return c.Beat(ctx, item.Work.EnvironmentID, item.Work.ID, expected, 0)
	}}
	l.run(ctx)
}

// every is the time between two beats.
func (l *lease) every() time.Duration {
	if l.ttl <= 0 {
		return beatFirstEvery
	}
	return max(beatMinEvery, min(l.ttl/2, beatMaxEvery))
}

// ttlOf is a lease's TTL as it was told, a day at most.
func ttlOf(seconds int) time.Duration { return time.Duration(min(seconds, 24*60*60)) * time.Second }

// ceiling is how long the lease is believed to hold without a beat.
func (l *lease) ceiling() time.Duration {
	if l.ttl <= 0 {
		return beatFirstTTL
	}
	return l.ttl
}

func leaseState(err error) (api.LeaseState, bool) {
	e, ok := errors.AsType[*client.Error](err)
	if !ok {
		return api.LeaseState{}, false
	}
	return e.Lease()
}

// temporary says whether the same request may succeed later: no answer at
// all, 408, 409, 429 and 5xx.
func temporary(err error) bool {
	e, ok := errors.AsType[*client.Error](err)
	return !ok || e.Temporary()
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
