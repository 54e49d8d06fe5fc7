package sandbox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/berthdev/berth/internal/sandbox/disk"
	"github.com/berthdev/berth/internal/sandbox/removal"
)

// KeeperConfig says where and how a Keeper makes sandboxes.
type KeeperConfig struct {
	// Driver makes the sandboxes.
	Driver Driver
	// Dir holds a folder per session: record.json and agent.sock while a
	// sandbox lives, tree/ as long as the session is remembered. The caller
	// holds the lock of the directory it lies in.
	Dir string
	// Spec is the pattern of every sandbox; SessionID, Dir and Tree are set
	// per session.
	Spec Spec
	// Ways opens the ways out of sandboxes whose Spec.Network allows hosts; nil
	// where none does.
	Ways Ways
	// Warm is how many sandboxes are kept ready for sessions that are new here;
	// 0 is none, and so it is with a driver whose sandboxes cannot change hands.
	Warm int
	// Version is what the driver's probe said of what it relies on.
	Version string
	// Ended, when set, is called with a session's folder after its sandbox has
	// ended, while the tree is there and before another sandbox begins: to
	// keep what the session left. What a crash has cut short, or an error, is
	// called again by Start, and before the session's files are removed.
	Ended func(ctx context.Context, session, dir string) error
	// Disks gives sessions whose Limits name one a disk of their own; nil for
	// none. The keeper stops it.
	Disks *disk.Pool
	// Retain bounds the trees of sessions without a sandbox. The zero value
	// keeps them for ever.
	Retain Retain
	// Retained, when set, is called each time that was looked after.
	Retained func(now time.Time)
	// Log hears of leftovers and of what could not be removed; nil is silence.
	Log *slog.Logger
	// At is called with the name of each point at which a crash would matter
	// (the Point constants), where tests end the process; nil is not called.
	At func(point string)
}

// Points of a sandbox's start, in their order.
const (
	PointStarting = "sandbox.starting" // the session's folder is there, nothing runs
	PointStarted  = "sandbox.started"  // it runs, and nobody has been told
)

// Keeper gives each session its sandbox and its tree, and finds both again
// after a crash. Safe for concurrent use, between Start and Stop.
type Keeper struct {
	cfg KeeperConfig
	log *slog.Logger

	wg    sync.WaitGroup
	stops context.CancelFunc  // ends the wait for sandboxes that are nobody's
	later func(folder string) // ends a folder's sandbox in the background, unless a session has it by then; set by Start
	pool  *pool               // nil for none

	mu      sync.Mutex
	places  map[string]*place // by folder; those in use or with a sandbox
	stopped bool
}

// place is one session's folder. Its lock is held while a sandbox starts or
// stops, so that two callers never do so at once.
type place struct {
	users int // who has it from enter; the keeper's mu

	mu     sync.Mutex
	sb     Sandbox // nil when none lives
	kind   string  // of sb, where it was started here and there is a pool
	held   *Held   // nil when nobody has opened it
	ending bool    // sb is no good: it was stopped, and that has failed so far
}

