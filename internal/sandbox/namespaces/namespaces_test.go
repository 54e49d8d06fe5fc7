package namespaces_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/berthdev/berth/internal/child"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/namespaces"
	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	child.Main()
	os.Exit(m.Run())
}

func newDriver() sandbox.Driver { return namespaces.New(namespaces.Config{}) }

func TestDriver(t *testing.T) { sandboxtest.Run(t, newDriver) }

// TestNothingSurvives has a thousand sessions, a fifth of which lose their worker.
func TestNothingSurvives(t *testing.T) { sandboxtest.NothingSurvives(t, newDriver, 1000) }

// TestOrdinaryUser runs the whole suite again as a user without privileges.
func TestOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("this is an ordinary user already: TestDriver is the test")
	}
	sandboxtest.AsOrdinaryUser(t, "^TestDriver$")
}

// TestProbeTellsTheCure takes user namespaces away and reads what Probe says.
func TestProbeTellsTheCure(t *testing.T) {
	if os.Getenv("BERTH_TEST_PROBE") != "" {
		p := newDriver().Probe(t.Context())
		if p.OK || p.Reason == "" || p.Cure == "" || strings.Contains(p.Reason+p.Cure, "\n") {
			t.Errorf("%+v", p)
		}
		t.Logf("%+v", p)
		return
	}
	// A process in a chroot, or one whose ids are not mapped, may make no
	// user namespace; the first is easy to be.
	if os.Getuid() != 0 {
		t.Skip("needs root to make a chroot")
	}
	root := t.TempDir()
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "test"), exe, 0o755); err != nil {
		t.Fatal(err)
	}
	// Where there is a C compiler the test needs its libraries.
	libs, _ := exec.Command("ldd", "/proc/"+strconv.Itoa(os.Getpid())+"/exe").Output()
	for _, lib := range strings.Fields(string(libs)) {
		b, err := os.ReadFile(lib)
		if !filepath.IsAbs(lib) || err != nil {
			continue
		}
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(lib)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, lib), b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"tmp", "dev", "proc"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "dev/null"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/test", "-test.run", "^TestProbeTellsTheCure$", "-test.v")
	cmd.Env = []string{"BERTH_TEST_PROBE=1", "TMPDIR=/tmp"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// released is a driver with the agent of a release, where make build has left
// it: the test's own program is a larger one.
func released(b *testing.B) sandbox.Driver {
	program, err := agent.Open("../../../bin/berth-agent")
	if err != nil {
		b.Logf("with the test's own agent: %v", err)
		return newDriver()
	}
	return namespaces.New(namespaces.Config{Program: program})
}

func BenchmarkStart(b *testing.B)    { sandboxtest.BenchmarkStart(b, released(b)) }
func BenchmarkClaim(b *testing.B)    { sandboxtest.BenchmarkClaim(b, released(b)) }
func BenchmarkTrue(b *testing.B)     { sandboxtest.BenchmarkTrue(b, released(b)) }
func BenchmarkChecked(b *testing.B)  { sandboxtest.BenchmarkChecked(b, newDriver()) }
func BenchmarkFlood(b *testing.B)    { sandboxtest.BenchmarkFlood(b, newDriver()) }
func BenchmarkSessions(b *testing.B) { sandboxtest.BenchmarkSessions(b, released(b)) }

// TestEgressTools: the programs that sessions use, through the proxy.
func TestEgressTools(t *testing.T) { sandboxtest.EgressTools(t, newDriver()) }

// TestKilledWhileStarting has workers killed amid the start of a sandbox.
func TestKilledWhileStarting(t *testing.T) {
	sandboxtest.KilledWhileStarting(t, newDriver, nil, "namespaces group", "namespaces agent", "namespaces record")
}
