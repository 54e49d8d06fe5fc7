package sandbox

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/berthdev/berth/internal/sandbox/removal"
	"github.com/berthdev/berth/internal/sandbox/spare"
)

// warmPrefix begins the folders of sandboxes that were started for nobody; no
// session's folder does.
const warmPrefix = "warm."

const (
	// quiet is how long nobody must have taken a sandbox before the next one is
	// started: neither who takes one next nor the first commands of who has one
	// are to wait for the machine.
	quiet = 50 * time.Millisecond
	// patient is how long a pool that is never quiet waits for each sandbox that
	// it starts all the same: who finds none starts one at the same cost.
	patient = 2 * time.Second
	// After a failure the pool waits, from firstPause on, twice as long each
	// time, up to lastPause, with jitter.
	firstPause = time.Second
	lastPause  = 2 * time.Minute
)

// pool keeps sandboxes of one kind ready. Safe for concurrent use between start
// and stop.
type pool struct {
	driver  Driver
	mount   func(context.Context, Spec) error // gives a folder its disk
	dir     string                            // where its folders are
	spec    Spec                              // of every one, but for the session and the folder
	version string                            // for receipts
	key     string
	size    int
	log     *slog.Logger

	ended  sync.WaitGroup
	cancel context.CancelFunc
	wake   chan struct{} // one is missing

	mu       sync.Mutex
	ready    []warm       // oldest first
	renewing int          // how many will be ready soon
	shape    *spare.Shape // of a tree that no session has used; nil as long as none has been renewed
	spares   []string     // folders of sessions that are gone, for renewed sandboxes
	taken    time.Time    // the last one
	short    time.Time    // since when it has waited to start one; zero when there are enough
	stopped  bool
}

// warm is a sandbox that waits for a session.
type warm struct {
	sb      Sandbox
	receipt Receipt
	dir     string
	key     string
}

// Live is how many sessions have a sandbox, or one that starts or ends.
func (k *Keeper) Live() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.places)
}

// Ready is how many sandboxes wait for a session.
func (k *Keeper) Ready() int {
	if k.pool == nil {
		return 0
	}
	k.pool.mu.Lock()
	defer k.pool.mu.Unlock()
	return len(k.pool.ready)
}

func newPool(c KeeperConfig, mount func(context.Context, Spec) error) *pool {
	return &pool{driver: c.Driver, mount: mount, dir: c.Dir, spec: c.Spec, version: c.Version, key: kindOf(c.Spec), size: c.Warm, log: c.Log, wake: make(chan struct{}, 1)}
}

