package namespaces_test

import (
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
	"github.com/berthdev/berth/toolset"
)

// TestTenGigabytes of output end within the call's own limit, and the next call
// works.
func TestTenGigabytes(t *testing.T) {
	if testing.Short() {
		t.Skip("by design: ten gigabytes take half a minute; without -short, as in make test, they run")
	}
	d := newDriver()
	if p := d.Probe(t.Context()); !p.OK {
		t.Skipf("namespaces cannot be made here: %s (%s)", p.Reason, p.Cure)
	}
	w := sandboxtest.Start(t, d, nil)
	const size = 10 << 30
	r := w.Call(toolset.Command{Text: "head -c 10G /dev/zero; printf END", Timeout: 10 * time.Minute})
	if got := int64(len(r.Head)+len(r.Tail)) + r.Dropped; r.End != toolset.Exited || r.ExitCode != 0 || got != size+3 {
		t.Errorf("it ended as %s %d after %v with %d bytes", r.End, r.ExitCode, r.Elapsed, got)
	}
	t.Logf("10 GB in %v", r.Elapsed.Round(time.Millisecond))
	w.Want("echo next", "next\n", toolset.Exited, 0)
}
