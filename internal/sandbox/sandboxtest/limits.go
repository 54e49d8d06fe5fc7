package sandboxtest

import (
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/cgroup"
	"github.com/berthdev/berth/toolset"
)

// testLimits goes for each limit that a driver enforces here: it holds, the
// call that meets it ends with a reason, and the next call works.
func testLimits(t *testing.T, d sandbox.Driver) {
	for _, test := range []struct {
		limit sandbox.Limit
		run   func(*testing.T, sandbox.Driver)
	}{
		{sandbox.LimitOpenFiles, testOpenFiles},
		{sandbox.LimitCPU, testProcessors},
		{sandbox.LimitCallTime, testCallTime},
		{sandbox.LimitSessionTime, testSessionTime},
	} {
		t.Run(string(test.limit), func(t *testing.T) {
			if !slices.Contains(d.Capabilities().Limits, test.limit) {
				t.Logf("%s does not enforce it here", d.Name())
				return
			}
			test.run(t, d)
		})
	}
	t.Run("not enforced", func(t *testing.T) { testNotEnforced(t, d) })
}

// testNotEnforced asks for each limit that a driver does not enforce here:
// required it refuses the session by its name, and else the receipt says that it
// is left out. Without a pool nobody makes disks.
func testNotEnforced(t *testing.T, d sandbox.Driver) {
	for limit, l := range map[sandbox.Limit]sandbox.Limits{
		sandbox.LimitCPU: {CPU: 1}, sandbox.LimitMemory: {Memory: 256 << 20}, sandbox.LimitPIDs: {PIDs: 100}, sandbox.LimitDisk: {Disk: 32 << 20},
		sandbox.LimitOpenFiles: {OpenFiles: 100}, sandbox.LimitCallTime: {CallTime: time.Minute}, sandbox.LimitSessionTime: {SessionTime: time.Hour},
	} {
		if slices.Contains(d.Capabilities().Limits, limit) {
			continue
		}
		for _, required := range []bool{true, false} {
			if l.Required = nil; required {
				l.Required = l.Asked()
			}
			dir := t.TempDir()
			k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: d, Dir: dir, Spec: sandbox.Spec{Limits: l}})
			if err != nil {
				t.Fatal(err)
			}
			if err := k.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, _, err = k.Open(t.Context(), "sesn_limit")
			switch {
			case required && (err == nil || !strings.Contains(err.Error(), string(limit))):
				t.Errorf("%s is required and not enforced: %v", limit, err)
			case !required && err != nil:
				t.Errorf("%s is neither required nor enforced: %v", limit, err)
			case !required:
				if r, err := sandbox.ReadReceipt(filepath.Join(dir, "sesn_limit")); err != nil || !slices.Contains(r.Left, limit) {
					t.Errorf("the receipt leaves out %v, not %s: %v", r.Left, limit, err)
				}
			}
			if err := k.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
}

