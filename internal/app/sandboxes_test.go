package app

import (
	"errors"
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
