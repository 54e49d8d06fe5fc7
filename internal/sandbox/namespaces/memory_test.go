package namespaces_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/cgroup"
	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
	"github.com/berthdev/berth/toolset"
)

// TestDiskIsCharged: what an ordinary user's session has on its disk counts as
// its memory, and a full disk is met before memory runs out. Root gives the user
// a group for it.
func TestDiskIsCharged(t *testing.T) {
	if os.Getuid() == 0 {
		defer joinGroup(t)()
		sandboxtest.AsOrdinaryUser(t, "^TestDiskIsCharged$")
		return
	}
	d := newDriver()
	if p := d.Probe(t.Context()); !p.OK {
		t.Skipf("namespaces cannot be made here: %s (%s)", p.Reason, p.Cure)
	}
	if !slices.Contains(d.Capabilities().Limits, sandbox.LimitMemory) {
		t.Skip("by design: this user has no memory group; TestDiskIsCharged under root gives it one")
	}
	const size, memory = 96 << 20, 192 << 20
	w := sandboxtest.Bounded(t, d, sandbox.Limits{Disk: size, Memory: memory})
	used := func() int64 { return w.Sandbox.(interface{ Usage() cgroup.Usage }).Usage().Memory }
	before := used()
	for range 3 {
		if r := w.Do("head -c 1G /dev/zero >/workspace/full"); r.OOM || r.ExitCode == 0 || !strings.Contains(sandboxtest.Output(r), "No space left") {
			t.Errorf("a full disk: %s %d, memory ran out: %v: %q", r.End, r.ExitCode, r.OOM, sandboxtest.Output(r))
		}
	}
	if more := used() - before; more < size*9/10 {
		t.Errorf("with %d bytes on its disk the session uses %d more", size, more)
	}
	w.Want("rm /workspace/full && echo room >/workspace/x && cat /workspace/x", "room\n", toolset.Exited, 0)
}

// joinGroup moves this process into a memory group that nobody may make groups
// in, and gives what moves it back.
func joinGroup(t *testing.T) (back func()) {
	t.Helper()
	own := ""
	b, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(b)) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 && f[1] == "memory" {
			own = filepath.Join("/sys/fs/cgroup/memory", f[2])
		}
	}
	if _, err := os.Stat(filepath.Join(own, "cgroup.procs")); own == "" || err != nil {
		t.Skip("by design: there is no v1 memory group to give away here")
	}
	dir := filepath.Join(own, "berth-test-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "cgroup.procs", "tasks"} {
		if err := os.Chown(filepath.Join(dir, name), 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	enter := func(dir string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
	}
	enter(dir)
	return func() {
		enter(own)
		// The killed need a moment to leave; Remove waits for them.
		if err := cgroup.Open(cgroup.Dirs{Legacy: map[string]string{"memory": dir}}).Remove(); err != nil {
			t.Error(err)
		}
	}
}

// TestDiskBeyondMemory: a disk in memory that leaves no memory is refused where
// it is required, and left out where it is not.
func TestDiskBeyondMemory(t *testing.T) {
	if os.Getuid() == 0 {
		sandboxtest.AsOrdinaryUser(t, "^TestDiskBeyondMemory$")
		return
	}
	d := newDriver()
	if p := d.Probe(t.Context()); !p.OK {
		t.Skipf("namespaces cannot be made here: %s (%s)", p.Reason, p.Cure)
	}
	for _, required := range []bool{true, false} {
		dir := t.TempDir()
		limits := sandbox.Limits{Disk: 64 << 20, Memory: 100 << 20}
		if required {
			limits.Required = []sandbox.Limit{sandbox.LimitDisk}
		}
		k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: d, Dir: dir, Spec: sandbox.Spec{Limits: limits}})
		if err == nil {
			err = k.Start(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = k.Open(t.Context(), "sesn_large")
		if required && (err == nil || !strings.Contains(err.Error(), "raise memory")) || !required && err != nil {
			t.Errorf("required %v: %v", required, err)
		}
		if err == nil {
			if r, err := sandbox.ReadReceipt(filepath.Join(dir, "sesn_large")); err != nil || !slices.Contains(r.Left, sandbox.LimitDisk) {
				t.Errorf("the receipt says %v left, %v", r.Left, err)
			}
		}
		if err := k.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}
}
