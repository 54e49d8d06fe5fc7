package sandboxtest

import (
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

// testFullScratch fills what a sandbox has of its own: the shell lives on, and
// can make room again.
func testFullScratch(t *testing.T, d sandbox.Driver) {
	w := Start(t, d, nil)
	w.Want("kept=1; for f in /dev/shm/x /home/agent/x /run/x; do cat /dev/zero >$f; done 2>&-; rm -f /run/x; cat /dev/zero 2>&- >/run/x", "", toolset.Exited, 1)
	w.Want("echo alive $kept #"+strings.Repeat("x", 64<<10), "alive 1\n", toolset.Exited, 0)
	w.Want("rm /dev/shm/x /home/agent/x /run/x && echo x >/dev/shm/y && cat /dev/shm/y", "x\n", toolset.Exited, 0)
}
