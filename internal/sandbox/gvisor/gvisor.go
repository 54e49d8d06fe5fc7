// Package gvisor isolates a session with gVisor: runsc's sentry is a kernel of
// the session's own, written in Go, between its processes and the host's
// kernel. Under it lie the means of package namespaces: the sentry and its file
// server run in namespaces of their own, as users of their own, behind a filter
// of system calls. How the supervisor reaches the agent inside is in
// docs/design/0007-gvisor.md.
package gvisor

import (
	"log/slog"

	"github.com/berthdev/berth/internal/sandbox/agent"
)

// Name is the driver's, in flags and records.
const Name = "gvisor"

// Config has no required field.
type Config struct {
	// Runsc is gVisor's program; "" means the runsc beside this program, in
	// bin/ beside it, or on the PATH, in this order.
	Runsc string
	// Program is the agent to start; nil means agent.Find's.
	Program *agent.Program
	// Log hears of what is worth a look; nil is silence.
	Log *slog.Logger
}
