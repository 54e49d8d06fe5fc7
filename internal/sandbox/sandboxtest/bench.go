package sandboxtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/cgroup"
	"github.com/berthdev/berth/toolset"
)

// BenchmarkStart measures Start and the first command's output.
func BenchmarkStart(b *testing.B, d sandbox.Driver) {
	var took []time.Duration
	dirs := b.TempDir()
	for i := 0; b.Loop(); i++ {
		began := time.Now()
		sb := begin(b, d, filepath.Join(dirs, strconv.Itoa(i)))
		echo(b, sb)
		took = append(took, time.Since(began))
		if err := sb.Stop(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	percentiles(b, took)
}

// BenchmarkClaim measures how long sessions wait that come 20 at once and find
// sandboxes ready.
func BenchmarkClaim(b *testing.B, d sandbox.Driver) {
	const atOnce = 20
	if p := d.Probe(b.Context()); !p.OK {
		b.Skip(p.Reason)
	}
	k := warmKeeper(b, d, b.TempDir(), atOnce)
	if k == nil {
		b.Skip("its sandboxes do not change hands")
	}
	var took []time.Duration
	for n := 0; b.Loop(); n += atOnce {
		b.StopTimer()
		filled(b, k, atOnce)
		b.StartTimer()
		var all sync.WaitGroup
		var mu sync.Mutex
		var held []*sandbox.Held
		for i := range atOnce {
			all.Go(func() {
				began := time.Now()
				h, _, err := k.Open(context.Background(), "sesn_"+strconv.Itoa(n+i))
				d := time.Since(began)
				if err != nil {
					b.Error(err)
					return
				}
				mu.Lock()
				took, held = append(took, d), append(held, h)
				mu.Unlock()
			})
		}
		all.Wait()
		b.StopTimer()
		for _, h := range held {
			if err := h.Close(context.Background(), true); err != nil {
				b.Error(err)
			}
		}
		b.StartTimer()
	}
	b.StopTimer()
	if err := k.Stop(context.Background()); err != nil {
		b.Error(err)
	}
	percentiles(b, took)
}

// BenchmarkTrue measures the round trip of a command that does nothing.
func BenchmarkTrue(b *testing.B, d sandbox.Driver) { roundTrip(b, d, "true") }

// BenchmarkChecked measures one that bash parses twice, because only bash can
// say whether it is whole.
func BenchmarkChecked(b *testing.B, d sandbox.Driver) { roundTrip(b, d, "if true; then :; fi") }

func roundTrip(b *testing.B, d sandbox.Driver, text string) {
	w := Start(b, d, nil)
	w.Do(text)
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		w.Do(text)
		took = append(took, time.Since(began))
	}
	percentiles(b, took)
}

// BenchmarkFlood measures how quickly 200 MB of output are taken.
func BenchmarkFlood(b *testing.B, d sandbox.Driver) {
	w := Start(b, d, nil)
	b.SetBytes(200_000_000)
	for b.Loop() {
		w.Do("yes 0123456789 | head -c 200000000")
	}
}

// BenchmarkSessions measures whole sandboxes, two at a time: start, five
// commands, stop.
func BenchmarkSessions(b *testing.B, d sandbox.Driver) {
	dirs := b.TempDir()
	var all sync.WaitGroup
	self := processor(syscall.RUSAGE_SELF)
	var inside atomic.Int64
	work := make(chan int)
	for range 2 {
		all.Go(func() {
			for i := range work {
				sb := begin(b, d, filepath.Join(dirs, strconv.Itoa(i)))
				for range 5 {
					echo(b, sb)
				}
				if u, ok := sb.(interface{ Usage() cgroup.Usage }); ok {
					inside.Add(int64(u.Usage().CPU))
				}
				if err := sb.Stop(context.Background()); err != nil {
					b.Error(err)
				}
			}
		})
	}
	began := time.Now()
	n := 0
	for b.Loop() {
		work <- n
		n++
	}
	close(work)
	all.Wait()
	b.ReportMetric(float64(n)/time.Since(began).Seconds(), "sessions/s")
	if used := time.Duration(inside.Load()); used > 0 {
		b.ReportMetric(used.Seconds()*1e3/float64(n), "inside-cpu-ms/op")
	}
	b.ReportMetric((processor(syscall.RUSAGE_SELF)-self).Seconds()*1e3/float64(n), "self-cpu-ms/op")
}

// processor is what this process has used, or its children that have ended.
func processor(who int) time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(who, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func begin(b *testing.B, d sandbox.Driver, dir string) sandbox.Sandbox {
	spec := sandbox.Spec{SessionID: "sesn_" + filepath.Base(dir), Dir: dir, Tree: filepath.Join(dir, "tree"), Limits: sandbox.DefaultLimits(4 << 30)}
	if err := os.MkdirAll(spec.Tree, 0o755); err != nil {
		b.Fatal(err)
	}
	sb, err := d.Start(context.Background(), spec)
	if err != nil {
		b.Fatal(err)
	}
	return sb
}

func echo(b *testing.B, sb sandbox.Sandbox) {
	r, err := sb.Bash(context.Background(), toolset.Command{Text: "echo x"})
	if err != nil || string(r.Head) != "x\n" {
		b.Fatalf("%q %v", r.Head, err)
	}
}

func percentiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2])/1e6, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100])/1e6, "p99-ms")
}

// AsOrdinaryUser runs tests of this program again as nobody. What they skip
// is skipped here, with their reason.
func AsOrdinaryUser(t *testing.T, tests string) {
	const nobody = 65534
	dir, err := os.MkdirTemp("/tmp", "berth-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run", tests, "-test.v", "-test.timeout", "30m")
	cmd.Env = []string{"TMPDIR=" + dir, "PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + dir}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("as nobody: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if reason, ok := strings.CutPrefix(strings.TrimSpace(line), "--- SKIP"); ok {
			t.Skipf("as nobody%s\n%s", reason, out)
		}
	}
}
