package namespaces_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
	"github.com/berthdev/berth/toolset"
)

// spawners are the processes of this program's that start agents for it.
func spawners(t *testing.T) (pids []int) {
	t.Helper()
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil || len(lists) == 0 {
		t.Skip("this kernel does not list children")
	}
	for _, list := range lists {
		b, _ := os.ReadFile(list)
		for _, pid := range strings.Fields(string(b)) {
			if name, _ := os.ReadFile("/proc/" + pid + "/comm"); strings.TrimSpace(string(name)) == "berth-spawner" {
				n, _ := strconv.Atoi(pid)
				pids = append(pids, n)
			}
		}
	}
	return pids
}

// TestSpawner kills what starts the agents: those that run stay, and the next
// one is started all the same.
func TestSpawner(t *testing.T) {
	d := newDriver()
	if p := d.Probe(t.Context()); !p.OK {
		t.Skipf("namespaces cannot be made here: %s (%s)", p.Reason, p.Cure)
	}
	first := sandboxtest.Start(t, d, nil)
	pids := spawners(t)
	if len(pids) != 1 {
		t.Fatalf("%d spawners", len(pids))
	}
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		for _, pid := range spawners(t) {
			if err := syscall.Kill(pid, signal); err != nil {
				t.Fatal(err)
			}
		}
		sandboxtest.Start(t, d, nil).Want("echo new", "new\n", toolset.Exited, 0)
	}
	first.Want("echo old", "old\n", toolset.Exited, 0)
	for _, pid := range spawners(t) {
		if pid == pids[0] {
			t.Error("the killed one is still there")
		}
		environ, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
		if err != nil || string(environ) != "GOMAXPROCS=1\x00" {
			t.Errorf("its environment is %q (%v)", environ, err)
		}
	}
}
