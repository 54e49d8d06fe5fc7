package sandboxtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/berthdev/berth/internal/sandbox/agent"
)

// Agent is the agent as it is shipped, built into a directory unless it is
// there.
func Agent(dir string) (*agent.Program, error) {
	path := filepath.Join(dir, "berth-agent")
	if _, err := os.Stat(path); err != nil {
		build := exec.Command("go", "build", "-o", path, "github.com/berthdev/berth/cmd/berth-agent")
		build.Env = append(build.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build the agent: %w\n%s", err, out)
		}
	}
	return agent.Open(path)
}
