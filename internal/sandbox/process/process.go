// Package process runs a session's tools on the host as they are: it isolates
// nothing. The shell has a clean environment, the session's tree at its names
// where the kernel allows that, and is ended with all that it started.
package process

import (
	"log/slog"

	"github.com/berthdev/berth/internal/sandbox/agent"
)

// Name is the driver's, in flags and records.
const Name = "process"

// Config has no required field.
type Config struct {
	// Program is the agent to start; nil means agent.Find's.
	Program *agent.Program
	// User is the number of the user, and of its group, that the tools are, when
	// this process is root; 0 means that they are who this process is. As
	// another user they have no privileges and cannot get any.
	User int
	// Plain keeps the host's mounts as they are, even where the tree could be
	// shown at its names.
	Plain bool
	// Log hears of what the host does not allow; nil is silence.
	Log *slog.Logger
}
