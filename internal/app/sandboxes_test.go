package app

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/mock"
)

// way is a driver of another name.
type way struct {
	*mock.Driver
	name string
}

func (w way) Name() string { return w.name }

func ways(namespaces sandbox.Probe) []sandbox.Driver {
	return []sandbox.Driver{
		way{mock.New(mock.Knobs{Probe: &namespaces}), "namespaces"},
		way{mock.New(mock.Knobs{}), "process"},
	}
}

// TestAutoTakesTheBest: gVisor where it works, else namespaces, and no other
// driver, whatever works.
func TestAutoTakesTheBest(t *testing.T) {
	for _, c := range []struct {
		works []string
		want  string
	}{
		{[]string{"gvisor", "namespaces", "docker", "command", "process"}, "gvisor"},
		{[]string{"namespaces", "docker", "command", "process"}, "namespaces"},
		{[]string{"docker", "command", "process"}, ""},
	} {
		var all []sandbox.Driver
		for _, d := range drivers(config.Sandbox{}, "", t.TempDir(), slog.New(slog.DiscardHandler)) {
			p := sandbox.Probe{OK: slices.Contains(c.works, d.Name()), Reason: "it does not work", Cure: "mend it"}
			all = append(all, way{mock.New(mock.Knobs{Probe: &p}), d.Name()})
		}
		got := ""
		d, _, err := chooseDriver(t.Context(), "auto", all)
		if err == nil {
			got = d.Name()
		}
		if got != c.want || len(all) != 5 {
			t.Errorf("where %v work auto takes %q of %d, not %q: %v", c.works, got, len(all), c.want, err)
		}
	}
}

func TestAutoNeverMeansNoIsolation(t *testing.T) {
	d, _, err := chooseDriver(t.Context(), "auto", ways(sandbox.Probe{OK: true}))
	if err != nil || d.Name() != "namespaces" {
		t.Errorf("auto on a good machine: %v, %v", d, err)
	}
	bad := sandbox.Probe{Reason: "the kernel says no", Cure: "sysctl this=1"}
	for _, name := range []string{"auto", "namespaces"} {
		d, _, err = chooseDriver(t.Context(), name, ways(bad))
		if err == nil {
			t.Fatalf("%s on a bad machine gave %s", name, d.Name())
		}
		for _, part := range []string{"the kernel says no", "sysctl this=1"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", name, err, part)
			}
		}
	}
	if d, _, err = chooseDriver(t.Context(), "process", ways(bad)); err != nil || d.Name() != "process" {
		t.Errorf("process by name: %v, %v", d, err)
	}
	for _, name := range []string{"kubernetes", "jail", ""} {
		_, _, err = chooseDriver(t.Context(), name, ways(bad))
		if _, ok := errors.AsType[*config.Error](err); !ok {
			t.Errorf("%q: %v is no *config.Error", name, err)
		}
	}
}
