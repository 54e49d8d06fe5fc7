//go:build !linux

package sandboxtest

import (
	"testing"

	"github.com/berthdev/berth/internal/sandbox"
)

// testHostile has nothing to try: no driver isolates here.
func testHostile(*testing.T, sandbox.Driver) {}
