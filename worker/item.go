package worker

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/toolset"
)

const (
	closeTimeout = 30 * time.Second // of a sandbox's end
	getPause     = 200 * time.Millisecond
	getPauseMax  = 5 * time.Second
	getTimeout   = 15 * time.Second // of one try
)

// serve serves one item: ack, lease, session, sandbox, calls; then the
// sandbox goes and the item is stopped. slot is nil outside of Run.
func (w *Worker) serve(take, work context.Context, item HeldItem, slot chan struct{}, s *slots) (end End, err error) {
	log := w.log.With("work", item.Work.ID, "session", item.Work.Data.ID)
	if item.Work.EnvironmentID == "" {
		item.Work.EnvironmentID = w.cfg.EnvironmentID
	}
	h := &held{worker: w, item: item, log: log, slot: slot, slots: s, noted: make(chan struct{})}
	defer h.giveSlot()
	began := time.Now()
	defer func() { h.judge(end, time.Since(began)) }()
	status, detach := w.attach(item.Item)
	defer detach()
	h.status = status
	work, endSpan := w.cfg.Tracer.Begin(work, h.span(SpanItem))
	defer func() { endSpan(SpanEnd{string(end), err}) }()

	w.cfg.At(PointClaimed)
	claiming := w.gate.enter()
	var answer *api.Work // of the ack
	if !item.Acked {
		var acked bool
		_, endClaim := w.cfg.Tracer.Begin(work, h.span(SpanClaim))
		acked, answer, err = ack(work, w.client, item.Work, w.cfg.Reclaim, log)
		endClaim(ended(err))
		if !acked {
			claiming()
			if err != nil {
				log.Warn("the item could not be acked; leaving it to the queue", "error", err)
			}
			return EndLost, err
		}
		w.cfg.Counters.Claimed()
	}
	w.cfg.At(PointAcked)
	claimed := time.Now()
	go func() { // beside the first beat, which need not wait for the disk
		defer close(h.noted)
		defer claiming()
		if item.BeatAt.IsZero() {
			h.note(work, HeldItem{Item: item.Item, BeatAt: claimed})
		}
	}()
	secret := h.readSecret()
	h.suspected = h.suspect(answer, secret)
	end, err = h.hold(take, work, secret)
	if end == EndFailed {
		log.Error("the session could not be served", "error", err)
	}
	held := time.Since(claimed)
	w.cfg.Counters.Ended(end, held)
	log.Info("let go", "reason", end, "held", held.Round(time.Millisecond))
	return end, err
}

// held is an item from its ack to its end.
type held struct {
	worker *Worker
	item   HeldItem
	log    *slog.Logger
	status *status
	client *client.Client // the item's credential
	slot   chan struct{}  // until the run has it
	slots  *slots
	ttl    atomic.Int64 // of the lease, a time.Duration

	reached atomic.Int32 // of the session and its history, how many were there
	useful  atomic.Bool  // a result of it was accepted
	asks    chan chan struct{}
	beaten  chan struct{} // closed when nobody beats any more
	noted   chan struct{} // closed when the ledger has the item

	owned context.Context // ends when the lease is somebody else's, and not with the work

	suspected func(since time.Time) bool // see suspect
	begun     []string                   // see run.begun
}

// span is one of the item's.
func (h *held) span(k SpanKind) Span {
	s := Span{Kind: k, WorkID: h.item.Work.ID, SessionID: h.item.Work.Data.ID}
	if k == SpanItem {
		s.Link = h.item.Traceparent
	}
	return s
}

func (h *held) giveSlot() {
	if h.slot != nil {
		h.slots.give(h.slot)
		h.slot = nil
	}
}

// reach notes that the session is there, or its history.
func (h *held) reach() { h.reached.Add(1) }

// use notes that a result was accepted.
func (h *held) use() {
	if !h.useful.Swap(true) {
		h.worker.bad.passed()
	}
}

