package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
)

const (
	pollSlack   = 10 * time.Second // of a poll's answer beyond its block
	ackTimeout  = 5 * time.Second  // of one try
	ackPause    = 100 * time.Millisecond
	ackPauseMax = time.Second
	stopTimeout = 10 * time.Second // of all tries to stop an item
	stopPause   = 200 * time.Millisecond
	idleLog     = 5 * time.Minute
)

// PollerConfig says how to poll. Zero fields take the defaults of Config.
type PollerConfig struct {
	// Client's credential is the environment's key.
	Client        *client.Client
	EnvironmentID string
	WorkerID      string
	Pace          Pace
	Block         time.Duration
	Reclaim       time.Duration
	// Drain ends the poller (io.EOF) at the first empty poll.
	Drain bool
	// Wake, where it is set, is waited for after an empty poll, and polls are
	// not held: see Config.Wake.
	Wake <-chan struct{}
	// Sweep is how long a poller with Wake waits at most: see Config.Sweep.
	Sweep time.Duration
	// AutoStop stops an item gracefully when the next one is asked for, and
	// at Close: for callers that hand an item to somebody and wait.
	AutoStop bool
	Logger   *slog.Logger
	Counters Counters
}

// Poller gives claimed items one by one, for callers that serve them by
// themselves. One goroutine uses it; the items may be served by others, and
// with AutoStop off at the same time.
type Poller struct {
	cfg      PollerConfig
	pacer    *pacer
	log      *slog.Logger
	counters Counters

	next     time.Time // before which nothing is polled
	lastNote time.Time // when an empty queue was last logged
	bad      streak    // of items that could not be acked
	held     *api.Work // the item to stop, with AutoStop
	parent   string    // the traceparent of the last answer
}

// NewPoller makes a poller. Client and EnvironmentID are required.
func NewPoller(cfg PollerConfig) (*Poller, error) {
	if cfg.Client == nil || cfg.EnvironmentID == "" {
		return nil, errors.New("worker: a Poller needs Client and EnvironmentID")
	}
	if cfg.Block > DefaultBlock {
		return nil, fmt.Errorf("worker: PollerConfig.Block is %v; it must be at most 999 ms", cfg.Block)
	}
	cfg.Client = cfg.Client.WithRetries(0)
	cfg.Block, cfg.Reclaim = pollTimes(cfg.Block, cfg.Reclaim, cfg.Wake != nil)
	if cfg.WorkerID == "" {
		cfg.WorkerID = newWorkerID()
	}
	p := &Poller{cfg: cfg, pacer: newPacer(cfg.Pace, cfg.Client.BaseURL(), cfg.Block), log: cfg.Logger, counters: cfg.Counters}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if p.counters == nil {
		p.counters = noCounters{}
	}
	return p, nil
}

// Next waits for an item and acks it. Nobody beats for it: that is the
// caller's to do, or of whoever it hands the item to. io.EOF is the end of a
// drain; any other error but the context's is for good.
func (p *Poller) Next(ctx context.Context) (Item, error) {
	p.release(ctx)
	for {
		w, err := p.poll(ctx)
		if err != nil {
			return Item{}, err
		}
		if acked, _, err := ack(ctx, p.cfg.Client, *w, p.cfg.Reclaim, p.log.With("work", w.ID)); err != nil || !acked {
			if ctx.Err() != nil {
				return Item{}, context.Cause(ctx)
			}
			p.next = time.Now().Add(p.bad.failed(badPauseMax))
			continue
		}
		p.bad.passed()
		p.counters.Claimed()
		if p.cfg.AutoStop {
			p.held = w
		}
		return Item{Work: *w, Acked: true, Traceparent: p.parent}, nil
	}
}

// Close stops the item that AutoStop has still to stop.
func (p *Poller) Close() { p.release(context.Background()) }

func (p *Poller) release(ctx context.Context) {
	if p.held == nil {
		return
	}
	stop(context.WithoutCancel(ctx), p.cfg.Client, *p.held, false, p.log.With("work", p.held.ID))
	p.held = nil
}

// poll waits for an item, which is not acked yet.
func (p *Poller) poll(ctx context.Context) (*api.Work, error) {
	for {
		if !sleep(ctx, time.Until(p.next)) {
			return nil, context.Cause(ctx)
		}
		began := time.Now()
		try, cancel := context.WithTimeout(ctx, p.cfg.Block+pollSlack)
		w, err := p.cfg.Client.Poll(try, p.cfg.EnvironmentID, client.Poll{
			Block: p.cfg.Block, ReclaimOlderThan: p.cfg.Reclaim, WorkerID: p.cfg.WorkerID,
			Heard: func(h http.Header) { p.parent = h.Get("Traceparent") },
		})
		cancel()
		took := time.Since(began)
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err != nil && !temporary(err):
			p.counters.Polled("error")
			return nil, pollError(err, p.cfg.EnvironmentID)
		case err != nil:
			p.counters.Polled("error")
			pause := pauseAfter(err, p.pacer.failed())
			p.log.Warn("a poll failed; trying again", "error", err, "pause", pause.Round(time.Millisecond))
			p.next = time.Now().Add(pause)
		case w != nil && !sound(w):
			p.counters.Polled("error")
			p.log.Warn("the control plane gave an item whose ids are none; leaving it", "work", clipped(w.ID), "session", clipped(w.Data.ID))
			p.next = time.Now().Add(p.pacer.failed())
		case w != nil:
			p.counters.Polled("item")
			p.pacer.reset()
			p.next = time.Now()
			p.lastNote = time.Time{}
			return w, nil
		default:
			p.counters.Polled("empty")
			if p.cfg.Drain {
				return nil, io.EOF
			}
			if p.cfg.Wake != nil {
				p.pacer.reset()
				p.wait(ctx)
				continue
			}
			p.next = time.Now().Add(p.pacer.empty(took))
			if time.Since(p.lastNote) >= idleLog {
				p.log.Info("no work in the queue", "environment", p.cfg.EnvironmentID)
				p.lastNote = time.Now()
			}
		}
	}
}

