package app

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/command"
	"github.com/berthdev/berth/toolset"
	"github.com/berthdev/berth/worker"
)

// afar is a far side on this machine that keeps its workspace in a directory and
// shares nothing else with it.
const afar = `set -e
if [ "$2" != inside ]; then exec env -i PATH="$PATH" unshare --mount --pid --fork --kill-child sh "$0" "$1" inside; fi
mount -t tmpfs root /mnt
cd /mnt
mkdir -p usr proc dev tmp workspace mnt/session mnt/memory
mount --rbind /usr usr
for l in bin sbin lib lib64; do ln -s usr/$l $l; done
mount -t proc proc proc
mount --rbind /dev dev
mount --bind "$1" workspace
exec chroot . env -i PATH=/usr/bin:/usr/sbin HOME=/tmp sh
`

// TestInputsAfar: where the files are on another machine a session has its inputs
// before its first call, once for as long as they are there.
func TestInputsAfar(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make the far side")
	}
	dir := t.TempDir()
	far, root, script, program := filepath.Join(dir, "far"), filepath.Join(dir, "in"), filepath.Join(dir, "afar"), filepath.Join(dir, "agent")
	for _, d := range []string{far, root} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range map[string]string{script: afar, filepath.Join(root, "a.csv"): "a,b\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-o", program, "github.com/berthdev/berth/cmd/berth-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	p, err := agent.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	d := command.New(command.Config{Command: "sh " + script + " " + far, Program: p})
	k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: d, Dir: filepath.Join(dir, "state")})
	if err == nil {
		err = k.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer k.Stop(context.WithoutCancel(t.Context()))
	stager, err := newStager(config.Inputs{InputRoot: []string{root}}, log)
	if err != nil {
		t.Fatal(err)
	}
	h := hosts{Keeper: k, stager: stager, log: log}
	// visit opens a session's sandbox as a work item does, and says what a
	// command in it prints.
	visit := func(session, text string) string {
		t.Helper()
		s := api.Session{ID: session, Metadata: api.Metadata{"input_file": "file://" + root + "/a.csv"}}
		sb, _, err := h.Open(t.Context(), worker.Opening{Session: s})
		if err != nil {
			t.Fatal(err)
		}
		defer sb.Close(t.Context(), false)
		r, err := sb.(interface {
			Bash(context.Context, toolset.Command) (toolset.Result, error)
		}).Bash(t.Context(), toolset.Command{Text: text})
		if err != nil {
			t.Fatal(err)
		}
		return string(r.Head)
	}
	if got := visit("sesn_a", "cat a.csv; echo mine >a.csv"); got != "a,b\n" {
		t.Errorf("first it has %q", got)
	}
	if got := visit("sesn_a", "cat a.csv"); got != "mine\n" {
		t.Errorf("its next work item has %q", got)
	}
	if got := visit("sesn_b", "cat a.csv; ls -A | wc -l"); got != "a,b\n3\n" {
		t.Errorf("another session has %q", got)
	}
	if out, err := exec.Command("sh", "-c", "rm -rf "+far+"/* "+far+"/.b*").CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	if got := visit("sesn_a", "cat a.csv"); !strings.Contains(got, "a,b\n") {
		t.Errorf("with a far side that is new it has %q", got)
	}
}