// judge says whether the item was worth its claim: a queue that gives others
// for ever is asked now and then. Sessions that ended before they were claimed
// are honest, so the pause for those stays short.
func (h *held) judge(end End, lasted time.Duration) {
	bad := &h.worker.bad
	switch {
	case end == EndFailed, h.reached.Load() < 2 && end != EndTerminated:
		bad.failed(badPauseMax)
	case h.useful.Load():
	case lasted >= lasting:
		bad.passed()
	case end != EndIdle && end != EndRoom:
		bad.failed(nothingMax)
	}
}

// readSecret picks the credential: the item's own token where it has one.
func (h *held) readSecret() api.WorkSecret {
	h.client = h.worker.client
	raw := deref(h.item.Work.Secret)
	if raw == "" {
		return api.WorkSecret{}
	}
	secret, err := DecodeSecret(raw)
	if err != nil {
		h.log.Warn("the item's secret is unreadable; using the environment key", "error", err)
		return api.WorkSecret{}
	}
	h.client = h.client.WithCredential(client.Bearer(secret.SessionsToken))
	return secret
}

// DecodeSecret reads a work item's secret. Its errors never hold any of it.
func DecodeSecret(s string) (api.WorkSecret, error) {
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(strings.TrimSpace(s), "="))
	if err != nil {
		return api.WorkSecret{}, errors.New("the secret is not base64url")
	}
	var secret api.WorkSecret
	if json.Unmarshal(raw, &secret) != nil {
		return api.WorkSecret{}, errors.New("the secret is not a JSON object")
	}
	if secret.SessionsToken == "" {
		return api.WorkSecret{}, errors.New("the secret holds no sessions token")
	}
	if strings.ContainsFunc(secret.SessionsToken, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return api.WorkSecret{}, errors.New("the secret's sessions token cannot be sent: it holds other characters than a token may")
	}
	return secret, nil
}

// hold keeps the lease while the session is served, and until all of it is
// cleaned up; then it stops the item, unless it is somebody else's.
func (h *held) hold(take, work context.Context, secret api.WorkSecret) (End, error) {
	g := &grip{log: h.log}
	take, g.stopTaking = context.WithCancelCause(take)
	work, g.cancelWork = context.WithCancelCause(work)
	h.owned, g.lose = context.WithCancelCause(context.WithoutCancel(work))
	defer g.lose(nil)
	defer g.cancelWork(nil)
	defer g.stopTaking(nil)
	beating, stopBeating := context.WithCancel(context.WithoutCancel(work))
	first := h.beat(beating, g)

	end, err := h.serve(take, work, secret, g, first)
	defer h.worker.gate.enter()()
	stopBeating()
	<-h.beaten
	<-h.noted
	h.worker.release(h.item.Work.ID)
	h.worker.cfg.At(PointReleased)
	if g.lost.Load() {
		return EndLost, err
	}
	if !h.item.LeaseKept {
		stop(work, h.stopper(), h.item.Work, true, h.log)
	}
	if g.refused.Load() {
		return EndFailed, errors.New("the control plane refuses this item's lease: its credential or its ids are not good for it")
	}
	return end, err
}

// grip is what the news of an item's lease do to its session.
type grip struct {
	stopTaking, cancelWork context.CancelCauseFunc
	lose                   context.CancelCauseFunc // of what must not outlive the lease
	lost, refused          atomic.Bool
	log                    *slog.Logger
}

func (g *grip) tell(n LeaseNews) {
	g.log.Info("news of the lease", "state", n)
	switch n {
	case LeaseStopping:
		g.stopTaking(stopCause(EndStopping))
	case LeaseLost:
		g.lost.Store(true)
		g.cancelWork(stopCause(EndLost))
		g.lose(stopCause(EndLost))
	case LeaseRefused:
		g.refused.Store(true)
		g.cancelWork(stopCause(EndFailed))
	default:
		g.cancelWork(stopCause(EndStopped))
	}
}

// beat keeps the item's lease until ctx ends, unless somebody else does; first
// closes with the first answer.
func (h *held) beat(ctx context.Context, g *grip) (first <-chan struct{}) {
	answered := make(chan struct{})
	h.asks, h.beaten = make(chan chan struct{}), make(chan struct{})
	l := &lease{asks: h.asks, last: h.item.LastHeartbeat, from: h.item.BeatAt, log: h.log, send: h.sendBeat(answered), tell: g.tell}
	go func() {
		defer close(h.beaten)
		if !h.item.LeaseKept {
			l.run(ctx)
		}
	}()
	return answered
}

