package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/sandbox/docker/dockertest"
	"github.com/berthdev/berth/test/testenv"
)

// farSide is a root of its own, entered by plain unshare.
const farSide = `set -e
[ "$1" = inside ] || exec env -i PATH="$PATH" unshare --mount --pid --ipc --net --uts --fork --kill-child sh "$0" inside
mount -t tmpfs root /mnt
cd /mnt
mkdir -p usr etc proc dev tmp workspace mnt/session mnt/memory run home/agent
mount --rbind /usr usr
for l in bin sbin lib lib64; do ln -s usr/$l $l; done
mount -t proc proc proc
mount --rbind /dev dev
exec chroot . env -i PATH=/usr/bin:/usr/sbin HOME=/home/agent sh
`

// ways gives the flags of each --sandbox, and skips a way that is not there.
var ways = map[string]func(*testing.T) []string{
	"auto":       func(*testing.T) []string { return nil },
	"process":    func(*testing.T) []string { return nil },
	"namespaces": func(*testing.T) []string { return nil },
	"gvisor": func(t *testing.T) []string {
		runsc, err := filepath.Abs("../bin/runsc")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(runsc); err != nil {
			t.Skip("gvisor is not built: bin/runsc is missing (make runsc, as test/setup does)")
		}
		return []string{"--runsc", runsc}
	},
	"docker": func(t *testing.T) []string {
		image := dockertest.Tarball(t, dockertest.Image(t, nil, dockertest.Programs...))
		return []string{"--docker-host", dockertest.Host(t), "--image", image}
	},
	"command": func(t *testing.T) []string {
		script := filepath.Join(t.TempDir(), "far")
		if err := os.WriteFile(script, []byte(farSide), 0o755); err != nil {
			t.Fatal(err)
		}
		return []string{"--sandbox-command", "sh " + script}
	},
}

// Every way to isolate works in every verb that runs tools.
func TestEveryWayInEveryVerb(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("gvisor, docker and the far side of command need root: run the test as root")
	}
	script := testenv.Script(testenv.Say("go", testenv.Bash("echo from the sandbox | tee /mnt/session/outputs/f")), testenv.Say("done"))
	part := filepath.Join(t.TempDir(), "part.json")
	if err := os.WriteFile(part, []byte(`{"turns":[{"tools":[{"name":"bash","input":{"command":"echo from the sandbox | tee /mnt/session/outputs/f"}}]},{"text":"done"}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	played := func(t *testing.T, w *testenv.World) {
		t.Helper()
		events := w.Ended(w.Session(w.Agent(), script))
		checkLog(t, events)
		if got := strings.TrimSpace(testenv.Text(testenv.Of(events, "user.tool_result")[0])); got != "from the sandbox" {
			t.Errorf("the call said %q", got)
		}
	}
	for way, flags := range ways {
		t.Run(way, func(t *testing.T) {
			args := append([]string{"--sandbox", way}, flags(t)...)
			t.Run("run", func(t *testing.T) {
				out := filepath.Join(t.TempDir(), "out")
				p := testenv.Run(t, nil, append([]string{"run", "--data-dir", t.TempDir(), "--outputs", out, "--model", "script:" + part, "Go."}, args...)...)
				if code := p.Wait(); code != 0 {
					t.Errorf("it ended with %d\n%s", code, p.Log())
				}
				if b, err := os.ReadFile(filepath.Join(out, "f")); string(b) != "from the sandbox\n" {
					t.Errorf("the output is %q, %v", b, err)
				}
			})
			t.Run("dev", func(t *testing.T) {
				played(t, testenv.Start(t, testenv.Options{Worker: true, Args: args}))
			})
			t.Run("worker", func(t *testing.T) {
				w := testenv.Start(t, testenv.Options{})
				w.Worker("", args...)
				played(t, w)
			})
		})
	}
}
