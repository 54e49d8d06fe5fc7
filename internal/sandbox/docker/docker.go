// Package docker isolates a session in a container of a Docker daemon on this
// machine: the daemon's runtime keeps it apart, with a read-only root, no
// capabilities, no new privileges and no network. The agent is shown inside as
// a file of the host; no image is changed. How strong the wall is depends on
// the runtime: with the usual one the kernel is shared with the host.
package docker

import (
	"log/slog"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
)

// Name is the driver's, in flags and records.
const Name = "docker"

// Config says which daemon and how.
type Config struct {
	// Host is the daemon's address, unix:///PATH; "" is the usual one.
	Host string
	// Runtime is one of the daemon's runtimes; "" is its default.
	Runtime string
	// Dir keeps the agent's program where the daemon can show it to containers.
	// It must be this user's own.
	Dir string
	// Image is what Probe tries; nil is the host's programs.
	Image *sandbox.Image
	// Program is the agent to start; nil means agent.Find's.
	Program *agent.Program
	// Log hears of what is worth a look; nil is silence.
	Log *slog.Logger
}
