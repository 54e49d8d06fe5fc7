package process_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/child"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/process"
	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
	"github.com/berthdev/berth/toolset"
)

func TestMain(m *testing.M) {
	child.Main()
	os.Exit(m.Run())
}

func newDriver() sandbox.Driver { return process.New(process.Config{}) }

func TestDriver(t *testing.T) { sandboxtest.Run(t, newDriver) }

// TestNothingSurvives has sessions a fifth of which lose their worker.
func TestNothingSurvives(t *testing.T) {
	sandboxtest.NothingSurvives(t, newDriver, sandboxtest.Sessions(os.Getenv("BERTH_SOAK")))
}

// TestOrdinaryUser runs the whole suite again as a user without privileges.
func TestOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("this is an ordinary user already: TestDriver is the test")
	}
	sandboxtest.AsOrdinaryUser(t, "^TestDriver$")
}

// TestPlain checks the driver where the kernel allows no mounts: the shell
// stands in the tree, and is told where the outputs go.
func TestPlain(t *testing.T) {
	w := sandboxtest.Start(t, process.New(process.Config{Plain: true}), nil)
	w.Want("pwd; echo x >$BERTH_OUTPUTS/o; echo $BERTH_WORKSPACE", filepath.Join(w.Spec.Tree, "workspace")+"\n"+filepath.Join(w.Spec.Tree, "workspace")+"\n", toolset.Exited, 0)
	f, err := w.Files().Open("/mnt/session/outputs/o")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := os.Stat(filepath.Join(w.Spec.Dir, "run")); err != nil {
		t.Error(err)
	}
}

// TestNoAllowList: a policy that names hosts is not followed halfway.
func TestNoAllowList(t *testing.T) {
	dir := t.TempDir()
	_, err := newDriver().Start(t.Context(), sandbox.Spec{
		SessionID: "sesn_1", Dir: dir, Tree: filepath.Join(dir, "tree"),
		Network: sandbox.Network{Mode: sandbox.NetworkAllow, Socket: filepath.Join(dir, sandbox.EgressDirName, "proxy.sock")},
	})
	if err == nil || !strings.Contains(err.Error(), "another --sandbox") {
		t.Error(err)
	}
}

// TestSignalsFromInside sends the shell's keeper what may be taken of all
// signals: nothing of that ends it. 32 to 34 are the C library's own.
func TestSignalsFromInside(t *testing.T) {
	w := sandboxtest.Start(t, newDriver(), nil)
	w.Want("for i in {1..31} {35..64}; do [ $i = 9 -o $i = 19 ] || kill -$i $PPID || echo $i; done; echo $PPID >keeper", "", toolset.Exited, 0)
	w.Want("[ $PPID = $(<keeper) ] && echo same", "same\n", toolset.Exited, 0)
}

func BenchmarkStart(b *testing.B)    { sandboxtest.BenchmarkStart(b, newDriver()) }
func BenchmarkTrue(b *testing.B)     { sandboxtest.BenchmarkTrue(b, newDriver()) }
func BenchmarkChecked(b *testing.B)  { sandboxtest.BenchmarkChecked(b, newDriver()) }
func BenchmarkFlood(b *testing.B)    { sandboxtest.BenchmarkFlood(b, newDriver()) }
func BenchmarkSessions(b *testing.B) { sandboxtest.BenchmarkSessions(b, newDriver()) }
