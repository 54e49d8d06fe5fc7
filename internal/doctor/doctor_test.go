package doctor

import (
	"context"
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/mock"
)

// named is a driver by another name, that promises or probes something else.
type named struct {
	sandbox.Driver
	name     string
	probe    sandbox.Probe
	promises sandbox.Capabilities
}

func (n named) Name() string                        { return n.name }
func (n named) Probe(context.Context) sandbox.Probe { return n.probe }
func (n named) Capabilities() sandbox.Capabilities  { return n.promises }

// TestDriversAreProven: a driver that cannot run is told with its cure, one that
// is not what it promises is not to be relied on, and what is asked for must work.
func TestDriversAreProven(t *testing.T) {
	real := mock.New(mock.Knobs{})
	works := sandbox.Probe{OK: true}
	drivers := []sandbox.Driver{
		named{real, "liar", works, sandbox.Capabilities{Files: true, Processes: true, Network: true}},
		named{real, "missing", sandbox.Probe{Reason: "it is not there", Cure: "bring it"}, sandbox.Capabilities{}},
		named{real, "open", works, sandbox.Capabilities{}},
	}
	for asked, want := range map[string]map[string]string{
		"auto":    {"sandbox liar": "no", "sandbox missing": "no", "sandbox open": "ok", "isolation": "FAIL"},
		"missing": {"sandbox liar": "no", "sandbox missing": "FAIL", "sandbox open": "ok"},
		"liar":    {"sandbox liar": "FAIL", "sandbox missing": "no", "sandbox open": "ok"},
		"open":    {"sandbox liar": "no", "sandbox missing": "no", "sandbox open": "ok"},
	} {
		r := Look(t.Context(), Config{Drivers: drivers, Sandbox: asked})
		got := map[string]string{}
		for _, f := range r.Findings {
			if !strings.HasPrefix(f.Name, "sandbox ") && f.Name != "isolation" {
				continue
			}
			got[f.Name] = map[State]string{Good: "ok", Absent: "no", Bad: "FAIL"}[f.State]
			if f.State != Good && (f.Detail == "" || f.Cure == "") {
				t.Errorf("%s: %s has no reason or no cure: %+v", asked, f.Name, f)
			}
			if f.Name == "sandbox liar" && !strings.Contains(f.Detail, "not what was promised") {
				t.Errorf("of one that is not what it promises it says %q", f.Detail)
			}
		}
		for name, state := range want {
			if got[name] != state {
				t.Errorf("asked for %s: %s is %q, not %q", asked, name, got[name], state)
			}
		}
		if len(got) != len(want) {
			t.Errorf("asked for %s: %v", asked, got)
		}
	}
}
