package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

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
	k.later = func(folder string) { k.wg.Go(func() { k.expireIn(wait, folder) }) }
	room := make(chan struct{}, 8)
	var all sync.WaitGroup
	for _, e := range entries {
		rec, err := ReadRecord(filepath.Join(k.cfg.Dir, e.Name()))
		if nobodys(e.Name()) {
			k.discard(ctx, e.Name(), rec, err)
			continue
		}
		if err != nil && !errors.Is(err, ErrRecord) {
			if !errors.Is(err, fs.ErrNotExist) {
				k.log.Warn("a sandbox's record cannot be read", "folder", e.Name(), "err", err)
			} else { // a start may have been cut off before it wrote one
				k.forgetRecord(filepath.Join(k.cfg.Dir, e.Name()))
			}
			_ = k.settle(ctx, filepath.Join(k.cfg.Dir, e.Name()))
			continue
		}
		all.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			k.adopt(ctx, e.Name(), rec)
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

// nobodys says that a folder is of a sandbox that no session has.
func nobodys(folder string) bool { return strings.HasPrefix(folder, warmPrefix) }

// Ready says that the record's sandbox waits for a session.
func (r Record) Ready() bool { return nobodys(filepath.Base(r.Spec.Dir)) }

// discard ends such a sandbox and removes its folder. The error is that of
// reading its record.
func (k *Keeper) discard(ctx context.Context, folder string, rec Record, err error) {
	dir := filepath.Join(k.cfg.Dir, folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	case err == nil, errors.Is(err, ErrRecord):
		if !k.mayOwn(rec) {
			return
		}
		err = finish(ctx, k.cfg.Driver, dir, rec)
	}
	if err == nil {
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
	switch {
	case sb != nil:
		return sb.Stop(ctx)
	case errors.Is(err, ErrGone):
		return nil
	}
	return err
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

// adopt takes one sandbox over and waits in the background for its session.
func (k *Keeper) adopt(ctx context.Context, folder string, rec Record) {
	if !k.mayOwn(rec) {
		k.log.Warn("a sandbox of another driver is left to its orphan time", "folder", folder, "driver", rec.Driver)
		return
	}
	dir := filepath.Join(k.cfg.Dir, folder)
	p := k.enter(folder)
	err := k.takeOver(ctx, p, dir, rec)
	sb, ending := p.sb, p.ending
	k.leave(folder, p)
	if err != nil {
		k.log.Warn("a sandbox could not be taken over", "folder", folder, "err", err)
	}
	if (err != nil || sb != nil) && !ending { // else it is tried again already
		k.later(folder)
	}
}

// expireIn has the sandbox of a folder expire after Spec.OrphanTTL, and tries
// again as often as it takes, until ctx ends.
func (k *Keeper) expireIn(ctx context.Context, folder string) {
	t := time.NewTicker(k.cfg.Spec.OrphanTTL)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		err := k.expire(ctx, folder)
		if err == nil {
			return
		}
		k.log.Warn("a sandbox that nobody has come for could not be ended", "folder", folder, "err", err)
	}
}

// expire ends the sandbox of a folder, also one that could not be taken over so
// far, unless a session has it.
func (k *Keeper) expire(ctx context.Context, folder string) error {
	dir := filepath.Join(k.cfg.Dir, folder)
	p := k.enter(folder)
	defer k.leave(folder, p)
	if p.held != nil && !p.ending {
		return nil
	}
	if p.sb == nil {
		rec, err := ReadRecord(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil || errors.Is(err, ErrRecord) {
			err = k.takeOver(ctx, p, dir, rec)
		}
		if err != nil {
			return err
		}
	}
	p.ending = p.sb != nil // whoever called this tries again
	return k.end(ctx, p, dir)
}

// takeOver gives a place the sandbox of its folder's record; none, and no error,
// when that is gone or had to be stopped. p.mu is held.
func (k *Keeper) takeOver(ctx context.Context, p *place, dir string, rec Record) error {
	rec.Spec.Dir, rec.Spec.Tree = dir, filepath.Join(dir, "tree")
	sb, err := k.cfg.Driver.Recover(ctx, rec)
	switch {
	case sb == nil && errors.Is(err, ErrGone):
		if errors.Is(err, ErrRecord) {
			k.log.Warn("what was found of a sandbox is ended, as its record cannot be read; that is set aside", "dir", dir, "err", err)
		}
		k.forgetRecord(dir)
		_ = k.settle(ctx, dir)
		return nil
	case sb == nil:
		return err
	case err == nil: // it may have been left by another version, or with other settings
		err = k.prove(ctx, sb, dir, false)
	}
	p.sb = sb
	if err == nil {
		return nil
	}
	k.log.Warn("a sandbox could not be taken over and is stopped", "dir", dir, "err", err)
	return k.end(ctx, p, dir)
}
