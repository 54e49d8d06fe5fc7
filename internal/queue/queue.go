// Package queue is the queue of work: items are offered inside the caller's
// transaction, delivered to polling workers, leased by acks and beats, and
// offered again when a holder is lost.
//
// One delivery is one row: a work id, a sessions token, a fence. Whatever
// ends a delivery early (a lapse, a reclaim, the holder's early stop) stops
// its row and makes a new one under a new id, so a worker that comes back
// late holds nothing. A session has one item at most that is not stopped.
// All limits are in rows and survive a restart.
//
// Locks are taken in one order: the session, then its item. A delivery, an
// ack, a beat and a stop that leaves nothing behind lock the item alone.
package queue

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

// Config tunes a Queue. Zero fields get the defaults named beside them.
type Config struct {
	// GiveUp ends the turn of a session that no worker serves, with an error
	// its client sees: open calls are void afterwards. The queue stores s. A
	// queue without it stops the item and leaves the session waiting.
	GiveUp func(tx store.Tx, s *plane.Session, reason string) error

	Lease        time.Duration // 60 s; environments may set berth.lease_ttl_seconds
	Startup      time.Duration // from ack to first beat: 120 s; berth.startup_seconds
	Reoffer      time.Duration // pause after a holder's early stop: 10 s, doubling
	MaxTries     int           // deliveries in a row without a result: 5
	Unattended   time.Duration // a session without input is let go after: 60 s
	Affinity     time.Duration // how long the last holder is preferred: 500 ms
	AffinitySeen time.Duration // if it polled this recently: 2 s
	StopGrace    time.Duration // a stopping holder's time to clean up: 5 min
	Stall        time.Duration // longest silence of a session with open calls: 1 h
	Retention    time.Duration // of stopped items: 7 days
	Sweep        time.Duration // safety net behind the sweep's own alarms: 5 s

	Clock Clock        // the system's
	Log   *slog.Logger // slog.Default()
}

// Clock tells the time and wakes up. Tests bring their own.
type Clock interface {
	Now() time.Time
	// AfterFunc calls f once after d, on a goroutine of its own; stop
	// prevents a call that has not begun.
	AfterFunc(d time.Duration, f func()) (stop func())
}

type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }
func (systemClock) AfterFunc(d time.Duration, f func()) func() {
	t := time.AfterFunc(d, f)
	return func() { t.Stop() }
}

// Queue hands out work. Safe for concurrent use. Start it before Poll is
// called and Stop it after; Offer, Progress and EndSession need no start.
type Queue struct {
	st  store.Store
	cfg Config
	log *slog.Logger

	poke chan struct{} // the sweep looks again
	mark chan struct{} // sessions were streamed

	mu       sync.Mutex
	running  bool
	quit     chan struct{} // closed by Stop
	loops    sync.WaitGroup
	unlisten func()
	nextLook time.Time // when the sweep wakes up by itself; zero while it looks
	streamed map[string]struct{}

	rooms rooms // waiting polls, by environment
	seen  roll  // who polled when
}

// New makes a Queue that is not yet running.
func New(st store.Store, cfg Config) *Queue {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&cfg.Lease, 60*time.Second)
	def(&cfg.Startup, 120*time.Second)
	def(&cfg.Reoffer, 10*time.Second)
	def(&cfg.Unattended, 60*time.Second)
	def(&cfg.Affinity, 500*time.Millisecond)
	def(&cfg.AffinitySeen, 2*time.Second)
	def(&cfg.StopGrace, 5*time.Minute)
	def(&cfg.Stall, time.Hour)
	def(&cfg.Retention, 7*24*time.Hour)
	def(&cfg.Sweep, 5*time.Second)
	if cfg.MaxTries == 0 {
		cfg.MaxTries = 5
	}
	if cfg.Clock == nil {
		cfg.Clock = systemClock{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	q := &Queue{
		st: st, cfg: cfg, log: cfg.Log,
		poke: make(chan struct{}, 1), mark: make(chan struct{}, 1),
		quit: make(chan struct{}), streamed: map[string]struct{}{},
	}
	q.rooms.clock = cfg.Clock
	return q
}

// Start starts the sweep and listens for offers. Twice is fine.
func (q *Queue) Start() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running {
		return
	}
	q.running = true
	q.quit = make(chan struct{})
	q.rooms.open()
	q.unlisten = q.st.Listen(func(n store.Note) {
		switch {
		case n.Lost:
			q.rooms.wakeEverybody()
		case n.Environment != "":
			q.rooms.wakeOne(n.Environment)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	quit := q.quit
	q.loops.Go(func() { <-quit; cancel() })
	q.loops.Go(func() { q.sweepLoop(ctx, quit) })
	q.loops.Go(func() { q.markLoop(quit) })
}

// Stop answers waiting polls with nothing and returns when all goroutines are
// gone. Twice is fine.
func (q *Queue) Stop() {
	q.mu.Lock()
	if !q.running {
		q.mu.Unlock()
		q.loops.Wait()
		return
	}
	q.running = false
	close(q.quit)
	unlisten := q.unlisten
	q.mu.Unlock()
	unlisten()
	q.rooms.close()
	q.loops.Wait()
}

// now is the time to the microsecond, as the store keeps it.
func (q *Queue) now() time.Time { return q.cfg.Clock.Now().UTC().Truncate(time.Microsecond) }

// quitting is closed when the queue stops.
func (q *Queue) quitting() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.quit
}
