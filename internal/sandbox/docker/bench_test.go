package docker_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
	"github.com/berthdev/berth/toolset"
)

func BenchmarkStart(b *testing.B) { sandboxtest.BenchmarkStart(b, newDriver(b, nil)) }
func BenchmarkTrue(b *testing.B)  { sandboxtest.BenchmarkTrue(b, newDriver(b, nil)) }

// BenchmarkAssign measures a claim of a sandbox that was started ahead, and
// its first command.
func BenchmarkAssign(b *testing.B) {
	d := newDriver(b, nil)
	dirs := b.TempDir()
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		dir := filepath.Join(dirs, "ready"+strconv.Itoa(i))
		spec := sandbox.Spec{SessionID: "ready", Dir: dir, Tree: filepath.Join(dir, "tree")}
		if err := os.MkdirAll(spec.Tree, 0o755); err != nil {
			b.Fatal(err)
		}
		sb, err := d.Start(b.Context(), spec)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		began := time.Now()
		if err := sb.(sandbox.Assignable).Assign("sesn_x", filepath.Join(dirs, "sesn"+strconv.Itoa(i))); err != nil {
			b.Fatal(err)
		}
		if r, err := sb.Bash(b.Context(), toolset.Command{Text: "echo x"}); err != nil || string(r.Head) != "x\n" {
			b.Fatalf("%q %v", r.Head, err)
		}
		took = append(took, time.Since(began))
		b.StopTimer()
		if err := sb.Stop(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2])/1e6, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100])/1e6, "p99-ms")
}
