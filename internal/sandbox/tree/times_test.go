package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/berthdev/berth/toolset"
)

// TestWalkTimes: whatever is picked comes with its own time, a link with that of
// the link, and no directory stays open.
func TestWalkTimes(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, w world) {
		want := map[string]time.Time{}
		put := func(name string) {
			w.put(t, "workspace/"+name, "")
			when := time.Unix(1_700_000_000+int64(len(want)), 123)
			must(t, os.Chtimes(w.host("workspace/"+name), when, when))
			want["/workspace/"+name] = when
		}
		for i := range 1000 {
			put(fmt.Sprintf("wide/%03d", i))
		}
		for i := range 50 {
			put(fmt.Sprintf("d%02d/f", i))
			w.put(t, fmt.Sprintf("workspace/d%02d/other", i), "")
		}
		must(t, os.Symlink(w.secret, w.host("workspace/link")))
		info, err := os.Lstat(w.host("workspace/link"))
		must(t, err)
		want["/workspace/link"] = info.ModTime()
		w.put(t, "workspace/skip/f", "")
		w.put(t, "workspace/gone", "")
		open := descriptors(t)

		got := map[string]time.Time{}
		pick := func(p string, e toolset.Entry) (bool, error) {
			switch e.Name() {
			case "gone":
				must(t, os.Remove(w.host("workspace/gone")))
			case "skip":
				return false, fs.SkipDir
			}
			return !e.IsDir() && e.Name() != "other", nil
		}
		must(t, w.WalkTimes(t.Context(), ".", pick, func(p string, when time.Time) { got[p] = when }))
		if len(got) != len(want) {
			t.Errorf("%d times, want %d", len(got), len(want))
		}
		for p, when := range want {
			if !got[p].Equal(when) {
				t.Errorf("%s is of %s, want %s", p, got[p], when)
			}
		}

		why := errors.New("enough")
		err = w.WalkTimes(t.Context(), ".", func(_ string, e toolset.Entry) (bool, error) { return true, why }, func(string, time.Time) {})
		if !errors.Is(err, why) {
			t.Errorf("a walk that pick ended: %v", err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		err = w.WalkTimes(ctx, ".", func(string, toolset.Entry) (bool, error) { cancel(why); return true, nil }, func(string, time.Time) {})
		if !errors.Is(err, why) {
			t.Errorf("a cancelled walk: %v", err)
		}
		if now := descriptors(t); now > open { // fewer where others were forgotten about
			t.Errorf("%d descriptors are open, %d were", now, open)
		}
	})
}

func descriptors(t *testing.T) int {
	open, err := filepath.Glob("/proc/self/fd/*")
	must(t, err)
	return len(open)
}
