package docker_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/docker"
	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
	"github.com/berthdev/berth/toolset"
)

func TestProbe(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*docker.Config)
		want   string
	}{
		"nobody":     {func(c *docker.Config) { c.Host = "unix:///nowhere/docker.sock" }, "no Docker daemon answers at unix:///nowhere/docker.sock"},
		"far":        {func(c *docker.Config) { c.Host = "tcp://127.0.0.1:2375" }, "another machine"},
		"no runtime": {func(c *docker.Config) { c.Runtime = "nowhere" }, "no runtime nowhere; use one of"},
	} {
		p := newDriver(t, c.change).Probe(t.Context())
		if p.OK || p.Cure == "" || !strings.Contains(p.Reason+"; "+p.Cure, c.want) || strings.Contains(p.Reason+p.Cure, "\n") {
			t.Errorf("%s: %+v", name, p)
		}
	}
	d := newDriver(t, func(c *docker.Config) { c.Runtime = "runc" })
	if p := d.Probe(t.Context()); !p.OK || !strings.Contains(p.Version, "runc") {
		t.Errorf("%+v", p)
	}
	if c := d.Capabilities(); !slices.Contains(c.Limits, sandbox.LimitMemory) || !slices.Contains(c.Limits, sandbox.LimitPIDs) {
		t.Errorf("limits %v", c.Limits)
	}
}

// TestLimits reads back from inside what was asked for.
func TestLimits(t *testing.T) {
	d := newDriver(t, nil)
	w := sandboxtest.Start(t, d, func(s *sandbox.Spec) {
		s.Limits = sandbox.Limits{PIDs: 40, Memory: 64 << 20, OpenFiles: 77}
	})
	w.Want("ulimit -Hn", "77\n", toolset.Exited, 0)
	w.Want("(for i in $(seq 100); do sleep 30 & done) 2>&1 | grep -c -m1 'Resource temporarily unavailable'; kill $(jobs -p) 2>&-; true", "1\n", toolset.Exited, 0)
	if err := w.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := w.Do("perl -e '$x = \"x\" x (300<<20); print length $x'")
	if r.ExitCode != 137 || r.End != toolset.Exited || !r.OOM {
		t.Errorf("300 MB in 64: %s %d %q", r.End, r.ExitCode, sandboxtest.Output(r))
	}
	w.Want("echo alive", "alive\n", toolset.Exited, 0)
}

// TestAssign gives a sandbox that was started for nobody to a session.
func TestAssign(t *testing.T) {
	d := newDriver(t, nil)
	w := sandboxtest.Start(t, d, nil)
	w.Want("echo before >/workspace/f", "", toolset.Exited, 0)
	a := w.Sandbox.(sandbox.Assignable)
	dir := filepath.Join(filepath.Dir(w.Spec.Dir), "sesn_late")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := a.Assign("sesn_late", dir); err == nil {
		t.Fatal("assigned over a folder that is there")
	}
	w.Want("echo as it was", "as it was\n", toolset.Exited, 0)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := a.Assign("sesn_late", dir); err != nil {
		t.Fatal(err)
	}
	if got := containers(t, d); !slices.Contains(got, sandbox.Label(dir)) || slices.Contains(got, sandbox.Label(w.Spec.Dir)) {
		t.Errorf("the containers are %v", got)
	}
	w.Want("cat f; echo after >g", "before\n", toolset.Exited, 0)
	if b, err := os.ReadFile(filepath.Join(dir, "tree/workspace/g")); err != nil || string(b) != "after\n" {
		t.Errorf("%q %v", b, err)
	}
	if err := w.Files().WriteFile("h", []byte("tool")); err != nil {
		t.Error(err)
	}
	w.Want("cat h", "tool", toolset.Exited, 0)

	// Another worker takes it over under its new name.
	w.Sandbox.(interface{ Close() }).Close()
	rec := w.Sandbox.Record()
	if rec.SessionID != "sesn_late" || rec.Spec.Dir != dir {
		t.Fatalf("%+v", rec)
	}
	again, err := newDriver(t, nil).Recover(t.Context(), rec)
	if err != nil {
		t.Fatal(err)
	}
	r, err := again.Bash(t.Context(), toolset.Command{Text: "cat g"})
	if err != nil || string(r.Head) != "after\n" {
		t.Errorf("%q %v", r.Head, err)
	}
	if err := again.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("%v is left", entries)
	}
	if got := containers(t, d); len(got) > 0 {
		t.Errorf("containers are left: %v", got)
	}
}

