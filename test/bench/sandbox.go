package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/cgroup"
	"github.com/berthdev/berth/internal/sandbox/namespaces"
	"github.com/berthdev/berth/toolset"
)

// boxes makes sandboxes by one driver, with the agent of a release
// and the limits that hold by default.
type boxes struct {
	dir    string
	driver sandbox.Driver
	made   int
}

func newBoxes() (*boxes, error) {
	return boxesOf(func(p *agent.Program, _ string) sandbox.Driver { return namespaces.New(namespaces.Config{Program: p}) })
}

// boxesOf gives the driver a directory of its own.
func boxesOf(driver func(p *agent.Program, dir string) sandbox.Driver) (*boxes, error) {
	program, err := agent.Open("bin/berth-agent")
	if err != nil {
		return nil, fmt.Errorf("%w (run make build)", err)
	}
	dir, err := os.MkdirTemp("", "berth-bench-")
	if err != nil {
		return nil, err
	}
	return &boxes{dir: dir, driver: driver(program, filepath.Join(dir, "driver"))}, nil
}

func (b *boxes) close() { os.RemoveAll(b.dir) }

// spec is a fresh session's.
func (b *boxes) spec() (sandbox.Spec, error) {
	b.made++
	dir := filepath.Join(b.dir, "sesn_"+strconv.Itoa(b.made))
	s := sandbox.Spec{SessionID: filepath.Base(dir), Dir: dir, Tree: filepath.Join(dir, "tree"), Limits: sandbox.DefaultLimits(8 << 30)}
	return s, os.MkdirAll(s.Tree, 0o755)
}

func (b *boxes) start(ctx context.Context) (sandbox.Sandbox, error) {
	s, err := b.spec()
	if err != nil {
		return nil, err
	}
	return b.driver.Start(ctx, s)
}

// starts says how long each of n sandboxes took to its first command's output;
// the machine is warmed up by 20 more.
func (b *boxes) starts(ctx context.Context, n int, image *sandbox.Image) (took []time.Duration, err error) {
	const warmUp = 20
	for i := range warmUp + n {
		s, err := b.spec()
		if err != nil {
			return nil, err
		}
		s.Image = image
		began := time.Now()
		sb, err := b.driver.Start(ctx, s)
		if err != nil {
			return nil, err
		}
		r, err := sb.Bash(ctx, toolset.Command{Text: "echo x"})
		d := time.Since(began)
		if err := errors.Join(err, sb.Stop(context.WithoutCancel(ctx))); err != nil {
			return nil, err
		}
		if string(r.Head) != "x\n" {
			return nil, fmt.Errorf("the first command answered %q", r.Head)
		}
		if i >= warmUp {
			took = append(took, d)
		}
	}
	return took, nil
}

// sandboxStart measures from Start to the first command's output, one sandbox
// at a time, with its cgroups and its limits.
func sandboxStart(ctx context.Context) ([]figure, error) {
	b, err := newBoxes()
	if err != nil {
		return nil, err
	}
	defer b.close()
	took, err := b.starts(ctx, 300, nil)
	if err != nil {
		return nil, err
	}
	p50, p99 := quantile(took, .5), quantile(took, .99)
	return []figure{
		{"namespaces: start to the first command's output, p50", ms(p50), "≤ 10 ms", p50 <= 10*time.Millisecond},
		{"namespaces: start to the first command's output, p99", ms(p99), "≤ 25 ms", p99 <= 25*time.Millisecond},
	}, nil
}

