// Package child is the far side of every re-exec: what this program does when
// it was started by itself, as another process with a job of its own. Only a
// main (or a TestMain) calls it; nothing else imports it.
//
// The one job is the agent's. It is the first process of a sandbox: it
// builds the sandbox's file system as its supervisor told it to, gives up its
// privileges, and holds the shell. How it speaks is in
// docs/design/0002-agent-frames.md. How it holds bash:
//
//   - bash reads its script from a file that the agent makes longer, so every
//     command is evaluated at the top level of one shell; where the script ends
//     so far, bash waits to open a FIFO. What it has read is thrown away: the file
//     begins with a hole;
//   - a command's output goes to one of a few FIFOs, and the report that it has
//     ended to another, with a number that the agent made up for this command.
//     The shell and its children inherit none of them;
//   - a FIFO whose writers outlive their command is drained and thrown away.
package child

import (
	"os"
	"path/filepath"

	"github.com/berthdev/berth/internal/agentwire"
)

// AgentName is the name (argv[0]) by which a program is asked to be an agent.
const AgentName = "berth-agent"

// Main does the job this process was started for and ends the process, or
// returns at once when it was started by a person. Call it first thing in
// main.
func Main() {
	if len(os.Args) > 0 && filepath.Base(os.Args[0]) == AgentName {
		Agent()
	}
}

// Agent is the agent's main, that of the agent's helper, and that of the
// worker's, which starts agents. It does not return.
func Agent() {
	if len(os.Args) > 1 && os.Args[1] == agentwire.SpawnWord {
		os.Exit(spawn())
	}
	if path, ok := forwardingTo(); ok {
		os.Exit(forward(path))
	}
	os.Exit(agentMain())
}
