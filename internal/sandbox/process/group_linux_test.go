package process

import (
	"os"
	"testing"
	"time"
)

// TestLeftoverGroups makes the group of a sandbox whose worker never came
// back: an old one goes, a young one and one in use stay.
func TestLeftoverGroups(t *testing.T) {
	home := groupHome()
	g := newGroup("sesn_leftover")
	if home == "" || g.dir == "" {
		t.Skip("no cgroup of one's own here")
	}
	defer g.remove()
	removeLeftovers(home)
	if _, err := os.Stat(g.dir); err != nil {
		t.Fatalf("a young group was removed: %v", err)
	}
	old := time.Now().Add(-2 * leftoverAge)
	if err := os.Chtimes(g.dir, old, old); err != nil {
		t.Skipf("a cgroup's time cannot be set here: %v", err)
	}
	removeLeftovers(home)
	if _, err := os.Stat(g.dir); err == nil {
		t.Error("an old, empty group stayed")
	}
}
