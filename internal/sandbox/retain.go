package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// Retain bounds what is kept of sessions that are not at work, each in a
// folder whose time of change is that of its last use.
type Retain struct {
	Age   time.Duration // 0 is no bound
	Bytes int64         // on disk, of all together; 0 is no bound
}

// retainEach is how often it is looked for what is kept too long.
const retainEach = 30 * time.Minute

// Past lists the folders in dir that are to go: those too old, and the oldest
// of the others as long as they have too many bytes together. Those in use are
// neither listed nor counted.
func (r Retain) Past(dir string, now time.Time, used func(folder string) bool) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	type kept struct {
		folder string
		at     time.Time
		bytes  int64
	}
	var all []kept
	var past []string
	var total int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !e.IsDir() || used(e.Name()) {
			continue
		}
		if r.Age > 0 && now.Sub(info.ModTime()) > r.Age {
			past = append(past, e.Name())
			continue
		}
		if r.Bytes > 0 {
			n := onDisk(filepath.Join(dir, e.Name()))
			total += n
			all = append(all, kept{e.Name(), info.ModTime(), n})
		}
	}
	slices.SortFunc(all, func(a, b kept) int { return a.at.Compare(b.at) })
	for _, k := range all {
		if total <= r.Bytes {
			break
		}
		total -= k.bytes
		past = append(past, k.folder)
	}
	return past, nil
}

// changed is a folder's time of change, zero for one that is gone.
func changed(dir string) time.Time {
	info, err := os.Stat(dir)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// onDisk counts what a folder takes. What cannot be read counts nothing.
func onDisk(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := e.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				n += int64(st.Blocks) * 512
			}
		}
		return nil
	})
	return n
}

// retain removes what is kept too long, now and again until ctx ends.
func (k *Keeper) retain(ctx context.Context) {
	t := time.NewTicker(retainEach)
	defer t.Stop()
	for {
		k.forgetPast(ctx, time.Now())
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (k *Keeper) forgetPast(ctx context.Context, now time.Time) {
	lastUsed := map[string]time.Time{}
	past, err := k.cfg.Retain.Past(k.cfg.Dir, now, func(folder string) bool {
		if nobodys(folder) {
			return true
		}
		lastUsed[folder] = changed(filepath.Join(k.cfg.Dir, folder))
		_, err := ReadRecord(filepath.Join(k.cfg.Dir, folder))
		return !errors.Is(err, fs.ErrNotExist) // it lives, or may, or is another driver's
	})
	if err != nil {
		k.log.Warn("it cannot be found out which workspaces are kept too long", "err", err)
	}
	for _, folder := range past {
		if ctx.Err() != nil {
			return
		}
		dir := filepath.Join(k.cfg.Dir, folder)
		p := k.enter(folder)
		if p.sb == nil && changed(dir).Equal(lastUsed[folder]) { // else a session has had it meanwhile
			err := k.settle(ctx, dir)
			if err == nil {
				err = removeAll(dir)
			}
			if err != nil {
				k.log.Warn("a workspace that was kept long enough could not be removed", "folder", folder, "err", err)
			} else {
				k.log.Info("a workspace was kept long enough and is removed", "folder", folder)
			}
		}
		k.leave(folder, p)
	}
	if k.cfg.Retained != nil {
		k.cfg.Retained(now)
	}
}
