// Package turn is the session loop: history in, model turn, events out, wait
// or continue. It alone changes sessions: what clients send is accepted here,
// and what the agent answers is written here, each as one transition.
//
// Read turn.go for the Runner's life, accept.go for what clients send,
// request.go for one model request from claim to commit, seat.go for the claim
// that comes with what made it wanted, retry.go for what happens when it fails,
// history.go for what the model is shown.
package turn

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/berthdev/berth/internal/events"
	"github.com/berthdev/berth/internal/model"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/queue"
	"github.com/berthdev/berth/internal/store"
)

// Config is what a Runner needs. Zero durations and counts get the defaults
// named beside them.
type Config struct {
	Store  store.Store
	Log    *events.Log
	Queue  *queue.Queue
	Models *model.Registry
	Logger *slog.Logger // slog.Default()

	// NoEnvironmentNote leaves out the note on the sandbox that is otherwise
	// added to the system prompt.
	NoEnvironmentNote bool

	Lease   time.Duration // of a turn: 15 s
	Renew   time.Duration // how often a running turn renews it: 5 s
	Sweep   time.Duration // safety net that looks for forgotten turns: 5 s
	Silence time.Duration // longest silence of a provider amid a request: 2 min

	Retries    int           // tries of one request before the turn gives up: 5
	RetryFirst time.Duration // pause before the second try: 1 s, doubling
	RetryMost  time.Duration // longest pause: 60 s
	Requests   int           // model requests at once: 1,000
	HistoryMax int64         // bytes of history kept in memory between turns: 128 MiB
}

// Runner runs the turns of sessions and takes what clients send. Start it
// before use and Stop it after; its other methods are safe for concurrent use
// and work whether it runs or not: a turn wanted while nobody runs is taken
// up at the next start.
type Runner struct {
	cfg   Config
	owner string // marks this process in the leases it holds

	slots chan struct{} // one per model request at once

	take, work         context.Context // end when the runner stops taking work, and when the work stops
	endTake, endWork   context.CancelCauseFunc
	turns, loops       sync.WaitGroup
	lookAgain          chan string // sessions that another process wrote to
	cancelListen       func()
	histories          historyCache
	startOnce, endOnce sync.Once

	mu      sync.Mutex
	started bool
	running map[string]*run // by session
}

// run is a session whose turn this process holds or tries to take.
type run struct {
	serving  bool                    // by a goroutine; the run stays as long, or while seats are kept
	seats    int                     // kept by transitions
	taken    *taken                  // what one of them took up, for the next step
	again    bool                    // look again when the present step is over
	fence    int64                   // of the lease, 0 while none is held
	cutBelow int64                   // leases with a smaller fence are gone
	cancel   context.CancelCauseFunc // ends the present model request or pause, nil between
}

var (
	errStopping = errors.New("the server is stopping")
	errCutOff   = errors.New("the turn was cut off")
	errSilent   = errors.New("the provider went silent")
)

