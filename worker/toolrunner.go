package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
)

// RunnerConfig is what a ToolRunner needs. Zero fields take the defaults of
// Config.
type RunnerConfig struct {
	// Client's credential serves the session: its sessions token, the
	// environment's key or an API key.
	Client    *client.Client
	SessionID string
	Tools     Tools
	Journal   Journal
	// PossiblyStarted are calls that a former holder may have begun. They
	// are answered as interrupted and not run.
	PossiblyStarted []string
	// SendWindow is how long a result is tried to be posted; 0 is 5 minutes.
	SendWindow time.Duration
	MaxIdle    time.Duration
	DrainLimit time.Duration
	Logger     *slog.Logger
	Counters   Counters
}

// ToolRunner answers the tool calls of one session that the caller holds: it
// runs them one at a time in the order of the log and posts their results.
// What calls come, which of them wait for a person, are void or somebody
// else's, it reads from the session's stream and history.
type ToolRunner struct{ run *run }

// NewToolRunner makes a runner. Client, SessionID and Tools are required.
func NewToolRunner(cfg RunnerConfig) (*ToolRunner, error) {
	if cfg.Client == nil || cfg.SessionID == "" || cfg.Tools == nil {
		return nil, errors.New("worker: a ToolRunner needs Client, SessionID and Tools")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r := newRun(cfg.Client, cfg.SessionID, cfg.Logger.With("session", cfg.SessionID))
	r.tools = func(context.Context) (Tools, error) { return cfg.Tools, nil }
	r.owns = cfg.Tools.Owns
	r.poster.window = func() time.Duration { return cfg.SendWindow }
	if cfg.Journal != nil {
		r.journal = cfg.Journal
	}
	if cfg.Counters != nil {
		r.counters = cfg.Counters
	}
	r.maxIdle = orDefault(cfg.MaxIdle, DefaultMaxIdle)
	r.drainLimit = orDefault(cfg.DrainLimit, DefaultDrainLimit)
	for _, id := range cfg.PossiblyStarted {
		r.possibly[id] = true
	}
	return &ToolRunner{r}, nil
}

// Run serves the session until it ends, is idle for MaxIdle, or the caller
// stops: when take ends no further call is begun, the running one finishes
// and its result is posted, for DrainLimit at most; when work ends it is
// cancelled. Run returns when all is done; the error is set for EndFailed.
// Call it once.
func (t *ToolRunner) Run(take, work context.Context) (End, error) { return t.run.loop(take, work) }

// Bounds of what a session may have its worker keep.
const (
	maxKept     = 64 << 20 // bytes of open calls
	perCall     = 1 << 10  // of a call, beside its input
	maxToolName = 256      // bytes
)

// cancelPatience is how long a cancelled call may take to end by itself when the
// session is let go, and cutPatience while it is served.
const (
	cancelPatience = 800 * time.Millisecond
	cutPatience    = 30 * time.Second
)

// run is a session being served. Its fields belong to the goroutine in loop,
// except those that never change.
type run struct {
	session    string
	log        *slog.Logger
	client     *client.Client
	journal    Journal
	counters   Counters
	poster     poster
	gate       *gate
	possibly   map[string]bool
	suspected  func(since time.Time) bool // of the first history pass; nil suspects none
	maxIdle    time.Duration
	drainLimit time.Duration

	// What an item lends to its run; the zero values are those of a
	// ToolRunner that stands alone.
	tools   func(context.Context) (Tools, error) // waits for the sandbox
	news    func() string                        // what the next result shall begin with, once
	owns    func(name string, custom bool) bool  // before there are tools
	wanted  func()                               // the sandbox will be needed
	birth   func() string                        // of the sandbox, "" for one that does not last
	after   func(context.Context)                // what follows a call
	abort   func()                               // kill the sandbox
	refused func(context.Context)                // a request was refused for good: is the lease still ours?
	began   func()                               // the history has been read
	useful  func()                               // a result was accepted
	traced  func(context.Context, SpanKind, Call) (context.Context, func(SpanEnd))
	at      func(point string)
	state   func(SlotState, string) // what the session is doing now
	slots   *slots
	slot    chan struct{} // held or asked for, nil without
	parking *parking

	calls     map[string]*pending
	queue     []*pending
	kept      int64 // bytes of calls that are open
	running   *pending
	jobs      chan func() callDone // calls to be served
	cancelRun context.CancelCauseFunc
	overdue   <-chan time.Time // by then the running call should have ended, nil while it is not cut off
	verdicts  map[string]string
	allowed   map[string]time.Time // when a call was confirmed
	cutoff    time.Time            // when the last interrupt was processed, zero for none
	ended     map[string]bool      // threads that have ended
	primary   string               // the primary thread, "" until known

	seen    map[uint64]bool // events that have been taken in, by hash
	resync  chan struct{}   // asks the reader for the history
	quiet   *time.Timer     // nothing has come for a while: something may be missing
	looks   int             // how often the history was asked for since something came
	leaving End             // the history is asked whether the session may be let go for this, "" for no
	unsaid  *time.Timer     // it has not said so in time

	read     bool   // the history has been read once
	turn     string // type of the last session status event
	blocking []string
	over     bool   // the last event that counts ended the turn
	overID   string // its id
	idle     *time.Timer
	idleFor  string // overID that idle was set for, "" while it is not set
	closing  End    // no further call is begun; the reason
}

func newRun(c *client.Client, session string, log *slog.Logger) *run {
	r := &run{
		session:  session,
		log:      log,
		client:   c,
		journal:  noJournal{},
		counters: noCounters{},
		poster:   poster{client: c.WithRetries(0), session: session, window: func() time.Duration { return 0 }, log: log},
		possibly: map[string]bool{},
		wanted:   func() {},
		birth:    func() string { return "" },
		news:     func() string { return "" },
		after:    func(context.Context) {},
		gate:     newGate(),
		abort:    func() {},
		traced: func(ctx context.Context, _ SpanKind, _ Call) (context.Context, func(SpanEnd)) {
			return ctx, func(SpanEnd) {}
		},
		refused:  func(context.Context) {},
		began:    func() {},
		useful:   func() {},
		at:       func(string) {},
		state:    func(SlotState, string) {},
		calls:    map[string]*pending{},
		verdicts: map[string]string{},
		allowed:  map[string]time.Time{},
		ended:    map[string]bool{},
		seen:     map[uint64]bool{},
		resync:   make(chan struct{}, 1),
		unsaid:   time.NewTimer(0),
	}
	r.unsaid.Stop()
	return r
}

// loop is Run of ToolRunner.
func (r *run) loop(take, work context.Context) (end End, err error) {
	reading, stopReading := context.WithCancel(work)
	in, readerGone := r.startReader(reading)
	done := make(chan callDone, 1)
	r.jobs = make(chan func() callDone, 1)
	go r.work(done)
	r.idle = time.NewTimer(time.Hour)
	r.idle.Stop()
	r.quiet = time.NewTimer(time.Hour)
	r.listen()
	defer func() {
		stopReading()
		if r.running != nil {
			r.cancelRun(stopCause(end))
			r.await(done)
		}
		r.idle.Stop()
		r.quiet.Stop()
		r.unsaid.Stop()
		r.leaveSlots()
		close(r.jobs)
		<-readerGone
	}()

	w := waits{in: in, done: done, taking: take.Done()}
	for {
		switch {
		case work.Err() != nil:
			return r.cancelled(work), nil
		case w.taking != nil && take.Err() != nil:
			w.taking = nil
			r.close(endOf(take, EndDrained))
			t := time.NewTimer(r.drainLimit)
			defer t.Stop()
			w.limit = t.C
		}
		r.settle(work)
		if r.closing != "" && r.running == nil {
			return r.closing, nil
		}
		if end, err = r.next(work, w); end != "" {
			return end, err
		}
	}
}

// work does one job after the other until there are no more. A goroutine for
// each would have its stack grow anew.
func (r *run) work(done chan<- callDone) {
	for do := range r.jobs {
		done <- do()
	}
}

// startReader reads the session's events until ctx ends; gone is closed when
// it has ended.
func (r *run) startReader(ctx context.Context) (in <-chan reading, gone <-chan struct{}) {
	out, ended := make(chan reading), make(chan struct{})
	go func() {
		defer close(ended)
		(&reader{client: r.client.WithRetries(0), session: r.session, log: r.log, out: out, resync: r.resync, counted: r.counters.Reconnected}).run(ctx)
	}()
	return out, ended
}

// waits is what a loop waits for beside its run's own.
type waits struct {
	in     <-chan reading
	done   <-chan callDone
	taking <-chan struct{}  // nil once it has ended
	limit  <-chan time.Time // of what is left to do since then
}

// next waits for one thing and does what follows from it. The end is set when
// that is the session's.
func (r *run) next(work context.Context, w waits) (End, error) {
	var granted, evicted <-chan struct{}
	if r.slot != nil && !closed(r.slot) {
		granted = r.slot
	}
	if r.parking != nil && r.leaving == "" {
		evicted = r.parking.evict
	}
	select {
	case x := <-w.in:
		if err := r.take(x); err != nil {
			return r.failed(work, err)
		}
		if r.closing == EndTerminated {
			return EndTerminated, nil
		}
	case d := <-w.done:
		r.finished(d)
		if d.state == callUnsent {
			r.look()
		}
		r.listen()
	case <-granted:
	case <-evicted:
		r.leave(EndRoom)
	case <-r.idle.C:
		r.leave(EndIdle)
	case <-r.unsaid.C:
		r.log.Warn("the session's history does not say whether more is to come; letting the session go")
		r.depart()
	case <-r.quiet.C:
		r.looks++
		r.look()
		r.listen()
	case <-w.taking:
	case <-w.limit:
		r.log.Warn("a call ran longer than the drain may last; cancelling it")
		r.cutRun(stopCause(EndDrained))
	case <-r.overdue:
		err := fmt.Errorf("the call %s goes on %v after it was cancelled", r.running.ID, cutPatience)
		if r.closing == "" {
			return r.failed(work, err)
		}
		r.log.Error("the session is let go amid a call", "error", err)
		return r.closing, nil
	case <-work.Done():
	}
	return "", nil
}

// cutRun cancels the running call. One that does not end then ends the session,
// which would never run another.
func (r *run) cutRun(cause error) {
	r.cancelRun(cause)
	if r.overdue == nil {
		r.overdue = time.After(cutPatience)
	}
}

// await waits for a call that has been cancelled; what hangs in the sandbox
// ends with it.
func (r *run) await(done <-chan callDone) {
	t := time.NewTimer(cancelPatience)
	defer t.Stop()
	select {
	case d := <-done:
		r.finished(d)
	case <-t.C:
		r.log.Warn("a cancelled call goes on; killing its sandbox", "call", r.running.ID)
		r.abort()
		r.finished(<-done)
	}
}

// failed is the end by an error, unless it comes of a lease that has gone.
func (r *run) failed(work context.Context, err error) (End, error) {
	r.refused(work)
	if work.Err() == nil {
		return EndFailed, err
	}
	return r.cancelled(work), nil
}

// cancelled is the end by the end of work. Of a lost session nothing may go
// on, not for a moment.
func (r *run) cancelled(work context.Context) End {
	end := endOf(work, EndCancelled)
	if end == EndLost {
		r.abort()
	}
	return end
}

func (r *run) close(why End) {
	if r.closing == "" {
		r.closing = why
	}
}

// drop takes a call off the queue for good.
func (r *run) drop(c *pending, s callState) {
	if i := slices.Index(r.queue, c); i >= 0 {
		r.queue = slices.Delete(r.queue, i, i+1)
	}
	c.state, c.Input = s, nil
	r.unkeep(c)
}

// finished takes the end of the running call in.
func (r *run) finished(d callDone) {
	r.cancelRun(nil)
	r.running, r.cancelRun, r.overdue = nil, nil, nil
	d.call.state = d.state
	if d.state == callUnsent && closed(d.call.echoed) {
		d.call.state = callAnswered
	}
	d.call.result = d.result
	if d.call.state != callUnsent {
		d.call.Input, d.call.result = nil, nil
		r.unkeep(d.call)
	}
	if d.outcome == CallAnswered {
		r.useful()
	}
	if d.state == callForeign && r.verdicts[d.call.ID] == "allow" {
		r.over = false // whoever owns it will answer; the turn goes on
	}
	r.counters.Called(d.call.Name, d.outcome, d.ran)
	r.log.Debug("call ended", "call", d.call.ID, "tool", d.call.Name, "outcome", d.outcome, "ran", d.ran)
}

// settle does what follows from the state: takes or gives the slot, begins
// the next call, sets the idle clock.
func (r *run) settle(work context.Context) {
	r.settleSlot()
	if r.read && (len(r.queue) > 0 || r.turn == api.TypeSessionStatusRunning) {
		r.wanted()
	}
	if r.running == nil && r.closing == "" && len(r.queue) > 0 && (r.slots == nil || closed(r.slot)) {
		c := r.queue[0]
		r.queue = slices.Delete(r.queue, 0, 1)
		c.state = callRunning
		var ctx context.Context
		ctx, r.cancelRun = context.WithCancelCause(work)
		r.running = c
		r.jobs <- func() callDone { return r.serve(ctx, c) }
	}
	if !r.idles() || r.leaving != "" || r.maxIdle < 0 {
		r.idle.Stop()
		r.idleFor = ""
		return
	}
	if id := "after " + r.overID; r.idleFor != id {
		r.idle.Reset(r.maxIdle)
		r.idleFor = id
	}
}

// settleSlot takes a slot when there is work to do, and parks the session
// when there is none.
func (r *run) settleSlot() {
	if r.slots == nil {
		return
	}
	if r.busy() {
		if r.parking != nil {
			r.slots.unpark(r.parking, true)
			r.parking = nil
		}
		if r.slot == nil {
			r.slot = r.slots.take(true)
		}
		if r.running == nil {
			if closed(r.slot) {
				r.state(StateTurn, "")
			} else {
				r.state(StateQueued, "")
			}
		}
		return
	}
	if r.slot != nil {
		r.slots.give(r.slot)
		r.slot = nil
	}
	if r.parking == nil && r.closing == "" {
		r.parking = r.slots.park(!r.over)
		r.state(StateParked, "")
	}
}

func (r *run) leaveSlots() {
	if r.slots == nil {
		return
	}
	if r.slot != nil {
		r.slots.give(r.slot)
		r.slot = nil
	}
	if r.parking != nil {
		r.slots.unpark(r.parking, false)
		r.parking = nil
	}
}

// busy says whether the session has work to do here, now or as soon as the
// control plane goes on.
func (r *run) busy() bool {
	if r.running != nil || len(r.queue) > 0 || !r.read {
		return true
	}
	switch {
	case r.turn == api.TypeSessionStatusRunning, r.turn == api.TypeSessionStatusRescheduled:
		return true
	case len(r.blocking) == 0:
		return false
	}
	for _, id := range r.blocking { // does it wait for anybody else?
		c := r.calls[id]
		if c == nil || c.state == callHeld || c.state == callForeign {
			return false
		}
	}
	return true
}

// holds says whether a call waits for a person.
func (r *run) holds() bool {
	for _, c := range r.calls {
		if c.state == callHeld {
			return true
		}
	}
	return false
}

// begun lists the calls that may have run and are neither answered nor void,
// when loop has ended.
func (r *run) begun() (ids []string) {
	for id, c := range r.calls {
		void := !r.cutoff.IsZero() && !c.at.After(r.cutoff)
		if c.begun && !void && c.state != callSettled && c.state != callAnswered {
			ids = append(ids, id)
		}
	}
	return ids
}

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
