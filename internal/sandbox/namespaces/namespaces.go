// Package namespaces isolates a session with the kernel's own means: user,
// mount, pid, network, ipc, uts and cgroup namespaces of its own, a fresh root
// with the host's programs read-only, no network, no capabilities and no new
// privileges. It needs no daemon, and no root where the kernel lets ordinary
// users make user namespaces. The kernel itself is shared with the host.
package namespaces

import (
	"log/slog"

	"github.com/berthdev/berth/internal/sandbox/agent"
)

// Name is the driver's, in flags and records.
const Name = "namespaces"

// Config has no required field.
type Config struct {
	// Program is the agent to start; nil means agent.Find's.
	Program *agent.Program
	// Log hears of what is worth a look; nil is silence.
	Log *slog.Logger
}