// sandboxKill ends sandboxes in which 1,000 processes run.
func sandboxKill(ctx context.Context) ([]figure, error) {
	b, err := newBoxes()
	if err != nil {
		return nil, err
	}
	defer b.close()
	const many = 1000
	var took []time.Duration
	left := 0
	for i := range 5 {
		sb, err := b.start(ctx)
		if err != nil {
			return nil, err
		}
		word := "10" + strconv.Itoa(os.Getpid()) + "." + strconv.Itoa(i)
		r, err := sb.Bash(ctx, toolset.Command{Text: "for i in {1.." + strconv.Itoa(many) + "}; do sleep " + word + " & done; jobs -p | wc -l"})
		if err == nil && strings.TrimSpace(string(r.Head)) != strconv.Itoa(many) {
			err = fmt.Errorf("the processes: %s %q", r.End, r.Head)
		}
		began := time.Now()
		err = errors.Join(err, sb.Stop(context.WithoutCancel(ctx)))
		took = append(took, time.Since(began))
		if err != nil {
			return nil, err
		}
		left += withWord(word)
	}
	worst := slices.Max(took)
	return []figure{
		{"namespaces: to end a session with 1,000 processes, worst of 5", ms(worst), "≤ 200 ms", worst <= 200*time.Millisecond},
		{"namespaces: processes that survive it", strconv.Itoa(left), "0", left == 0},
	}, nil
}

// withWord counts the processes of the host with an argument.
func withWord(word string) (n int) {
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		if b, err := os.ReadFile(name); err == nil && strings.Contains(string(b), "\x00"+word+"\x00") {
			n++
		}
	}
	return n
}

// user is a sandbox that can say what it uses.
type user interface {
	Usage() cgroup.Usage
	Process() *agent.Process
}

// sandboxIdle starts 300 sandboxes, four at a time, and then leaves them alone.
func sandboxIdle(ctx context.Context) (_ []figure, err error) {
	b, err := newBoxes()
	if err != nil {
		return nil, err
	}
	defer b.close()
	const many, watched = 300, 10 * time.Second
	specs := make(chan sandbox.Spec, many)
	for range many {
		s, err := b.spec()
		if err != nil {
			return nil, err
		}
		specs <- s
	}
	close(specs)
	type made struct {
		sb  sandbox.Sandbox
		err error
	}
	results := make(chan made, many)
	began := time.Now()
	for range 4 {
		go func() {
			for s := range specs {
				sb, err := b.driver.Start(ctx, s)
				if err == nil {
					_, err = sb.Bash(ctx, toolset.Command{Text: "true"})
				}
				results <- made{sb, err}
			}
		}()
	}
	var all []sandbox.Sandbox
	defer func() {
		for _, sb := range all {
			err = errors.Join(err, sb.Stop(context.WithoutCancel(ctx)))
		}
	}()
	for range many {
		m := <-results
		if m.sb != nil {
			all = append(all, m.sb)
		}
		err = errors.Join(err, m.err)
	}
	took := time.Since(began)
	if err != nil {
		return nil, err
	}
	var pss int64
	for _, sb := range all {
		n, err := proportional(sb.(user).Process().Handle.PID)
		if err != nil {
			return nil, err
		}
		pss += n
	}
	each := float64(pss) / many / (1 << 20)
	before := idleCPU(all)
	select {
	case <-time.After(watched):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	share := (idleCPU(all) - before).Seconds() / watched.Seconds() * 100
	return []figure{
		{"namespaces: 300 sandboxes start", fmt.Sprintf("%.1f s", took.Seconds()), "≤ 15 s", took <= 15*time.Second},
		{"namespaces: memory of an idle sandbox, agent and shell, PSS", fmt.Sprintf("%.1f MB", each), "≤ 6 MB", each <= 6},
		{"namespaces: 300 idle sandboxes and their supervisor, of one processor", fmt.Sprintf("%.2f %%", share), "< 3 %", share < 3},
	}, nil
}

// idleCPU is what the sandboxes and this process have used.
func idleCPU(all []sandbox.Sandbox) time.Duration {
	var own syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &own)
	sum := time.Duration(own.Utime.Nano() + own.Stime.Nano())
	for _, sb := range all {
		sum += sb.(user).Usage().CPU
	}
	return sum
}

