package process_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
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

// TestKilledWhileStarting has workers killed amid the start of a sandbox, not
// amid the one by which the driver finds out what it can.
func TestKilledWhileStarting(t *testing.T) {
	tried := func() sandbox.Driver {
		d := newDriver()
		if err := sandbox.Try(t.Context(), d, sandbox.Spec{}); err != nil {
			t.Fatal(err)
		}
		return d
	}
	sandboxtest.KilledWhileStarting(t, tried, nil, "process group", "process agent", "process handle")
}

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

// TestToolUser: under root the tools may be a user without any privilege, who
// owns what is the session's and finds its way to it.
func TestToolUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("by design: only root can start tools as another user")
	}
	const user = 61234
	for name, plain := range map[string]bool{"mounts": false, "plain": true} {
		t.Run(name, func(t *testing.T) {
			base, err := os.MkdirTemp("/var/tmp", "tool-user") // a test's own directory lets nobody pass
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(base)
			if err := os.Chmod(base, 0o711); err != nil {
				t.Fatal(err)
			}
			secret := filepath.Join(base, "journal.db")
			if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			d := process.New(process.Config{Plain: plain, User: user})
			w := sandboxtest.Start(t, d, func(s *sandbox.Spec) {
				s.Dir = filepath.Join(base, "sandboxes", "s")
				s.Tree = filepath.Join(s.Dir, "tree")
			})
			w.Want("id -u; id -G", "61234\n61234\n", toolset.Exited, 0)
			w.Want("grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs)' /proc/self/status | tr -s '\\t\\n' '  '",
				"CapInh: 0000000000000000 CapPrm: 0000000000000000 CapEff: 0000000000000000 CapBnd: 0000000000000000 CapAmb: 0000000000000000 NoNewPrivs: 1 ", toolset.Exited, 0)
			w.Want("echo x >own && mkdir d && echo h >$HOME/.h && cat $HOME/.h; ls /nowhere 2>/dev/null; touch /etc/x 2>/dev/null || echo no", "h\nno\n", toolset.Exited, 0)
			w.Want("cat "+secret+" 2>&1 | grep -c denied; ls "+base+" 2>&1 | grep -c denied; kill -0 "+fmt.Sprint(os.Getpid())+" 2>/dev/null || echo no; head -c 1 /proc/"+fmt.Sprint(os.Getpid())+"/environ 2>/dev/null || echo no", "1\n1\nno\nno\n", toolset.Exited, 0)
			if err := w.Files().WriteFile("d/by-tool", []byte("y")); err != nil {
				t.Fatal(err)
			}
			w.Want("stat -c %u:%g own d/by-tool; echo z >>d/by-tool && cat d/by-tool", "61234:61234\n61234:61234\nyz\n", toolset.Exited, 0)
			w.Want("echo out >${BERTH_OUTPUTS:-/mnt/session/outputs}/o", "", toolset.Exited, 0)
			if b, err := os.ReadFile(filepath.Join(w.Spec.Tree, "mnt/session/outputs/o")); string(b) != "out\n" {
				t.Errorf("%q %v", b, err)
			}
			if plain { // else the keeper's directory is closed
				other := exec.Command("cat", filepath.Join(w.Spec.Tree, "workspace/own"))
				other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user + 1, Gid: user + 1}}
				if out, err := other.CombinedOutput(); err == nil || !strings.Contains(string(out), "denied") {
					t.Errorf("another user read %q, %v", out, err)
				}
			}
			// A worker that comes later goes on with them.
			w.Sandbox.(interface{ Close() }).Close()
			again, err := d.Recover(t.Context(), w.Record())
			if err != nil {
				t.Fatal(err)
			}
			if err := again.Files().WriteFile("later", []byte("y")); err != nil {
				t.Fatal(err)
			}
			v := &sandboxtest.World{Sandbox: again, T: t, Spec: w.Spec}
			v.Want("stat -c %u later", "61234\n", toolset.Exited, 0)
			if err := again.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		})
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