// NewKeeper makes a Keeper; the directory is made if it is missing.
func NewKeeper(cfg KeeperConfig) (*Keeper, error) {
	if cfg.Driver == nil || cfg.Dir == "" {
		return nil, errors.New("sandbox: a keeper needs a driver and a directory")
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	cfg.Dir = dir
	cfg.Driver = outward{cfg.Driver, cfg.Ways, cfg.Spec.Policy}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	keepApart(dir)
	if cfg.Dir, err = filepath.EvalSymlinks(dir); err != nil { // as the kernel names mounts in it
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.At == nil {
		cfg.At = func(string) {}
	}
	if cfg.Spec.OrphanTTL <= 0 {
		cfg.Spec.OrphanTTL = DefaultOrphanTTL
	}
	k := &Keeper{cfg: cfg, log: cfg.Log, places: map[string]*place{}}
	if cfg.Warm > 0 && cfg.Spec.View == "" { // a view is made in the session's own folder
		k.pool = newPool(cfg, k.mount)
	}
	return k, nil
}

// Stop ends every sandbox; the trees stay. Twice is fine.
func (k *Keeper) Stop(ctx context.Context) error {
	k.mu.Lock()
	k.stopped = true
	var places []string
	for f := range k.places {
		places = append(places, f)
	}
	k.mu.Unlock()
	if k.stops != nil {
		k.stops()
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	if k.pool != nil && k.stops != nil {
		if err := k.pool.stop(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	for _, f := range places {
		all.Go(func() {
			p := k.enter(f)
			defer k.leave(f, p)
			if err := k.end(ctx, p, filepath.Join(k.cfg.Dir, f)); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	k.wg.Wait()
	if k.cfg.Disks != nil {
		errs = append(errs, k.cfg.Disks.Stop())
	}
	return errors.Join(errs...)
}

// LetGo lets go of every sandbox and leaves it as it is, for a process that
// takes over: from then on nobody here speaks to one.
func (k *Keeper) LetGo(ctx context.Context) error {
	k.mu.Lock()
	k.stopped = true
	var places []string
	for f := range k.places {
		places = append(places, f)
	}
	k.mu.Unlock()
	if k.stops != nil {
		k.stops()
	}
	var err error
	if k.pool != nil && k.stops != nil {
		err = k.pool.stop(ctx)
	}
	for _, f := range places {
		p := k.enter(f)
		if sb, ok := p.sb.(interface{ Close() }); ok {
			sb.Close()
		}
		k.leave(f, p)
	}
	return err
}

// Spec is the pattern of the sandboxes.
func (k *Keeper) Spec() Spec { return k.cfg.Spec }

// Dir is a session's folder on the host; its tree is in it.
func (k *Keeper) Dir(session string) string { return filepath.Join(k.cfg.Dir, Folder(session)) }

// Open gives the session's sandbox: the one that is open, one taken over from
// an earlier process, or a new one on the session's tree. lost says that the
// session had a tree here before and it is gone. A sandbox without all of
// parts makes way for one that has them, unless it is open.
func (k *Keeper) Open(ctx context.Context, session string, parts ...Part) (h *Held, lost bool, err error) {
	folder := Folder(session)
	if folder == "" {
		return nil, false, fmt.Errorf("sandbox: %q is no session id", session)
	}
	p := k.enter(folder)
	defer k.leave(folder, p)
	k.mu.Lock()
	stopped := k.stopped
	k.mu.Unlock()
	if stopped {
		return nil, false, errors.New("sandbox: the keeper has stopped")
	}
	dir := filepath.Join(k.cfg.Dir, folder)
	if p.ending {
		if err := k.end(ctx, p, dir); err != nil {
			return nil, false, err
		}
	}
	if p.held != nil {
		return p.held, false, nil
	}
	if p.sb == nil {
		// One that could not be taken over so far may be alive.
		rec, err := ReadRecord(dir)
		if err == nil && rec.Driver == k.cfg.Driver.Name() || errors.Is(err, ErrRecord) && k.mayOwn(rec) {
			if err := k.takeOver(ctx, p, dir, rec); err != nil {
				return nil, false, fmt.Errorf("sandbox: the session's sandbox cannot be taken over: %w", err)
			}
		}
	}
	if p.sb != nil && !has(p.sb.Record().Spec.Parts, parts) {
		k.log.Info("a sandbox without the parts of the tree that its session needs is ended", "session", session)
		if err := k.end(ctx, p, dir); err != nil {
			return nil, false, err
		}
	}
	if p.sb == nil {
		if lost, err = k.start(ctx, p, dir, session, parts); err != nil {
			return nil, false, err
		}
	}
	p.held = &Held{Host: p.sb, keeper: k, dir: dir}
	return p.held, lost, nil
}

// mayOwn says that a record is of the keeper's driver, or that nothing says whose.
func (k *Keeper) mayOwn(rec Record) bool {
	return rec.Driver == "" || rec.Driver == k.cfg.Driver.Name()
}

func has(all, some []Part) bool {
	return !slices.ContainsFunc(some, func(p Part) bool { return !slices.Contains(all, p) })
}

// start makes the sandbox. p.mu is held.
func (k *Keeper) start(ctx context.Context, p *place, dir, session string, parts []Part) (lost bool, err error) {
	tree := filepath.Join(dir, "tree")
	if disk.Adrift(dir) {
		if err := disk.Lose(dir); err != nil {
			return false, fmt.Errorf("sandbox: %w", err)
		}
	}
	_, errDir := os.Stat(dir)
	_, errTree := os.Stat(tree)
	fresh := errors.Is(errDir, fs.ErrNotExist)
	lost = errDir == nil && errors.Is(errTree, fs.ErrNotExist)
	spec := k.cfg.Spec
	spec.SessionID, spec.Dir, spec.Tree, spec.Parts = session, dir, tree, parts
	if k.pool != nil {
		p.kind = kindOf(spec)
		if fresh {
			if sb, ok := k.pool.take(ctx, spec, p.kind); ok {
				p.sb = sb
				return false, nil
			}
		}
	}
	if err = os.MkdirAll(tree, 0o755); err == nil {
		if errTree != nil {
			os.Remove(filepath.Join(dir, stagedName))
		}
		err = markUnsettled(dir, session)
	}
	if err == nil {
		k.cfg.At(PointStarting)
		err = k.mount(ctx, spec)
	}
	var sb Sandbox
	if err == nil {
		sb, err = k.cfg.Driver.Start(ctx, spec)
	}
	if err == nil {
		k.cfg.At(PointStarted)
		if err = k.prove(ctx, sb, dir, true); err != nil {
			if stop := sb.Stop(context.WithoutCancel(ctx)); stop != nil {
				p.sb = sb
				k.spoil(p, dir)
				return false, fmt.Errorf("sandbox: %s: %w", k.cfg.Driver.Name(), errors.Join(err, stop))
			}
		}
	}
	if err != nil {
		err = errors.Join(err, disk.Unmount(dir))
		if fresh {
			err = errors.Join(err, removal.All(dir))
		}
		return false, fmt.Errorf("sandbox: %s: %w", k.cfg.Driver.Name(), err)
	}
	p.sb = sb
	return lost, nil
}

// mount shows the session's disk, if it has one or is to have one.
func (k *Keeper) mount(ctx context.Context, spec Spec) error {
	limit := spec.Limits.Disk
	if slices.Contains(k.cfg.Driver.Capabilities().Limits, LimitDisk) { // the driver holds it
		return nil
	}
	if limit <= 0 {
		if disk.Has(spec.Dir) { // with its files
			return disk.Remount(spec.Dir)
		}
		return nil
	}
	err := errors.New("no disks are made here")
	if k.cfg.Disks != nil {
		if err = k.cfg.Disks.Able(); err == nil {
			err = k.cfg.Disks.Mount(ctx, spec.Dir, limit)
		}
	}
	if err == nil || slices.Contains(spec.Limits.Required, LimitDisk) {
		return err
	}
	k.log.Warn("a session's disk is not limited", "session", spec.SessionID, "err", err)
	return nil
}

// prove has the sandbox proven and keeps its receipt.
func (k *Keeper) prove(ctx context.Context, sb Sandbox, dir string, fresh bool) error {
	r, err := Prove(ctx, k.cfg.Driver, sb, fresh)
	if err != nil {
		return err
	}
	r.Version = k.cfg.Version
	return WriteReceipt(dir, r)
}

// end stops a place's sandbox, if it has one, and keeps what it left. p.mu is
// held.
func (k *Keeper) end(ctx context.Context, p *place, dir string) error {
	if p.sb == nil {
		return nil
	}
	err := k.stop(ctx, p, dir)
	if err == nil {
		_ = k.settle(ctx, dir) // what it left is in the tree
	}
	return err
}

// stop is end for a place that has a sandbox, without what it left.
func (k *Keeper) stop(ctx context.Context, p *place, dir string) error {
	if p.ending || k.pool == nil || !k.pool.renew(context.WithoutCancel(ctx), p.sb, p.kind) {
		if err := p.sb.Stop(ctx); err != nil {
			k.spoil(p, dir)
			return fmt.Errorf("sandbox: stop: %w", err)
		}
	}
	p.sb, p.kind, p.held, p.ending = nil, "", nil, false
	return nil
}

// spoil notes that a place's sandbox does not stop, and has it tried again.
func (k *Keeper) spoil(p *place, dir string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !p.ending && !k.stopped && k.later != nil {
		k.later(filepath.Base(dir))
	}
	p.ending = true
}

// enter locks a session's place; leave gives it back, and forgets it when
// nothing is there and nobody waits for it.
func (k *Keeper) enter(folder string) *place {
	k.mu.Lock()
	p := k.places[folder]
	if p == nil {
		p = &place{}
		k.places[folder] = p
	}
	p.users++
	k.mu.Unlock()
	p.mu.Lock()
	return p
}

func (k *Keeper) leave(folder string, p *place) {
	k.mu.Lock()
	if p.users--; p.users == 0 && p.sb == nil {
		delete(k.places, folder)
	}
	k.mu.Unlock()
	p.mu.Unlock()
}

// Folder is the name of a session's folder: the id itself when it is a plain
// name, its digest otherwise, "" for an empty id.
func Folder(session string) string {
	if session == "" {
		return ""
	}
	plain := len(session) <= 100
	for _, c := range []byte(session) {
		plain = plain && (c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '-')
	}
	if plain {
		return session
	}
	sum := sha256.Sum256([]byte(session))
	return "x." + hex.EncodeToString(sum[:])
}