// TestLeftovers has a container whose worker and folder are gone.
func TestLeftovers(t *testing.T) {
	d := newDriver(t, nil)
	lost, kept := sandboxtest.Start(t, d, nil), sandboxtest.Start(t, d, nil)
	left, err := d.Leftovers(t.Context(), func(name string) bool { return strings.HasPrefix(name, sandbox.Label(kept.Spec.Dir)) })
	if err != nil || len(left) != 1 || left[0].Name != sandbox.Label(lost.Spec.Dir) || left[0].Kind != "container" {
		t.Fatalf("%+v %v", left, err)
	}
	for range 2 {
		if err := left[0].Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	kept.Want("echo here", "here\n", toolset.Exited, 0)
	if _, err := lost.Bash(t.Context(), toolset.Command{Text: "true"}); !errors.Is(err, sandbox.ErrGone) {
		t.Errorf("after its removal: %v", err)
	}
	if got := containers(t, d); len(got) != 1 {
		t.Errorf("the containers are %v", got)
	}
}

// TestFaults has every step of a start fail, and its caller lose patience at
// every step: nothing of it is left.
func TestFaults(t *testing.T) {
	d := newDriver(t, nil)
	if p := d.Probe(t.Context()); !p.OK {
		t.Fatal(p.Reason)
	}
	begin := func(ctx context.Context, fault func(string) error) (sandbox.Sandbox, string, error) {
		dir := t.TempDir()
		spec := sandbox.Spec{SessionID: "sesn_x", Dir: dir, Tree: filepath.Join(dir, "tree")}
		if err := os.Mkdir(spec.Tree, 0o755); err != nil {
			t.Fatal(err)
		}
		defer sandbox.SetFault(fault)()
		sb, err := d.Start(ctx, spec)
		return sb, dir, err
	}
	var steps []string
	sb, _, err := begin(t.Context(), func(step string) error { steps = append(steps, step); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := sb.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(steps) < 10 {
		t.Fatalf("the steps are %v", steps)
	}
	boom := errors.New("boom")
	for _, step := range steps {
		for name, late := range map[string]bool{"fails": false, "is too late": true} {
			ctx, cancel := context.WithCancel(t.Context())
			sb, dir, err := begin(ctx, func(s string) error {
				if s == step && late {
					cancel()
				} else if s == step {
					return boom
				}
				return nil
			})
			cancel()
			if err == nil { // the caller may come too late to stop it
				if err := sb.Stop(t.Context()); err != nil || !late {
					t.Errorf("%s %s: a session started (%v)", step, name, err)
				}
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 1 {
				t.Errorf("%s %s: %v is left", step, name, entries)
			}
			if got := containers(t, d); len(got) > 0 {
				t.Errorf("%s %s: containers are left: %v", step, name, got)
			}
		}
	}
}

// TestProof has the daemon and the agent give what was promised, and finds out
// when a step was left out without a word.
func TestProof(t *testing.T) {
	d := newDriver(t, nil)
	if p := d.Probe(t.Context()); !p.OK {
		t.Fatal(p.Reason)
	}
	limits := func(s *sandbox.Spec) {
		s.Limits = sandbox.Limits{PIDs: 40, Memory: 64 << 20, CPU: 0.5, OpenFiles: 77, Required: []sandbox.Limit{sandbox.LimitMemory, sandbox.LimitPIDs, sandbox.LimitCPU}}
	}
	w := sandboxtest.Start(t, d, limits)
	r, err := sandbox.Prove(t.Context(), d, w.Sandbox, true)
	if err != nil {
		t.Errorf("%v\n%+v", err, r.Checks)
	}
	if len(r.Enforced) != 4 || len(r.Left) != 0 {
		t.Errorf("enforced %v, left %v", r.Enforced, r.Left)
	}
	for _, step := range []string{"user", "network", "read-only root", "capabilities", "no new privileges", "masked paths", "limits"} {
		dir := t.TempDir()
		spec := sandbox.Spec{SessionID: "sesn_x", Dir: dir, Tree: filepath.Join(dir, "tree")}
		limits(&spec)
		if err := os.Mkdir(spec.Tree, 0o755); err != nil {
			t.Fatal(err)
		}
		undo := sandbox.SetFault(func(s string) error {
			if s == "docker "+step {
				return sandbox.ErrSkip
			}
			return nil
		})
		sb, err := d.Start(t.Context(), spec)
		undo()
		if err != nil {
			continue // it refused by itself
		}
		if _, err := sandbox.Prove(t.Context(), d, sb, true); !errors.Is(err, sandbox.ErrUnproven) {
			t.Errorf("without %s: %v", step, err)
		}
		if err := sb.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
