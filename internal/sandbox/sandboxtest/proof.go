package sandboxtest

import (
	"slices"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
)

// testProof has a driver's promises proven on a live sandbox, and sees that
// the proof costs nothing to speak of.
func testProof(t *testing.T, d sandbox.Driver) {
	w := Start(t, d, nil)
	r, err := sandbox.Prove(t.Context(), d, w.Sandbox, true)
	for _, c := range r.Checks {
		if err != nil || testing.Verbose() {
			t.Logf("%-22s promised %-16s found %s", c.Name, c.Promised, c.Found)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if r.Session != w.Spec.SessionID || r.Driver != d.Name() || len(r.Checks) < 10 {
		t.Errorf("the receipt: %+v", r)
	}
	var took []time.Duration
	for range 20 {
		began := time.Now()
		if _, err := sandbox.Prove(t.Context(), d, w.Sandbox, true); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("a proof takes %v (median of %d)", took[len(took)/2], len(took))
}
