package sandboxtest

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/berthdev/berth/internal/crash"
	"github.com/berthdev/berth/internal/sandbox"
)

// starting is the test of a driver that calls KilledWhileStarting; it is also
// run as the worker that is killed.
const starting = "^TestKilledWhileStarting$"

// KilledWhileStarting has a worker killed at each of a driver's marks while it
// starts a sandbox: the next worker leaves nothing of it but the tree, and the
// session goes on. places, when set, gives where else the driver has something
// of a sandbox by its label. To be called by a driver's TestKilledWhileStarting.
func KilledWhileStarting(t *testing.T, driver func() sandbox.Driver, places func(label string) []string, marks ...string) {
	if flag.NArg() == 3 && flag.Arg(0) == "starting" {
		d, dir := driver(), flag.Arg(1)
		if err := crash.Arm(flag.Arg(2)); err != nil {
			t.Fatal(err)
		}
		// A place that no other sandbox has: what drivers keep for all that are
		// alike is made anew.
		k := survivorKeeper(t, d, dir, sandbox.Mount{Source: filepath.Dir(dir), Target: "/" + filepath.Base(dir)})
		_, _, err := k.Open(t.Context(), session(0))
		t.Fatalf("the worker was not killed at %q: %v", flag.Arg(2), err)
	}
	d := driver()
	if p := d.Probe(t.Context()); !p.OK {
		t.Skipf("%s cannot run here: %s (%s)", d.Name(), p.Reason, p.Cure)
	}
	for _, mark := range marks {
		t.Run(mark, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "berth-starting-"+Nap())
			Killed(t, starting, "starting", dir, mark)
			k := survivorKeeper(t, d, dir)
			only(t, filepath.Join(dir, session(0)), "tree")
			if places != nil {
				for _, at := range places(sandbox.Label(filepath.Join(dir, session(0)))) {
					if _, err := os.Stat(at); err == nil {
						t.Errorf("after the next worker's start %s is left", at)
					}
				}
			}
			if left := unnamed(t, filepath.Base(dir)); len(left) > 0 {
				t.Errorf("after the next worker's start %v are left: %s", left, commands(left))
			}
			h, _, err := k.Open(t.Context(), session(0))
			if err != nil {
				t.Fatal(err)
			}
			if err := h.Close(t.Context(), true); err != nil {
				t.Error(err)
			}
			if err := k.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			nothingLeft(t, d, dir)
		})
	}
}

// commands are the command lines of processes.
func commands(pids []int) string {
	var all []string
	for _, pid := range pids {
		b, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		all = append(all, strings.ReplaceAll(string(b), "\x00", " "))
	}
	return strings.Join(all, "\n")
}

// Killed runs a test of this binary in a process of its own, with arguments by
// which it arms a crash: it must be killed.
func Killed(t testing.TB, test string, args ...string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", append([]string{"-test.run", test, "--"}, args...)...)
	out, err := cmd.CombinedOutput()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
		t.Fatalf("%v\n%s", err, out)
	}
}