// kindOf is the digest of all in a spec that is not one session's own. Two
// sandboxes of one kind are the same to a session: policy, image, limits,
// network, mounts, environment, working directory. The agent's program is the
// same for all that this process starts.
func kindOf(s Spec) string {
	s.SessionID, s.Dir, s.Tree = "", "", ""
	b, err := json.Marshal(s)
	if err != nil { // no spec is like it
		return rand.Text()
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// start begins to fill the pool in the background.
func (p *pool) start(ctx context.Context) {
	ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
	p.taken = time.Now() // a worker that has just begun may find a queue full of sessions
	p.ended.Go(func() { p.fill(ctx) })
	p.missing()
}

// stop ends the filling and every sandbox that waits. Twice is fine.
func (p *pool) stop(ctx context.Context) error {
	p.cancel()
	p.ended.Wait()
	p.mu.Lock()
	p.stopped = true
	left, spares := p.ready, p.spares
	p.ready, p.spares = nil, nil
	p.mu.Unlock()
	var errs []error
	for _, dir := range spares {
		errs = append(errs, removal.All(dir))
	}
	for _, w := range left {
		errs = append(errs, p.drop(ctx, w))
	}
	return errors.Join(errs...)
}

func (p *pool) missing() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// fill starts sandboxes, one at a time, until there are enough; then it waits
// until one is taken.
func (p *pool) fill(ctx context.Context) {
	pause := firstPause
	for {
		wait, full := p.patience()
		switch {
		case full:
			select {
			case <-p.wake:
			case <-ctx.Done():
				return
			}
			continue
		case wait > 0:
			if !sleep(ctx, wait) {
				return
			}
			continue
		}
		var w warm
		dir, err := p.folder(false)
		if err == nil {
			w, err = p.make(ctx, dir, p.driver.Start)
		}
		if ctx.Err() != nil {
			if err == nil {
				if err := p.drop(context.WithoutCancel(ctx), w); err != nil {
					p.log.Warn("a sandbox that was ready could not be removed", "err", err)
				}
			}
			return
		}
		if errors.Is(err, errBound) {
			p.log.Info("no sandbox is kept ready", "why", err, "sandbox", p.driver.Name())
			return
		}
		if err != nil {
			p.log.Warn("a sandbox could not be made ready ahead; sessions start their own meanwhile", "err", err, "again", pause)
			if !sleep(ctx, pause+mathrand.N(pause/2)) {
				return
			}
			pause = min(2*pause, lastPause)
			continue
		}
		pause = firstPause
		p.mu.Lock()
		p.ready = append(p.ready, w)
		p.mu.Unlock()
	}
}

// patience says whether the pool is full, and else how long to keep still.
func (p *pool) patience() (wait time.Duration, full bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.ready) >= p.size {
		p.short = time.Time{}
		return 0, true
	}
	now := time.Now()
	if p.short.IsZero() {
		p.short = now
	}
	loud, late := quiet-now.Sub(p.taken), patient-now.Sub(p.short)
	if loud > 0 && late <= 0 {
		p.short = now
	}
	return min(loud, late), false
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// renew makes of a session's sandbox, whose session has ended, one that is
// ready, if that can be done; else the sandbox is still to be stopped. It needs no
// quiet: it takes a fraction of a start. Sessions that come in waves also go in
// waves, so there may be twice as many ready as were asked for.
func (p *pool) renew(ctx context.Context, sb Sandbox, kind string) bool {
	r, ok := sb.(Renewable)
	if !ok || kind != p.key || alive(sb) != nil {
		return false
	}
	p.mu.Lock()
	room := !p.stopped && len(p.ready)+p.renewing < 2*p.size
	if room {
		p.renewing++
	}
	p.mu.Unlock()
	if !room {
		return false
	}
	var w warm
	dir, err := p.folder(true)
	if err == nil {
		w, err = p.make(ctx, dir, r.Renew)
	}
	p.mu.Lock()
	p.renewing--
	stopped := p.stopped
	if err == nil && p.shape == nil {
		p.shape, _ = spare.Of(filepath.Join(dir, "tree")) // without one no folder is used again
	}
	if err == nil && !stopped {
		p.ready = append(p.ready, w)
	}
	p.mu.Unlock()
	if err == nil && stopped {
		err = p.drop(ctx, w)
	}
	if err != nil {
		p.log.Warn("a sandbox could not be made ready for another session and is stopped", "err", err)
	}
	return err == nil
}

// folder makes a folder for a sandbox, or gives a spare one.
func (p *pool) folder(renewed bool) (dir string, err error) {
	if renewed {
		p.mu.Lock()
		defer p.mu.Unlock()
		if last := len(p.spares) - 1; last >= 0 {
			dir, p.spares = p.spares[last], p.spares[:last]
			return dir, nil
		}
	}
	dir = p.name()
	return dir, os.MkdirAll(filepath.Join(dir, "tree"), 0o755)
}

func (p *pool) name() string {
	return filepath.Join(p.dir, warmPrefix+strings.ToLower(rand.Text()[:12]))
}

// salvage makes the folder of a session that is gone one for a renewed sandbox, or
// removes it when its tree is not what it was. It says no when it has no use for
// one, or can do neither: then it is the session's still.
func (p *pool) salvage(dir string) (done bool, err error) {
	p.mu.Lock()
	shape := p.shape
	room := shape != nil && !p.stopped && len(p.spares) < p.size
	p.mu.Unlock()
	to := p.name()
	if !room || os.Rename(dir, to) != nil {
		return false, nil
	}
	f, err := os.Open(to)
	if err == nil {
		err = removal.Rest(f, func(name string) bool { return name == "tree" })
		err = errors.Join(err, shape.Restore(f, "tree"), f.Close())
	}
	p.mu.Lock()
	keep := err == nil && !p.stopped && len(p.spares) < p.size
	if keep {
		p.spares = append(p.spares, to)
	}
	p.mu.Unlock()
	if !keep && removeAll(to) != nil {
		return false, os.Rename(to, dir)
	}
	return true, nil
}

// make has one sandbox started in a folder, and proven.
func (p *pool) make(ctx context.Context, dir string, start func(context.Context, Spec) (Sandbox, error)) (warm, error) {
	spec := p.spec
	spec.SessionID, spec.Dir, spec.Tree = filepath.Base(dir), dir, filepath.Join(dir, "tree")
	var sb Sandbox
	err := p.mount(ctx, spec)
	if err == nil {
		sb, err = start(ctx, spec)
	}
	if err != nil {
		return warm{}, errors.Join(err, removeAll(dir))
	}
	w := warm{sb: sb, dir: dir, key: p.key}
	if _, ok := sb.(Assignable); !ok {
		err = errBound
	} else if w.receipt, err = Prove(ctx, p.driver, sb, true); err == nil {
		w.receipt.Version = p.version
		if err = WriteReceipt(dir, w.receipt); err == nil {
			return w, nil
		}
	}
	return warm{}, errors.Join(err, p.drop(context.WithoutCancel(ctx), w))
}

var errBound = errors.New("a sandbox is the session's that it was started for")

// drop ends a sandbox that no session has had.
func (p *pool) drop(ctx context.Context, w warm) error {
	if err := w.sb.Stop(ctx); err != nil {
		return fmt.Errorf("sandbox: stop one that was ready: %w", err)
	}
	return removeAll(w.dir)
}

// take gives a ready sandbox to spec's session, if it is of that kind, in spec's folder,
// which must not be there. Without one it says so, and nothing has changed.
func (p *pool) take(ctx context.Context, spec Spec, key string) (Sandbox, bool) {
	for {
		p.mu.Lock()
		p.taken = time.Now()
		if p.stopped || key != p.key || len(p.ready) == 0 {
			p.mu.Unlock()
			return nil, false
		}
		w := p.ready[0]
		p.ready = p.ready[1:]
		p.mu.Unlock()
		p.missing()
		err := alive(w.sb)
		if err == nil && w.key != key {
			err = errors.New("it is of another kind")
		}
		if err == nil {
			err = p.give(w, spec)
		}
		if err == nil {
			return w.sb, true
		}
		p.log.Warn("a sandbox that was ready is of no use", "err", err)
		if err := p.drop(context.WithoutCancel(ctx), w); err != nil {
			p.log.Warn("it could not be removed", "err", err)
		}
	}
}

// give assigns a sandbox. What the folder shall hold is in it before it has its
// new name, so that a crash leaves a warm folder or a session's whole one.
func (p *pool) give(w warm, spec Spec) error {
	if Folder(spec.SessionID) != spec.SessionID { // the folder will not say it
		w.receipt.Session = spec.SessionID
		if err := WriteReceipt(w.dir, w.receipt); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(w.dir, unsettledName), []byte(spec.SessionID), 0o600); err != nil {
		return err
	}
	return w.sb.(Assignable).Assign(spec.SessionID, spec.Dir)
}

// alive looks whether a sandbox is there. One in which nothing has run since it
// was proven works if it is.
func alive(sb Sandbox) error {
	a, ok := sb.(interface{ Alive() error })
	if !ok {
		return nil
	}
	return a.Alive()
}
