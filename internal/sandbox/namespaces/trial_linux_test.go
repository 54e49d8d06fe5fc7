package namespaces_test

import (
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/crash"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/namespaces"
)

// TestKilledAmidATrial: what a worker leaves that is killed as it tries its
// driver is ended by a later trial.
func TestKilledAmidATrial(t *testing.T) {
	d := namespaces.New(namespaces.Config{})
	try := func() error { return sandbox.Try(t.Context(), d, sandbox.Spec{}) }
	if flag.NArg() == 2 && flag.Arg(0) == "trying" {
		if err := crash.Arm(flag.Arg(1)); err != nil {
			t.Fatal(err)
		}
		t.Fatalf("the worker was not killed: %v", try())
	}
	if p := d.Probe(t.Context()); !p.OK {
		t.Skipf("namespaces cannot be made here: %s (%s)", p.Reason, p.Cure)
	}
	for _, mark := range []string{"namespaces group", "namespaces agent", "namespaces record"} {
		t.Run(mark, func(t *testing.T) {
			tmp := t.TempDir()
			t.Setenv("TMPDIR", tmp)
			cmd := exec.Command("/proc/self/exe", "-test.run", "^TestKilledAmidATrial$", "--", "trying", mark)
			out, err := cmd.CombinedOutput()
			if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
				t.Fatalf("%v\n%s", err, out)
			}
			folders := func() []string {
				names, err := filepath.Glob(filepath.Join(tmp, "*"))
				if err != nil {
					t.Fatal(err)
				}
				return names
			}
			left := folders()
			if err := try(); err != nil || len(left) != 1 || len(folders()) != 1 {
				t.Fatalf("the killed one left %v, of a trial that may go on there is %v: %v", left, folders(), err)
			}
			old := time.Now().Add(-time.Hour)
			if err := os.Chtimes(left[0], old, old); err != nil {
				t.Fatal(err)
			}
			if err := try(); err != nil || len(folders()) > 0 {
				t.Errorf("left: %v, %v", folders(), err)
			}
			if out, err := exec.Command("pgrep", "-f", left[0]).Output(); err == nil {
				t.Errorf("still running: %s", out)
			}
			label := strings.TrimSuffix(sandbox.Label(filepath.Join(tmp, "x")), "x")
			_ = filepath.WalkDir("/sys/fs/cgroup", func(p string, e fs.DirEntry, err error) error {
				if err == nil && strings.HasPrefix(e.Name(), label) {
					t.Errorf("a cgroup is left: %s", p)
				}
				return nil
			})
		})
	}
}