// serve serves what the item is about; first is the first beat's answer.
func (h *held) serve(take, work context.Context, secret api.WorkSecret, g *grip, first <-chan struct{}) (End, error) {
	session := h.item.Work.Data.Type == "session"
	if h.resumed() || !session { // whoever had it before may not have it any more
		select {
		case <-first:
		case <-h.beaten:
		case <-work.Done():
		}
	}
	switch {
	case g.lost.Load():
		return EndLost, nil
	case session:
		return h.session(take, work, secret)
	}
	return EndIdle, nil
}

// resumed says that the lease began before this worker had the item.
func (h *held) resumed() bool { return h.item.LastHeartbeat != "" || !h.item.BeatAt.IsZero() }

// maxBegun is how many calls a stop tells of: one, but for results that could
// not be sent.
const maxBegun = 100

// stopper is the client for the item's stop, which tells what may have begun.
// Of what was begun before the item was resumed nothing is known here.
func (h *held) stopper() *client.Client {
	switch {
	case h.resumed() || len(h.begun) > maxBegun:
		return h.client
	case len(h.begun) == 0:
		return h.client.WithHeader(api.BegunHeader, api.BegunNone)
	}
	return h.client.WithHeader(api.BegunHeader, strings.Join(h.begun, ","))
}

// ask beats at once and waits for what that says: it tells a request that was
// refused for itself from one whose lease has gone.
func (h *held) ask(ctx context.Context) {
	answered := make(chan struct{})
	select {
	case h.asks <- answered:
	case <-h.beaten:
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-answered:
	case <-h.beaten:
	case <-ctx.Done():
	}
}

// sendBeat sends beats and notes the lease's TTL; first closes with the first
// answer.
func (h *held) sendBeat(first chan struct{}) func(context.Context, string) (*api.Heartbeat, error) {
	answered := false
	return func(ctx context.Context, expected string) (*api.Heartbeat, error) {
		defer h.worker.gate.beat()()
		sent := time.Now()
		hb, err := h.client.Beat(ctx, h.item.Work.EnvironmentID, h.item.Work.ID, expected, 0)
		if err == nil {
			if answered && hb.LeaseExtended {
				item := h.item.Item
				item.LastHeartbeat = hb.LastHeartbeat
				h.note(ctx, HeldItem{Item: item, BeatAt: sent, TTL: ttlOf(hb.TTLSeconds)})
			}
			if hb.TTLSeconds > 0 {
				h.ttl.Store(int64(ttlOf(hb.TTLSeconds)))
			}
			if !answered {
				answered = true
				close(first)
			}
		}
		return hb, err
	}
}

// note keeps where the item stands for a worker that comes after this one.
func (h *held) note(ctx context.Context, item HeldItem) {
	if err := h.worker.cfg.Ledger.Hold(ctx, item); err != nil && ctx.Err() == nil {
		h.log.Error("the ledger failed; a worker that comes after this one cannot go on with the item", "error", err)
	}
}

// session serves the item's session and takes its sandbox down.
func (h *held) session(take, work context.Context, secret api.WorkSecret) (End, error) {
	w, id := h.worker, h.item.Work.Data.ID
	h.status.set(StateStarting, "")
	release, err := w.rooms.hold(work, id)
	if err != nil {
		return endOf(work, EndCancelled), nil
	}
	defer release()

	place := newPlace(context.WithoutCancel(work), w.cfg.Sandboxes, w.tools, h.log) // below the item's span
	place.traced = func(ctx context.Context) (context.Context, func(SpanEnd)) {
		return w.cfg.Tracer.Begin(ctx, h.span(SpanSandbox))
	}
	place.inside, place.at = w.gate.beat, w.cfg.At
	place.warned = w.cfg.Counters.Warned
	if p := w.cfg.Preparer; p != nil {
		place.prepare = func(ctx context.Context, s api.Session) (*Prepared, error) {
			return p.Prepare(ctx, PrepareInput{Session: s, Client: h.client, Token: secret.SessionsToken != "", Warn: place.warn, Log: h.log})
		}
	}
	end, err := h.run(take, work, place, secret)
	h.status.set(StateClosing, "")
	finishing, stopFinishing := context.WithTimeout(h.owned, FinishLimit)
	if ferr := place.finish(finishing, end); ferr != nil {
		h.log.Error("what was prepared for the session did not end well", "error", ferr)
	}
	stopFinishing()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(work), closeTimeout)
	defer cancel()
	if cerr := place.close(ctx, end == EndTerminated); cerr != nil {
		h.log.Error("the sandbox could not be closed", "error", cerr)
	}
	return end, err
}

