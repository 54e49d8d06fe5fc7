package test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berthdev/berth/test/testenv"
)

// midCall is a session whose command waits at a gate.
type midCall struct {
	w       *testenv.World
	worker  *testenv.Process
	session string
	dir     string // the session's working directory, on the host
}

// toTheGate starts a worker and waits until its session's command, which says
// what it is told to and goes on as soon as the gate opens, has begun.
func toTheGate(t *testing.T, w *testenv.World, before string) *midCall {
	t.Helper()
	state := t.TempDir()
	m := &midCall{w: w, worker: w.WorkerIn(state, "", "--sandbox", "namespaces")}
	m.session = w.Session(w.Agent(), testenv.Script(
		testenv.Say("a call", testenv.Bash("mkfifo gate; "+before+" echo there > at; read < gate; echo through")),
		testenv.Say("done")))
	m.dir = filepath.Join(state, "sandboxes", m.session, "tree", "workspace")
	w.Until(m.session, "the command to run", func([]map[string]any) bool { return m.has("at") })
	return m
}

func (m *midCall) has(name string) bool {
	_, err := os.Stat(filepath.Join(m.dir, name))
	return err == nil
}

func (m *midCall) open(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, "gate"), []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
}

// item is the session's only item as the plane has it.
func (m *midCall) item(t *testing.T) map[string]any {
	t.Helper()
	items := m.w.Must("GET", "/v1/environments/"+m.w.EnvironmentID+"/work", m.w.EnvKey, nil).Body["data"].([]any)
	if len(items) != 1 {
		t.Fatalf("%d items", len(items))
	}
	return items[0].(map[string]any)
}

func (m *midCall) stop(t *testing.T, force bool) {
	t.Helper()
	m.w.Must("POST", "/v1/environments/"+m.w.EnvironmentID+"/work/"+m.item(t)["id"].(string)+"/stop", m.w.APIKey, map[string]any{"force": force})
}

// results are the texts of the session's results.
func (m *midCall) results() (texts []string) {
	for _, r := range testenv.Of(m.w.Events(m.session), "user.tool_result") {
		text := ""
		for _, b := range r["content"].([]any) {
			text += b.(map[string]any)["text"].(string)
		}
		texts = append(texts, text)
	}
	return texts
}

// A first signal lets the running call end: its result is posted and the worker
// ends well.
func TestASignalLetsACallEnd(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			m := toTheGate(t, testenv.Start(t, testenv.Options{}), "")
			m.worker.Signal(sig)
			m.worker.Said("stopping: no more work is taken")
			if got := m.results(); len(got) > 0 {
				t.Fatalf("the call was cut off: %q", got)
			}
			m.open(t)
			if code := m.worker.Wait(); code != 0 {
				t.Errorf("the worker ended with %d", code)
			}
			if got := m.results(); len(got) != 1 || got[0] != "through" {
				t.Errorf("results %q", got)
			}
		})
	}
}

// The calls behind the one that a stopped worker let end have not begun: the
// next worker runs them, on another host too.
func TestWhatAStoppedWorkerHadNotBegunRuns(t *testing.T) {
	w := testenv.Start(t, testenv.Options{})
	state := t.TempDir()
	m := &midCall{w: w, worker: w.WorkerIn(state, "", "--sandbox", "namespaces")}
	m.session = w.Session(w.Agent(), testenv.Script(
		testenv.Say("two calls", testenv.Bash("mkfifo gate; echo there > at; read < gate; echo through"), testenv.Bash("echo second")),
		testenv.Say("done")))
	m.dir = filepath.Join(state, "sandboxes", m.session, "tree", "workspace")
	w.Until(m.session, "the command to run", func([]map[string]any) bool { return m.has("at") })
	m.worker.Signal(syscall.SIGTERM)
	m.worker.Said("stopping: no more work is taken")
	m.open(t)
	if code := m.worker.Wait(); code != 0 {
		t.Errorf("the worker ended with %d", code)
	}
	w.Worker("", "--sandbox", "namespaces")
	w.Until(m.session, "both results", func([]map[string]any) bool { return len(m.results()) == 2 })
	if got := m.results(); got[0] != "through" || got[1] != "second" {
		t.Errorf("results %q", got)
	}
}

// A second signal cuts the call off, and the session is told.
func TestASecondSignalCutsACallOff(t *testing.T) {
	m := toTheGate(t, testenv.Start(t, testenv.Options{}), "")
	m.worker.Signal(syscall.SIGTERM)
	m.worker.Said("stopping: no more work is taken")
	began := time.Now()
	m.worker.Signal(syscall.SIGTERM)
	if code := m.worker.Wait(); code != 0 {
		t.Errorf("the worker ended with %d", code)
	}
	t.Logf("ended %v after the second signal", time.Since(began).Round(time.Millisecond))
	if got := m.results(); len(got) != 1 || !strings.Contains(got[0], "interrupted: the worker was stopped") {
		t.Errorf("results %q", got)
	}
}

// An operator's stop by force ends a running call long before the next beat is
// due, in 30 s. Its command notes every 10 ms that it runs. TestOperatorsStop of
// the worker holds it to a second, on a clock of its own.
func TestAForcedStopEndsACallAtOnce(t *testing.T) {
	w := testenv.Start(t, testenv.Options{})
	for _, before := range []string{"", "", "trap '' TERM INT HUP; "} {
		own := w.Environment("forced "+t.TempDir()[len(os.TempDir()):], nil)
		m := toTheGate(t, own, before+"touch runs; while :; do touch runs; sleep 0.01; done &")
		asked := time.Now()
		m.stop(t, true)
		m.worker.Said("reason=stopped")
		info, err := os.Stat(filepath.Join(m.dir, "runs"))
		if err != nil {
			t.Fatal(err)
		}
		took := info.ModTime().Sub(asked)
		t.Logf("the command ran for another %v, the worker let go after %v", took.Round(time.Millisecond), time.Since(asked).Round(time.Millisecond))
		if took > 10*time.Second {
			t.Errorf("the command ran for another %v", took)
		}
		if got := m.results(); len(got) > 0 {
			t.Errorf("results %q", got)
		}
		m.worker.Kill()
	}
}

// An operator's graceful stop lets the running call end.
func TestAGracefulStopLetsACallEnd(t *testing.T) {
	w := testenv.Start(t, testenv.Options{})
	shorten(t, w) // its holder learns by a beat
	m := toTheGate(t, w, "")
	m.stop(t, false)
	m.worker.Said("state=stopping")
	if got := m.results(); len(got) > 0 {
		t.Fatalf("the call was cut off: %q", got)
	}
	m.open(t)
	m.worker.Said("reason=stopping")
	if got := m.results(); len(got) != 1 || got[0] != "through" {
		t.Errorf("results %q", got)
	}
	if state := m.item(t)["state"]; state != "stopped" {
		t.Errorf("the item is %v", state)
	}
}
