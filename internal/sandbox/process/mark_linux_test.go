package process

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestMarkedAmidAnExec: a process that becomes another program all the time has
// no environment in one of twelve looks, and is found in each.
func TestMarkedAmidAnExec(t *testing.T) {
	const again = `exec /bin/sh -c "$0" "$0"`
	cmd := exec.Command("/bin/sh", "-c", again, again)
	cmd.Env = []string{"MARK=x"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	for range 5000 {
		if got := environ(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid))); !strings.HasPrefix(got, "MARK=x\x00") {
			t.Fatalf("its environment is %q", got)
		}
	}
}