// New makes a Runner that is not yet running.
func New(cfg Config) *Runner {
	def := func(d *time.Duration, to time.Duration) {
		if *d <= 0 {
			*d = to
		}
	}
	def(&cfg.Lease, 15*time.Second)
	def(&cfg.Renew, cfg.Lease/3)
	def(&cfg.Sweep, 5*time.Second)
	def(&cfg.Silence, 2*time.Minute)
	def(&cfg.RetryFirst, time.Second)
	def(&cfg.RetryMost, time.Minute)
	if cfg.Retries <= 0 {
		cfg.Retries = 5
	}
	if cfg.Requests <= 0 {
		cfg.Requests = 1000
	}
	if cfg.HistoryMax <= 0 {
		cfg.HistoryMax = 128 << 20
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	r := &Runner{
		cfg:       cfg,
		owner:     plane.NewID("turn_"),
		slots:     make(chan struct{}, cfg.Requests),
		lookAgain: make(chan string, 256),
		running:   map[string]*run{},
	}
	r.histories.most = cfg.HistoryMax
	r.take, r.endTake = context.WithCancelCause(context.Background())
	r.work, r.endWork = context.WithCancelCause(context.Background())
	return r
}

// Start takes up wanted turns until Stop. A Runner starts once.
func (r *Runner) Start(ctx context.Context) error {
	err := errors.New("turn: started twice")
	r.startOnce.Do(func() {
		err = nil
		if r.cfg.Store.Shared() {
			r.cancelListen = r.cfg.Store.Listen(r.hear)
		}
		r.mu.Lock()
		r.started = true
		r.mu.Unlock()
		if err = r.sweep(ctx); err != nil {
			r.endTake(errStopping)
			return
		}
		r.loops.Go(r.sweepLoop)
		if r.cfg.Store.Shared() {
			r.loops.Go(r.leaseLoop)
		}
	})
	return err
}

// Stop takes no more turns, lets running model requests end until ctx is done,
// then cuts them off; another replica or the next start goes on with them. It
// returns when all goroutines are gone. Twice is fine.
func (r *Runner) Stop(ctx context.Context) error {
	r.mu.Lock() // whoever has seen it run has begun its turn
	r.endTake(errStopping)
	r.mu.Unlock()
	r.endOnce.Do(func() {
		if r.cancelListen != nil {
			r.cancelListen()
		}
	})
	gone := make(chan struct{})
	go func() { r.turns.Wait(); close(gone) }()
	select {
	case <-gone:
	case <-ctx.Done():
		r.endWork(errStopping)
		<-gone
	}
	r.endWork(errStopping)
	r.loops.Wait()
	return nil
}

// wake takes the session's turn if it is wanted, now or when the present step
// is over.
func (r *Runner) wake(session string) { r.wakeUp(session, true) }

func (r *Runner) wakeUp(session string, again bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.started || r.take.Err() != nil {
		return
	}
	at := r.running[session]
	switch {
	case at == nil:
		at = &run{}
		r.running[session] = at
	case at.serving || !again: // or a transition is about to take it up
		at.again = at.again || again
		return
	}
	at.serving = true
	r.turns.Go(func() { r.serve(session, at, false) })
}

// serve runs one session's model requests until none is wanted. seated says
// that there is room for the first.
func (r *Runner) serve(session string, at *run, seated bool) {
	for {
		if !seated {
			select {
			case r.slots <- struct{}{}:
				seated = true
			case <-r.take.Done():
			}
		}
		wanted := false
		if seated {
			wanted = r.request(session, at)
			<-r.slots
		}
		seated = false
		r.mu.Lock()
		if (wanted || at.again) && r.take.Err() == nil {
			at.again = false
			r.mu.Unlock()
			continue
		}
		left := at.taken
		at.taken, at.again, at.serving = nil, false, false
		if at.seats == 0 {
			delete(r.running, session)
		}
		r.mu.Unlock()
		if left != nil {
			r.letGo(&left.claimed, left.span)
		}
		return
	}
}

// cut ends what this process does for the session under a lease older than
// fence. Whatever it still writes is refused.
func (r *Runner) cut(session string, fence int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at := r.running[session]; at != nil {
		at.cutBelow = max(at.cutBelow, fence)
		if at.cancel != nil && at.fence != 0 && at.fence < fence {
			at.cancel(errCutOff)
		}
	}
}

// holds notes the lease under which the present request runs; one that was
// taken away meanwhile is cut off at once.
func (r *Runner) holds(at *run, fence int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at.fence = fence
	if at.cancel != nil && fence < at.cutBelow {
		at.cancel(errCutOff)
	}
}

// sweepLoop is the safety net: it looks for wanted turns that nobody holds.
func (r *Runner) sweepLoop() {
	tick := time.NewTicker(r.cfg.Sweep)
	defer tick.Stop()
	for {
		select {
		case <-r.take.Done():
			return
		case <-tick.C:
		}
		if err := r.sweep(r.take); err != nil && r.take.Err() == nil {
			r.cfg.Logger.Error("looking for wanted turns", "error", err)
		}
	}
}

// sweep takes up wanted turns whose lease has run out. One process alone has
// its data: there every lease of another owner is of an earlier start, void.
func (r *Runner) sweep(ctx context.Context) error {
	now := time.Now()
	if !r.cfg.Store.Shared() {
		now = now.Add(r.cfg.Lease + time.Hour)
	}
	var wanted []string
	err := r.cfg.Store.View(ctx, func(rd store.Reader) (err error) {
		wanted, err = rd.SessionsWanted(now, 2*r.cfg.Requests)
		return err
	})
	for _, session := range wanted {
		r.wakeUp(session, false)
	}
	return err
}

// hear notices what another process wrote to a session that runs here; it
// may have been an interrupt.
func (r *Runner) hear(n store.Note) {
	if n.Local || n.Session == "" {
		return
	}
	r.mu.Lock()
	at := r.running[n.Session]
	runs := at != nil && at.cancel != nil
	r.mu.Unlock()
	if runs {
		select {
		case r.lookAgain <- n.Session:
		default: // the next renewal finds it
		}
	}
}

// leaseLoop renews the leases of running turns and cuts off those that were
// taken away. Only a shared store needs it: alone, nobody takes a lease.
func (r *Runner) leaseLoop() {
	tick := time.NewTicker(r.cfg.Renew)
	defer tick.Stop()
	for {
		select {
		case <-r.work.Done():
			return
		case session := <-r.lookAgain:
			r.checkLease(session)
		case <-tick.C:
			r.mu.Lock()
			var held []string
			for session, at := range r.running {
				if at.fence > 0 {
					held = append(held, session)
				}
			}
			r.mu.Unlock()
			var all sync.WaitGroup
			for _, session := range held {
				all.Go(func() { r.renewLease(session) })
			}
			all.Wait()
		}
	}
}

func (r *Runner) fenceOf(session string) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at := r.running[session]; at != nil {
		return at.fence
	}
	return 0
}

func (r *Runner) checkLease(session string) {
	fence := r.fenceOf(session)
	if fence == 0 {
		return
	}
	s, err := r.cfg.Store.Session(r.work, session)
	r.lost(session, s, fence, err)
}

func (r *Runner) renewLease(session string) {
	fence := r.fenceOf(session)
	if fence == 0 {
		return
	}
	var s plane.Session
	err := r.cfg.Store.Update(r.work, func(tx store.Tx) (err error) {
		if s, err = tx.LockSession(session); err != nil || s.TurnOwner != r.owner || s.TurnFence != fence {
			return err
		}
		s.TurnUntil = time.Now().Add(r.cfg.Lease)
		return tx.UpdateSession(s)
	})
	r.lost(session, s, fence, err)
}

// lost cuts the session's request off when s shows that its lease is gone.
func (r *Runner) lost(session string, s plane.Session, fence int64, err error) {
	switch {
	case err != nil && plane.KindOf(err) != plane.NotFound:
		if r.work.Err() == nil {
			r.cfg.Logger.Error("looking after a turn's lease", "session", session, "error", err)
		}
	case err != nil || s.TurnOwner != r.owner:
		// A newer fence under our own name is our own next try.
		r.cut(session, fence+1)
	}
}
