//go:build !linux

package sandboxtest

import (
	"testing"

	"github.com/berthdev/berth/internal/sandbox"
)

// Attacks makes none: no driver isolates here.
func Attacks(*testing.T, sandbox.Driver, func() sandbox.Driver) {}

// NothingSurvives starts nothing, for the same reason.
func NothingSurvives(*testing.T, func() sandbox.Driver, int) {}

// KilledWhileStarting kills nothing, for the same reason.
func KilledWhileStarting(*testing.T, func() sandbox.Driver, func(string) []string, ...string) {}