// wait waits until somebody says that there is work, or for so long that a
// word may have been lost.
func (p *Poller) wait(ctx context.Context) {
	var late <-chan time.Time
	if sweep := orDefault(p.cfg.Sweep, DefaultSweep); sweep > 0 {
		t := time.NewTimer(jitter(sweep))
		defer t.Stop()
		late = t.C
	}
	select {
	case <-p.cfg.Wake:
	case <-late:
	case <-ctx.Done():
	}
}

// pollTimes are the defaults of Block and Reclaim; a block of 0 is a poll that
// is not held.
func pollTimes(block, reclaim time.Duration, woken bool) (time.Duration, time.Duration) {
	if woken {
		return 0, orDefault(reclaim, webhookReclaim)
	}
	return max(0, orDefault(block, DefaultBlock)), orDefault(reclaim, DefaultReclaim)
}

// plainID says whether an id is fit for paths, logs and the environment of
// scripts: letters, digits and . _ : - behind the first, 256 at most.
func plainID(id string) bool {
	if id == "" || len(id) > 256 {
		return false
	}
	for i := range len(id) {
		switch c := id[i]; {
		case c >= '0' && c <= '9', c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z':
		case i > 0 && (c == '.' || c == '_' || c == ':' || c == '-'):
		default:
			return false
		}
	}
	return true
}

// sound says whether an item's ids are ids.
func sound(w *api.Work) bool {
	return plainID(w.ID) && (w.EnvironmentID == "" || plainID(w.EnvironmentID)) &&
		(w.Data.Type != "session" || plainID(w.Data.ID))
}

// clipped is an id that is none, fit for a log.
func clipped(id string) string { return fmt.Sprintf("%.100q", id) }

// pollError says in an operator's words why the queue refuses this worker.
func pollError(err error, environment string) error {
	switch client.StatusOf(err) {
	case http.StatusUnauthorized:
		return fmt.Errorf("the control plane refuses the environment key: it was revoked, or is another environment's; make a new one: %w", err)
	case http.StatusForbidden:
		return fmt.Errorf("the environment key is not for %s; give the environment's own: %w", environment, err)
	case http.StatusNotFound:
		return fmt.Errorf("there is no environment %s at this control plane; look at the environment id and the base URL: %w", environment, err)
	}
	return fmt.Errorf("poll for work: %w", err)
}

// ack takes an item off the queue. A failure that may pass is tried again as
// long as nobody else can have been given the item; then it is left alone,
// and the queue offers it again. answer is nil where none came of an ack that
// may have been accepted.
func ack(ctx context.Context, c *client.Client, w api.Work, window time.Duration, log *slog.Logger) (ok bool, answer *api.Work, err error) {
	deadline := time.Now().Add(window)
	doubt := false // an ack may have been accepted without our knowing
	for pause := ackPause; ; pause = min(pause*2, ackPauseMax) {
		try, cancel := context.WithTimeout(ctx, ackTimeout)
		answer, err := c.Ack(try, w.EnvironmentID, w.ID)
		cancel()
		status := client.StatusOf(err)
		switch {
		case err == nil:
			return true, answer, nil
		case ctx.Err() != nil:
			return false, nil, context.Cause(ctx)
		case status == http.StatusConflict && doubt:
			return true, nil, nil // ours, or the first beat says otherwise
		case status == http.StatusConflict:
			log.Info("the item is somebody else's")
			return false, nil, nil
		case !temporary(err):
			return false, nil, fmt.Errorf("ack %s: %w", w.ID, err)
		}
		doubt = doubt || status != http.StatusTooManyRequests
		wait := pauseAfter(err, jitter(pause))
		if time.Now().Add(wait).After(deadline) {
			return false, nil, fmt.Errorf("ack %s: %w", w.ID, err)
		}
		log.Warn("an ack failed; trying again", "error", err)
		if !sleep(ctx, wait) {
			return false, nil, context.Cause(ctx)
		}
	}
}

// stop ends an item, also when ctx has ended, but then it does not try for
// long. A conflict means that it is over already.
func stop(ctx context.Context, c *client.Client, w api.Work, force bool, log *slog.Logger) {
	limit := stopTimeout
	if ctx.Err() != nil {
		limit = farewell
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	for pause := stopPause; ; pause *= 2 {
		_, err := c.Stop(ctx, w.EnvironmentID, w.ID, force)
		if err == nil || client.StatusOf(err) == http.StatusConflict {
			return
		}
		if !temporary(err) || !sleep(ctx, pauseAfter(err, jitter(pause))) {
			log.Warn("the item could not be stopped; its lease will lapse", "error", err)
			return
		}
	}
}