// Bounded starts a sandbox with limits, all of them required, and has it
// proven.
func Bounded(t testing.TB, d sandbox.Driver, l sandbox.Limits) *World {
	t.Helper()
	w, err := bounded(t, d, l)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// bounded is Bounded with the error of the proof.
func bounded(t testing.TB, d sandbox.Driver, l sandbox.Limits) (*World, error) {
	t.Helper()
	l.Required = l.Asked()
	w := Start(t, d, func(s *sandbox.Spec) { s.Limits = l })
	r, err := sandbox.Prove(t.Context(), d, w.Sandbox, true)
	if err != nil {
		return nil, err
	}
	if len(r.Enforced) != len(l.Required) || len(r.Left) != 0 {
		t.Errorf("the receipt has %v enforced and %v left", r.Enforced, r.Left)
	}
	return w, nil
}

// Perl skips where there is none inside, or makes a command of a program.
func (w *World) Perl(program string) string {
	w.T.Helper()
	if r := w.Do("perl -e 1"); r.ExitCode != 0 {
		w.T.Skip("perl is missing inside")
	}
	return "perl -e '$| = 1; " + program + "'"
}

// Memory is the limit of the tests of memory, Bomb what they try to use.
const (
	Memory = 192 << 20
	Bomb   = 500 << 20
)

// MemoryBombs are commands that use more than Memory; those that only use a
// file system may be stopped by its size.
func MemoryBombs() map[string]string {
	bomb := strconv.Itoa(Bomb)
	return map[string]string{
		"a process":     "perl -e '$x = \"x\" x " + bomb + "'",
		"many":          "for i in 1 2 3 4 5 6 7 8 9 10; do perl -e '$x = \"x\" x 50_000_000; sleep 60' & done; wait -n; kill $(jobs -p) 2>&-; wait",
		"a memory file": "perl -e '$f = syscall(" + memfdCreate + ", my $n = \"x\", 0); open my $h, \">&=\", $f or exit 9; $b = \"x\" x 1_000_000; syswrite $h, $b for 1..500'",
		"the shell":     "x=$(head -c " + bomb + " /dev/zero | tr '\\0' x)",
	}
}

func testMemory(t *testing.T, d sandbox.Driver) {
	w := Bounded(t, d, sandbox.Limits{Memory: Memory})
	w.Perl("")
	for name, bomb := range MemoryBombs() {
		if name == "a memory file" && memfdCreate == "" {
			continue
		}
		limit := 2 * patience
		if w.Kernel {
			limit = 30 * time.Second
		}
		r, err := w.Bash(t.Context(), toolset.Command{Text: bomb, Timeout: limit})
		var whole *toolset.Failure
		switch {
		case errors.As(err, &whole) && strings.Contains(whole.Text, "out of memory"):
			w = Bounded(t, d, sandbox.Limits{Memory: Memory}) // the worker opens a fresh one
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case w.Kernel && r.End == toolset.TimedOut: // it takes its time to use that much
		case !r.OOM:
			t.Errorf("%s: it ended as %s %d, and not for want of memory: %q", name, r.End, r.ExitCode, Output(r))
		}
		w.Want("echo next", "next\n", toolset.Exited, 0)
	}
	if r := w.Do("exit 3"); r.OOM {
		t.Error("a call without a kill is said to have met the limit")
	}
	if !d.Capabilities().Files {
		return // the host's memory file systems are no place for a test
	}
	if w.Kernel { // whose memory it is: used up, all of it goes
		r, err := w.Bash(t.Context(), toolset.Command{Text: "for f in /dev/shm/x /home/agent/x /run/x; do head -c " + strconv.Itoa(Bomb) + " /dev/zero >$f; done 2>&-; echo full"})
		if err != nil || Output(r) != "full\n" {
			t.Errorf("file systems in memory: %q %v", Output(r), err)
		}
		return
	}
	w.Do("head -c " + strconv.Itoa(Bomb) + " /dev/zero >/dev/shm/x; head -c " + strconv.Itoa(Bomb) + " /dev/zero >/home/agent/x; head -c " + strconv.Itoa(Bomb) + " /dev/zero >/run/x")
	w.Want("echo next", "next\n", toolset.Exited, 0)
	w.Do("perl -e 'for (1..10) { $i = shmget(0, 50_000_000, 0600) or last; shmwrite($i, \"x\" x 50_000_000, 0, 50_000_000) }'")
	w.Want("rm -f /dev/shm/x /home/agent/x /run/x; perl -e 'print \"next\"'", "next", toolset.Exited, 0)
}

func testProcesses(t *testing.T, d sandbox.Driver) {
	const most = 60
	w := Bounded(t, d, sandbox.Limits{PIDs: most})
	count := w.Perl("while ($n < 500) { $p = fork; last if !defined $p; if (!$p) { close STDOUT; sleep 100; exit } $n++ } print $n; kill 9, -$$")
	out := Output(w.Do("{ setsid " + count + "; } 2>/dev/null"))
	if n, err := strconv.Atoi(out); err != nil || n < most/3 || n >= most {
		t.Errorf("%q processes more, of %d", out, most)
	}
	w = w.storm(d, ":(){ :|:& }; : 2>/dev/null; sleep 100", 2*time.Second)
	began := time.Now()
	// There is room for a process, if not at once on a busy machine: bash says that it tries again.
	w.Want("{ /bin/echo calm; } 2>/dev/null", "calm\n", toolset.Exited, 0)
	if took := time.Since(began); took > patience/2 {
		t.Errorf("the next call took %v", took)
	}
}

// storm runs a command that makes processes without end. It runs into its time;
// a kernel of the session's own may break under it, and then the worker opens a
// fresh sandbox.
func (w *World) storm(d sandbox.Driver, text string, limit time.Duration) *World {
	w.T.Helper()
	began := time.Now()
	r, err := w.Bash(w.T.Context(), toolset.Command{Text: text, Timeout: limit})
	var whole *toolset.Failure
	switch {
	case err == nil && r.End == toolset.TimedOut:
		return w
	case w.Kernel && errors.As(err, &whole) && time.Since(began) < limit+patience:
		w.T.Logf("the storm ended the sandbox after %v", time.Since(began))
		return Start(w.T, d, func(s *sandbox.Spec) { s.Limits = w.Spec.Limits })
	}
	w.T.Errorf("a storm of processes ended as %s after %v: %v", r.End, time.Since(began), err)
	return w
}

func testOpenFiles(t *testing.T, d sandbox.Driver) {
	w := Bounded(t, d, sandbox.Limits{OpenFiles: 64})
	open := w.Perl("while ($n < 200) { open $f[$n], \"/dev/null\" or last; $n++ } print $n")
	if n, err := strconv.Atoi(Output(w.Do(open))); err != nil || n > 64 || n < 32 {
		t.Errorf("%d files are open, of 64", n)
	}
	w.Want("ulimit -Hn; ulimit -n 65 2>/dev/null", "64\n", toolset.Exited, 1)
}

func testProcessors(t *testing.T, d sandbox.Driver) {
	const share = 0.3
	w := Bounded(t, d, sandbox.Limits{CPU: share})
	// Two of them, as on a machine with one processor for each.
	burn := w.Perl("use Time::HiRes \"time\"; $p = fork; $end = time + 2; 1 while time < $end; if ($p) { wait; @t = times; printf \"%.0f\", ($t[0] + $t[1] + $t[2] + $t[3]) * 1000 }")
	outside := func() (used time.Duration) {
		if u, ok := w.Sandbox.(interface{ Usage() cgroup.Usage }); ok {
			used = u.Usage().CPU
		}
		return used
	}
	before, began := outside(), time.Now()
	out := Output(w.Do(burn))
	took := time.Since(began)
	used, err := strconv.Atoi(out)
	if w.Kernel && outside() > 0 { // its clock goes on while it waits for a processor
		used = int((outside() - before).Milliseconds())
	}
	if most := took.Seconds()*share*1000 + 150; err != nil || float64(used) > most {
		t.Errorf("%q ms of processor in %v, %.0f are allowed", out, took, most)
	}
}

func testCallTime(t *testing.T, d sandbox.Driver) {
	w := Bounded(t, d, sandbox.Limits{CallTime: 500 * time.Millisecond})
	began := time.Now()
	for _, limit := range []time.Duration{0, time.Hour} {
		if r := w.Call(toolset.Command{Text: "sleep 1000", Timeout: limit}); r.End != toolset.TimedOut {
			t.Errorf("with a limit of %v it ended as %s", limit, r.End)
		}
	}
	if took := time.Since(began); took > patience {
		t.Errorf("two calls took %v", took)
	}
	w.Want("echo next", "next\n", toolset.Exited, 0)
}

func testSessionTime(t *testing.T, d sandbox.Driver) {
	word := Nap()
	var w *World
	limit := 2 * time.Second
	for ; ; limit *= 4 { // until the machine begins within it
		began := time.Now()
		var err error
		if w, err = bounded(t, d, sandbox.Limits{SessionTime: limit}); err == nil {
			err = w.Files().WriteFile(filepath.Join(w.Workdir(), "kept"), []byte("kept"))
		}
		if err == nil {
			break
		}
		if time.Since(began) < limit {
			t.Fatal(err)
		}
	}
	for i := range 2 {
		began := time.Now()
		r := w.Do("sleep " + word)
		if took := time.Since(began); r.End != toolset.Refused || !strings.Contains(Output(r), "time limit of "+limit.String()) || took > limit+patience {
			t.Errorf("call %d ended as %s with %q after %v", i, r.End, Output(r), took)
		}
	}
	gone(t, word)
	if !d.Capabilities().Tree {
		return // the files are where the sandbox was
	}
	if f, err := w.Files().Open(filepath.Join(w.Workdir(), "kept")); err != nil {
		t.Errorf("the session's files: %v", err)
	} else {
		f.Close()
	}
}