// run runs the session's tool runner.
func (h *held) run(take, work context.Context, place *place, secret api.WorkSecret) (End, error) {
	w, id := h.worker, h.item.Work.Data.ID
	// The session itself is asked for beside the stream: a session that has
	// ended or is none needs no sandbox, one that runs needs it soon.
	take, stopTaking := context.WithCancelCause(take)
	defer stopTaking(nil)
	work, cancelWork := context.WithCancelCause(work)
	defer cancelWork(nil)
	var getErr error
	got := make(chan struct{})
	go func() {
		defer close(got)
		s, err := getSession(work, h.client, id, h.log)
		switch {
		case work.Err() != nil:
		case err != nil:
			h.ask(work)
			getErr = fmt.Errorf("get the session: %w", err)
			cancelWork(stopCause(EndFailed))
		case s.Status == api.SessionTerminated:
			cancelWork(stopCause(EndTerminated))
		default:
			h.reach()
			place.know(Opening{Session: *s})
			// What comes with a session is brought at once, also to be found
			// again after a former worker.
			if s.Status == api.SessionRunning || w.cfg.Preparer != nil && len(s.Resources) > 0 {
				place.start()
			}
		}
	}()

	r := newRun(h.client, id, h.log)
	r.journal, r.counters, r.at = w.cfg.Journal, w.cfg.Counters, w.cfg.At
	r.maxIdle, r.drainLimit = w.cfg.MaxIdle, w.cfg.DrainLimit
	r.poster.window = func() time.Duration { return time.Duration(h.ttl.Load()) }
	for _, call := range secret.PossiblyStarted {
		r.possibly[call] = true
	}
	r.suspected = h.suspected
	r.began, r.useful = h.reach, h.use
	r.owns = func(string, bool) bool { return true }
	if w.cfg.Tools == nil {
		r.owns = ownsBuiltin
	}
	r.refused = h.ask
	r.tools, r.news, r.wanted, r.state = place.get, place.untold, place.start, h.status.set
	r.birth, r.after, r.gate = place.birth, place.after, w.gate
	r.abort = func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(work), closeTimeout)
		defer cancel()
		if err := place.close(ctx, false); err != nil {
			h.log.Error("the sandbox could not be killed", "error", err)
		}
	}
	r.traced = func(ctx context.Context, k SpanKind, c Call) (context.Context, func(SpanEnd)) {
		s := h.span(k)
		s.Call = named(c)
		return w.cfg.Tracer.Begin(ctx, s)
	}
	r.slots, r.slot, h.slot = h.slots, h.slot, nil
	end, err := r.loop(take, work)
	h.begun = r.begun()
	cancelWork(nil)
	<-got
	if getErr != nil && end == EndFailed {
		err = getErr
	}
	return end, err
}

// getSession gets the session, as long as its failures may pass.
func getSession(ctx context.Context, c *client.Client, id string, log *slog.Logger) (*api.Session, error) {
	for pause := getPause; ; pause = min(pause*2, getPauseMax) {
		try, cancel := context.WithTimeout(ctx, getTimeout)
		s, err := c.Session(try, id)
		cancel()
		if err == nil || ctx.Err() != nil || !temporary(err) {
			return s, err
		}
		log.Warn("the session could not be read; trying again", "error", err)
		if !sleep(ctx, pauseAfter(err, jitter(pause))) {
			return nil, context.Cause(ctx)
		}
	}
}

func (w *Worker) tools(h toolset.Host) Tools {
	if w.cfg.Tools != nil {
		return w.cfg.Tools(h)
	}
	return AgentTools(h)
}
