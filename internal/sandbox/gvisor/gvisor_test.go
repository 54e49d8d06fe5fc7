package gvisor_test

import (
	"os"
	"testing"

	"github.com/berthdev/berth/internal/child"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/gvisor"
	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	child.Main()
	os.Exit(m.Run())
}

// built is what make runsc builds; where it has not, another one is looked for.
const built = "../../../bin/runsc"

func newDriver() sandbox.Driver {
	cfg := gvisor.Config{}
	if _, err := os.Stat(built); err == nil {
		cfg.Runsc = built
	}
	return gvisor.New(cfg)
}

func TestDriver(t *testing.T) { sandboxtest.Run(t, newDriver) }

func BenchmarkStart(b *testing.B)    { sandboxtest.BenchmarkStart(b, newDriver()) }
func BenchmarkTrue(b *testing.B)     { sandboxtest.BenchmarkTrue(b, newDriver()) }
func BenchmarkChecked(b *testing.B)  { sandboxtest.BenchmarkChecked(b, newDriver()) }
func BenchmarkFlood(b *testing.B)    { sandboxtest.BenchmarkFlood(b, newDriver()) }
func BenchmarkSessions(b *testing.B) { sandboxtest.BenchmarkSessions(b, newDriver()) }
