package test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/outputs"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/test/testenv"
)

// However a session's sandbox ends, what lies in its outputs is kept, whole and
// with a manifest.
func TestOutputsAreKeptHoweverItEnds(t *testing.T) {
	const make = "cd /mnt/session/outputs; mkdir d; printf kept >d/f; chmod 640 d/f; "
	waits := make + "mkfifo /workspace/gate; touch /workspace/there; read x </workspace/gate"
	for name, c := range map[string]struct {
		command string
		meddle  func(*ending) // once the command is there; nil: it ends by itself
	}{
		"as usual":         {make, nil},
		"out of memory":    {make + "perl -e '$x = \"x\" x 500_000_000'", nil},
		"the shell killed": {make + "kill -9 $$", nil},
		"the agent killed": {waits, func(e *ending) {
			rec, err := sandbox.ReadRecord(filepath.Join(e.state, "sandboxes", e.session))
			var agent struct{ PID int }
			if err == nil {
				err = json.Unmarshal(rec.Handle, &agent)
			}
			if err != nil || agent.PID <= 1 {
				e.t.Fatal(agent, err)
			}
			if err := syscall.Kill(agent.PID, syscall.SIGKILL); err != nil {
				e.t.Fatal(err)
			}
		}},
		"stopped by force": {waits, func(e *ending) {
			items := e.w.Must("GET", "/v1/environments/"+e.w.EnvironmentID+"/work", e.w.EnvKey, nil).Body["data"].([]any)
			work := items[0].(map[string]any)["id"].(string)
			e.w.Must("POST", "/v1/environments/"+e.w.EnvironmentID+"/work/"+work+"/stop", e.w.APIKey, map[string]any{"force": true})
		}},
		"the worker killed": {waits, func(e *ending) {
			e.worker.Kill()
			e.start() // it goes on with the call
			if err := os.WriteFile(filepath.Join(e.state, "sandboxes", e.session, "tree/workspace/gate"), []byte("go\n"), 0); err != nil {
				e.t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			e := &ending{t: t, w: testenv.Start(t, testenv.Options{}), state: t.TempDir()}
			shorten(t, e.w)
			e.start()
			e.session = e.w.Session(e.w.Agent(), testenv.Script(testenv.Say("go", testenv.Bash(c.command)), testenv.Say("done")))
			if c.meddle != nil {
				e.await("the command", func() bool {
					_, err := os.Stat(filepath.Join(e.state, "sandboxes", e.session, "tree/workspace/there"))
					return err == nil
				})
				c.meddle(e)
			}
			at := filepath.Join(e.state, "outputs", e.session)
			var m outputs.Manifest
			e.await("the manifest", func() bool {
				var err error
				if m, err = outputs.Read(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
				return err == nil
			})
			sum := sha256.Sum256([]byte("kept"))
			if len(m.Files) != 1 || len(m.LeftOut) != 0 || m.Session != e.session {
				t.Fatalf("the manifest: %+v", m)
			}
			f := m.Files[0]
			if f.Path != "d/f" || f.Size != 4 || f.SHA256 != hex.EncodeToString(sum[:]) || f.Mode != 0o640 || time.Since(f.Modified) > time.Hour {
				t.Errorf("the file: %+v", f)
			}
			if b, err := os.ReadFile(filepath.Join(at, "files/d/f")); string(b) != "kept" {
				t.Errorf("kept is %q, %v", b, err)
			}
		})
	}
}

// ending is a worker with one session.
type ending struct {
	t       *testing.T
	w       *testenv.World
	worker  *testenv.Process
	state   string
	session string
}

func (e *ending) start() {
	e.worker = e.w.WorkerIn(e.state, "", "--sandbox", "namespaces", "--memory", "128MiB", "--max-idle", "50ms")
}

func (e *ending) await(what string, done func() bool) {
	e.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(testenv.Patience); !done(); {
		select {
		case <-deadline:
			e.t.Fatalf("%s never came\n%s\n%s", what, testenv.Dump(e.w.Events(e.session)), e.worker.Log())
		case <-tick.C:
		}
	}
}
