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
	"strings"
	"sync"
	"time"

	"github.com/berthdev/berth/internal/sandbox/disk"
	"github.com/berthdev/berth/internal/sandbox/view"
	"github.com/berthdev/berth/toolset"
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
	// keep what the session left. What a crash has cut short is called again
	// by Start.
	Ended func(ctx context.Context, session, dir string)
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
	stops context.CancelFunc // ends the wait for adopted sandboxes
	pool  *pool              // nil for none

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

// Start takes over the sandboxes that an earlier process left alive and
// removes what is left of the others. A sandbox taken over that nobody opens
// within Spec.OrphanTTL is stopped.
func (k *Keeper) Start(ctx context.Context) error {
	entries, err := os.ReadDir(k.cfg.Dir)
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	wait, cancel := context.WithCancel(context.WithoutCancel(ctx))
	k.stops = cancel
	room := make(chan struct{}, 8)
	var all sync.WaitGroup
	for _, e := range entries {
		rec, err := ReadRecord(filepath.Join(k.cfg.Dir, e.Name()))
		if nobodys(e.Name(), rec) {
			k.discard(ctx, e.Name(), rec, err)
			continue
		}
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				k.log.Warn("a sandbox's record cannot be read", "folder", e.Name(), "err", err)
			} else { // a start may have been cut off before it wrote one
				k.forgetRecord(filepath.Join(k.cfg.Dir, e.Name()))
			}
			k.settle(ctx, filepath.Join(k.cfg.Dir, e.Name()))
			continue
		}
		all.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			k.adopt(ctx, wait, e.Name(), rec)
		})
	}
	all.Wait()
	k.clean(ctx)
	if k.cfg.Retain != (Retain{}) {
		k.wg.Go(func() { k.retain(wait) })
	}
	if k.pool != nil {
		k.pool.start(ctx)
	}
	return nil
}

// nobodys says that a folder is of a sandbox that no session had when the
// worker that kept it ready was cut off.
func nobodys(folder string, rec Record) bool {
	return strings.HasPrefix(folder, warmPrefix) || strings.HasPrefix(rec.SessionID, warmPrefix)
}

// discard ends such a sandbox and removes its folder. The error is that of
// reading its record.
func (k *Keeper) discard(ctx context.Context, folder string, rec Record, err error) {
	dir := filepath.Join(k.cfg.Dir, folder)
	if err == nil {
		if rec.Driver != k.cfg.Driver.Name() {
			return
		}
		err = finish(ctx, k.cfg.Driver, dir, rec)
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = removeAll(dir)
	}
	if err != nil {
		k.log.Warn("a sandbox that was kept ready could not be removed", "folder", folder, "err", err)
	}
}