// proportional is the memory of a process and its children, what they share
// with others counted in part.
func proportional(pid int) (sum int64, err error) {
	family, _ := descendants(pid)
	for _, pid := range family {
		n, err := pss(pid)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// pss is the memory of a process.
func pss(pid int) (int64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("process %d says nothing of its memory", pid)
}

// sandboxTrue is trueOver for namespaces.
func sandboxTrue(ctx context.Context) ([]figure, error) {
	b, err := newBoxes()
	if err != nil {
		return nil, err
	}
	defer b.close()
	return b.trueOver(ctx, time.Millisecond)
}

// trueOver compares the builtin true in a running sandbox with a bash on two
// pipes of this process.
func (b *boxes) trueOver(ctx context.Context, bar time.Duration) ([]figure, error) {
	sb, err := b.start(ctx)
	if err != nil {
		return nil, err
	}
	defer sb.Stop(context.WithoutCancel(ctx))
	inside := func(text string) (time.Duration, error) {
		began := time.Now()
		r, err := sb.Bash(ctx, toolset.Command{Text: text})
		if err == nil && (r.End != toolset.Exited || r.ExitCode != 0) {
			err = fmt.Errorf("%q ended as %s %d", text, r.End, r.ExitCode)
		}
		return time.Since(began), err
	}
	bare, stop, err := bareShell(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	var in, out, program []time.Duration
	for range 500 {
		for _, m := range []struct {
			into *[]time.Duration
			run  func() (time.Duration, error)
		}{
			{&in, func() (time.Duration, error) { return inside("true") }},
			{&out, bare},
			{&program, func() (time.Duration, error) { return inside("/bin/true") }},
		} {
			d, err := m.run()
			if err != nil {
				return nil, err
			}
			*m.into = append(*m.into, d)
		}
	}
	over := quantile(in, .5) - quantile(out, .5)
	return []figure{{
		b.driver.Name() + ": builtin true in a sandbox over a bare shell's, p50",
		fmt.Sprintf("%.2f ms (%s; /bin/true %s)", over.Seconds()*1e3, ms(quantile(in, .5)), ms(quantile(program, .5))),
		fmt.Sprintf("≤ %d ms", bar.Milliseconds()), over <= bar,
	}}, nil
}

// bareShell is a bash on two pipes, as a program would have it that isolates
// nothing: bare runs true in it.
func bareShell(ctx context.Context) (bare func() (time.Duration, error), stop func(), err error) {
	cmd := exec.CommandContext(ctx, "/bin/bash", "--norc", "--noprofile")
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	lines := bufio.NewReader(out)
	bare = func() (time.Duration, error) {
		began := time.Now()
		if _, err := io.WriteString(in, "true; echo $?\n"); err != nil {
			return 0, err
		}
		_, err := lines.ReadString('\n')
		return time.Since(began), err
	}
	return bare, func() { in.Close(); _ = cmd.Wait() }, nil
}

// sandboxFlood: 200 MB of output through the shell of a running sandbox.
func sandboxFlood(ctx context.Context) ([]figure, error) {
	b, err := newBoxes()
	if err != nil {
		return nil, err
	}
	defer b.close()
	sb, err := b.start(ctx)
	if err != nil {
		return nil, err
	}
	defer sb.Stop(context.WithoutCancel(ctx))
	const size, bar = 200_000_000, 100
	var took []time.Duration
	for range 5 {
		began := time.Now()
		r, err := sb.Bash(ctx, toolset.Command{Text: "yes 0123456789 | head -c " + strconv.Itoa(size)})
		took = append(took, time.Since(began))
		if got := int64(len(r.Head)+len(r.Tail)) + r.Dropped; err == nil && got != size {
			err = fmt.Errorf("%d of %d bytes are accounted for", got, size)
		}
		if err != nil {
			return nil, err
		}
	}
	rate := size / 1e6 / quantile(took, .5).Seconds()
	return []figure{{"namespaces: 200 MB of output from one command, p50", fmt.Sprintf("%.0f MB/s", rate), fmt.Sprintf("≥ %d MB/s", bar), rate >= bar}}, nil
}
