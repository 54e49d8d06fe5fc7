package app

import (
	"log/slog"
	"os"
	"slices"
	"testing"

	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/sandbox"
)

// What the worker adds to a driver is among what is enforced: a limit on the
// disk, as root where disks can be made.
func TestProbeTellsOfTheDisk(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	ways, err := SandboxProbe(t.Context(), SandboxConfig{Sandbox: config.Sandbox{Sandbox: "process"}, StateDir: t.TempDir(), Log: log})
	if err != nil || len(ways) != 1 {
		t.Fatal(ways, err)
	}
	if got := slices.Contains(ways[0].Capabilities.Limits, sandbox.LimitDisk); got != (os.Geteuid() == 0) {
		t.Errorf("as user %d: %v", os.Geteuid(), ways[0].Capabilities.Limits)
	}
}