// finish ends what a record names.
func finish(ctx context.Context, d Driver, dir string, rec Record) error {
	rec.Spec.Dir, rec.Spec.Tree = dir, filepath.Join(dir, "tree")
	sb, err := d.Recover(ctx, rec)
	if errors.Is(err, ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	return sb.Stop(ctx)
}

// clean removes what sandboxes of this keeper's directory left on the host.
func (k *Keeper) clean(ctx context.Context) {
	left, err := Leftovers(ctx, k.cfg.Dir, []Driver{k.cfg.Driver}, false)
	for _, l := range left {
		if e := l.Remove(ctx); e != nil {
			err = errors.Join(err, fmt.Errorf("%s %s: %w", l.Kind, l.Name, e))
		}
	}
	if err != nil {
		k.log.Warn("what sandboxes left could not all be removed", "err", err)
	}
}

// adopt recovers one sandbox and waits in the background for its session.
func (k *Keeper) adopt(ctx, wait context.Context, folder string, rec Record) {
	dir := filepath.Join(k.cfg.Dir, folder)
	if rec.Driver != k.cfg.Driver.Name() {
		k.log.Warn("a sandbox of another driver is left to its orphan time", "folder", folder, "driver", rec.Driver)
		return
	}
	rec.Spec.Dir, rec.Spec.Tree = dir, filepath.Join(dir, "tree")
	sb, err := k.cfg.Driver.Recover(ctx, rec)
	if err != nil {
		if !errors.Is(err, ErrGone) {
			k.log.Warn("a sandbox could not be taken over", "folder", folder, "err", err)
			return
		}
		k.forgetRecord(dir)
		k.settle(ctx, dir)
		return
	}
	// It may have been left by another version, or with other settings.
	if err := k.prove(ctx, sb, dir, false); err != nil {
		k.log.Warn("a sandbox could not be taken over and is stopped", "folder", folder, "err", err)
		if err := sb.Stop(ctx); err != nil {
			k.log.Warn("it could not be stopped either", "folder", folder, "err", err)
			p := k.enter(folder)
			p.sb, p.ending = sb, true
			k.leave(folder, p)
			return
		}
		k.forgetRecord(dir)
		k.settle(ctx, dir)
		return
	}
	p := k.enter(folder)
	p.sb = sb
	k.leave(folder, p)
	k.wg.Go(func() {
		t := time.NewTimer(k.cfg.Spec.OrphanTTL)
		defer t.Stop()
		select {
		case <-t.C:
		case <-wait.Done():
			return
		}
		p := k.enter(folder)
		defer k.leave(folder, p)
		if p.sb == sb && p.held == nil {
			k.end(wait, p, dir)
		}
	})
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
	lost = errDir == nil && errors.Is(errTree, fs.ErrNotExist)
	spec := k.cfg.Spec
	spec.SessionID, spec.Dir, spec.Tree, spec.Parts = session, dir, tree, parts
	if errors.Is(errDir, fs.ErrNotExist) && k.pool != nil {
		if sb, ok := k.pool.take(ctx, spec); ok {
			p.sb = sb
			return false, nil
		}
	}
	if err := os.MkdirAll(tree, 0o755); err != nil {
		return false, fmt.Errorf("sandbox: %w", err)
	}
	if errTree != nil {
		os.Remove(filepath.Join(dir, stagedName))
	}
	if err := markUnsettled(dir, session); err != nil {
		return false, fmt.Errorf("sandbox: %w", err)
	}
	k.cfg.At(PointStarting)
	var sb Sandbox
	if err = k.mount(ctx, spec); err == nil {
		sb, err = k.cfg.Driver.Start(ctx, spec)
	}
	if err == nil {
		k.cfg.At(PointStarted)
		if err = k.prove(ctx, sb, dir, true); err != nil {
			if stop := sb.Stop(context.WithoutCancel(ctx)); stop != nil {
				p.sb, p.ending = sb, true
				return false, fmt.Errorf("sandbox: %s: %w", k.cfg.Driver.Name(), errors.Join(err, stop))
			}
		}
	}
	if err != nil {
		err = errors.Join(err, disk.Unmount(dir))
		if errDir != nil {
			err = errors.Join(err, disk.RemoveAll(dir))
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

// end stops a place's sandbox, if it has one. p.mu is held.
func (k *Keeper) end(ctx context.Context, p *place, dir string) error {
	if p.sb == nil {
		return nil
	}
	if err := p.sb.Stop(ctx); err != nil {
		p.ending = true
		return fmt.Errorf("sandbox: stop: %w", err)
	}
	p.sb, p.held, p.ending = nil, nil, false
	k.forgetRecord(dir)
	k.settle(ctx, dir)
	return nil
}

// unsettledName is a file that holds the session's id from before its sandbox
// starts until what it left has been kept.
const unsettledName = "unsettled"

func markUnsettled(dir, session string) error {
	return os.WriteFile(filepath.Join(dir, unsettledName), []byte(session), 0o600)
}

// settle calls Ended for a folder whose sandbox has ended, once, and takes the
// session's disk away.
func (k *Keeper) settle(ctx context.Context, dir string) {
	for _, at := range view.Left(dir) { // of a crash; it may lie on the disk
		if err := view.Release(at); err != nil {
			k.log.Warn("a view that a crash left cannot be taken away", "dir", dir, "err", err)
		}
	}
	defer func() {
		if err := disk.Unmount(dir); err != nil {
			k.log.Warn("a session's disk stays mounted", "dir", dir, "err", err)
		}
	}()
	mark := filepath.Join(dir, unsettledName)
	session, err := os.ReadFile(mark)
	if err == nil && k.cfg.Ended != nil {
		if disk.Has(dir) {
			if err := disk.Remount(dir); err != nil {
				k.log.Error("what a session left cannot be kept: its disk cannot be mounted", "dir", dir, "err", err)
				return
			}
		}
		if disk.Adrift(dir) {
			if err := WriteUnfetched(dir, []Unfetched{{Name: []byte("."), Reason: "what the session left was in its sandbox's memory, which is gone"}}); err != nil {
				k.log.Warn("outputs are lost, and the list of them will not say so", "dir", dir, "err", err)
			}
		}
		k.cfg.Ended(ctx, string(session), dir)
	}
	if err == nil {
		err = errors.Join(os.Remove(mark), forgetUnfetched(dir))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.log.Warn("what a session left may be kept again", "dir", dir, "err", err)
	}
}

func (k *Keeper) forgetRecord(dir string) {
	if err := Sweep(dir); err != nil {
		k.log.Warn("a leftover of a sandbox could not be removed", "err", err)
	}
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

// Held is a session's open sandbox.
type Held struct {
	toolset.Host
	keeper *Keeper
	dir    string
}

// Start runs a program beside the shell; see toolset.Starter.
func (h *Held) Start(ctx context.Context, p toolset.Program) (toolset.Process, error) {
	return toolset.Start(ctx, h.Host, p)
}

// Sandbox is the driver's sandbox behind it.
func (h *Held) Sandbox() Sandbox { return h.Host.(Sandbox) }

// stagedName is a file that is there while the tree has what it was to begin
// with.
const stagedName = "staged"

// Staged says whether MarkStaged has been called for the session's tree as it
// is now: not for one that was made anew.
func (h *Held) Staged() bool {
	_, err := os.Stat(filepath.Join(h.dir, stagedName))
	return err == nil
}

// MarkStaged notes that the tree has what it was to begin with.
func (h *Held) MarkStaged() error {
	return os.WriteFile(filepath.Join(h.dir, stagedName), nil, 0o600)
}

// Close ends the sandbox; with forget the session's tree goes too, and with
// it the memory that there was one. Twice is fine.
func (h *Held) Close(ctx context.Context, forget bool) error {
	p := h.keeper.enter(filepath.Base(h.dir))
	defer h.keeper.leave(filepath.Base(h.dir), p)
	if p.held == h {
		if err := h.keeper.end(ctx, p, h.dir); err != nil {
			return err
		}
	}
	if !forget || p.sb != nil {
		return nil
	}
	if err := removeAll(h.dir); err != nil {
		return fmt.Errorf("sandbox: forget a session's files: %w", err)
	}
	return nil
}

// removeAll removes the folder of a session whose sandbox has ended.
func removeAll(dir string) error {
	if err := disk.Unmount(dir); err != nil {
		return err
	}
	return disk.RemoveAll(dir)
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
