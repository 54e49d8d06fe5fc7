package skills

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What is old goes while the worker runs, but not what a session has.
func TestTheCacheIsTrimmedAndWhatIsInUseStays(t *testing.T) {
	c, err := openCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	used, unused, fresh := strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64)
	for digest, at := range map[string]time.Time{used: now.Add(-keep - time.Hour), unused: now.Add(-keep - time.Hour), fresh: now.Add(-keep + 3*time.Hour)} {
		if err := os.MkdirAll(c.files(digest), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Dir(c.files(digest)), at, at); err != nil {
			t.Fatal(err)
		}
	}
	there := func() (all string) {
		for _, d := range []string{used, unused, fresh} {
			if _, err := os.Stat(c.files(d)); err == nil {
				all += d[:1]
			}
		}
		return all
	}
	trim := func(at time.Time, want string) {
		t.Helper()
		if err := c.trim(at); err != nil {
			t.Fatal(err)
		}
		if got := there(); got != want {
			t.Errorf("left %q, want %q", got, want)
		}
	}
	for range 2 {
		if !c.hold(used) {
			t.Fatal("what is there cannot be held")
		}
	}
	if c.hold(strings.Repeat("d", 64)) {
		t.Error("what is not there can be held")
	}
	trim(now.Add(trimEvery-time.Minute), "abc") // it was looked after just now
	trim(now.Add(trimEvery), "ac")
	c.release(used)
	trim(now.Add(2*trimEvery), "ac")
	c.release(used)
	trim(now.Add(3*trimEvery), "c")
	trim(now.Add(5*trimEvery), "")
	if len(c.held) > 0 {
		t.Errorf("held for ever: %v", c.held)
	}
}
