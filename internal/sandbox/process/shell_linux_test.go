package process_test

import (
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
	"github.com/berthdev/berth/toolset"
)

// TestAShellEndsWithItsAgent though nobody comes to clear up after an agent that
// was killed.
func TestAShellEndsWithItsAgent(t *testing.T) {
	w := sandboxtest.Start(t, newDriver(), nil)
	shell, err := strconv.Atoi(strings.TrimSpace(sandboxtest.Output(w.Call(toolset.Command{Text: "echo $$"}))))
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(shell, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := w.Sandbox.(interface{ Process() *agent.Process }).Process().Kill(); err != nil {
		t.Fatal(err)
	}
	const patience = 60_000 // milliseconds
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, patience)
		if n == 1 {
			return
		}
		if err != unix.EINTR {
			t.Fatalf("the shell runs on: poll says %d, %v", n, err)
		}
	}
}
