package namespaces_test

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/crash"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/namespaces"
	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
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
			sandboxtest.Killed(t, "^TestKilledAmidATrial$", "trying", mark)
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
			if groups := sandboxtest.Groups(t, tmp); len(groups) > 0 {
				t.Errorf("cgroups are left: %v", groups)
			}
		})
	}
}
