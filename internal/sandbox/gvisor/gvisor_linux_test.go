package gvisor_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/child"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/gvisor"
	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
	"github.com/berthdev/berth/toolset"
)

func TestMain(m *testing.M) {
	child.Main()
	os.Exit(m.Run())
}

// built is what make runsc builds; where it has not, another one is looked for.
const built = "../../../bin/runsc"

func newDriver() sandbox.Driver {
	cfg := gvisor.Config{}
	if _, err := os.Stat(built); err == nil {
		cfg.Runsc = built
	}
	return gvisor.New(cfg)
}

func TestDriver(t *testing.T) { sandboxtest.Run(t, newDriver) }

// TestNothingSurvives has sessions a fifth of which lose their worker.
func TestNothingSurvives(t *testing.T) {
	sandboxtest.NothingSurvives(t, newDriver, sandboxtest.Sessions(os.Getenv("BERTH_SOAK")))
}

// TestImage has an image's programs, and nothing of the host's.
func TestImage(t *testing.T) {
	d := newDriver()
	if p := d.Probe(t.Context()); !p.OK {
		t.Skipf("gvisor cannot run here: %s (%s)", p.Reason, p.Cure)
	}
	root := t.TempDir()
	libs, err := exec.Command("ldd", "/bin/bash").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(strings.Fields(string(libs)), "/bin/bash") {
		b, err := os.ReadFile(name)
		if !filepath.IsAbs(name) || err != nil {
			continue
		}
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "opt"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "opt/mark"), []byte("of the image\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	mount := t.TempDir()
	w := sandboxtest.Start(t, d, func(s *sandbox.Spec) {
		s.Image = &sandbox.Image{Ref: "test", Root: root}
		s.User = sandbox.User{Name: "someone", UID: 1234}
		s.Mounts = []sandbox.Mount{{Source: mount, Target: "/data", ReadOnly: true}}
	})
	w.Want("read x </opt/mark; echo $x $UID $HOME; echo x >/workspace/f; echo x >$HOME/f; [ -e /usr/bin/perl ] || echo none", "of the image 1234 /home/someone\nnone\n", toolset.Exited, 0)
	w.Want("{ echo x >/opt/mark; } 2>&-; { echo x >/data/f; } 2>&-", "", toolset.Exited, 1)
	if b, err := os.ReadFile(filepath.Join(root, "opt/mark")); err != nil || string(b) != "of the image\n" {
		t.Errorf("the image: %q %v", b, err)
	}
}

// TestProbeTellsTheCure reads what Probe says where runsc is missing or old.
func TestProbeTellsTheCure(t *testing.T) {
	old := filepath.Join(t.TempDir(), "runsc")
	if err := os.WriteFile(old, []byte("#!/bin/sh\necho runsc version release-20221128.0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, reason := range map[string]string{"/nowhere/runsc": "no such file", old: "older than"} {
		p := gvisor.New(gvisor.Config{Runsc: path}).Probe(t.Context())
		if p.OK || !strings.Contains(p.Reason, reason) || p.Cure == "" || strings.Contains(p.Reason+p.Cure, "\n") {
			t.Errorf("%s: %+v", path, p)
		}
	}
}

func BenchmarkStart(b *testing.B)    { sandboxtest.BenchmarkStart(b, newDriver()) }
func BenchmarkTrue(b *testing.B)     { sandboxtest.BenchmarkTrue(b, newDriver()) }
func BenchmarkChecked(b *testing.B)  { sandboxtest.BenchmarkChecked(b, newDriver()) }
func BenchmarkFlood(b *testing.B)    { sandboxtest.BenchmarkFlood(b, newDriver()) }
func BenchmarkSessions(b *testing.B) { sandboxtest.BenchmarkSessions(b, newDriver()) }

// TestKilledWhileStarting has workers killed amid the start of a sandbox.
func TestKilledWhileStarting(t *testing.T) {
	sandboxtest.KilledWhileStarting(t, newDriver, func(label string) []string { return []string{gvisor.StateDir(label)} }, "gvisor record", "gvisor root", "gvisor group", "gvisor runsc", "gvisor entered", "gvisor started", "gvisor handle")
}

// TestEveryThreadIsSealed looks at all of the agent's threads: any of them may
// start the next shell.
func TestEveryThreadIsSealed(t *testing.T) {
	d := newDriver()
	if p := d.Probe(t.Context()); !p.OK {
		t.Skipf("gvisor cannot run here: %s (%s)", p.Reason, p.Cure)
	}
	w := sandboxtest.Start(t, d, nil)
	r := w.Do("cat /proc/1/task/*/status")
	threads := strings.Count(string(r.Head), "\nPid:")
	for _, sealed := range []string{"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "Seccomp:\t2"} {
		if n := strings.Count(string(r.Head), "\n"+sealed+"\n"); n != threads {
			t.Errorf("%d of the agent's %d threads have %q", n, threads, sealed)
		}
	}
	if threads < 2 {
		t.Errorf("there are %d threads:\n%s", threads, r.Head)
	}
}

// TestAJobOfATrap has a trap, which the agent does not see in the text, start a
// job as bash comes to wait for the next command: what the job writes is no
// output of that.
func TestAJobOfATrap(t *testing.T) {
	d := newDriver()
	if p := d.Probe(t.Context()); !p.OK {
		t.Skipf("gvisor cannot run here: %s (%s)", p.Reason, p.Cure)
	}
	w := sandboxtest.Start(t, d, nil)
	w.Want("mkfifo gate; job() { for ((i = 0; i < 50000; i++)); do :; done; { read <gate; echo late; echo >done; } & }", "", toolset.Exited, 0)
	w.Want(`kind=DEB; trap '[[ $BASH_COMMAND == *wake* && -z $once ]] && { once=1; job; }' ${kind}UG`, "", toolset.Exited, 0)
	w.Want("echo >gate; while [ ! -e done ]; do sleep 0.01; done; echo mine", "mine\n", toolset.Exited, 0)
}

// TestSentrysTimersMayBeLate reads it of Go's sysmon, the second thread there is.
func TestSentrysTimersMayBeLate(t *testing.T) {
	d := newDriver()
	if p := d.Probe(t.Context()); !p.OK {
		t.Skipf("gvisor cannot run here: %s (%s)", p.Reason, p.Cure)
	}
	var h struct{ PID int }
	if err := json.Unmarshal(sandboxtest.Start(t, d, nil).Sandbox.Record().Handle, &h); err != nil {
		t.Fatal(err)
	}
	threads, err := os.ReadDir("/proc/" + strconv.Itoa(h.PID) + "/task")
	if err != nil || len(threads) < 2 {
		t.Fatal(threads, err)
	}
	slices.SortStableFunc(threads, func(a, b os.DirEntry) int { return len(a.Name()) - len(b.Name()) })
	b, err := os.ReadFile("/proc/" + threads[1].Name() + "/timerslack_ns")
	if err != nil || string(b) != "1000000\n" {
		t.Errorf("%q %v", b, err)
	}
}
