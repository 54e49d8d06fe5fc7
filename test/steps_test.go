package test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/test/testenv"
	"github.com/berthdev/berth/worker"
)

// amidCall is while the command runs; no label of the program.
const amidCall = "amid the call"

// workerSteps are the points at which a worker is killed, in their order.
var workerSteps = []string{
	worker.PointClaimed, worker.PointAcked, worker.PointOpening, sandbox.PointStarting, sandbox.PointStarted,
	worker.PointJournaled, worker.PointRunning, amidCall, worker.PointFinished, worker.PointPosted, worker.PointReleased,
}

// killing is a session whose worker is killed at one step.
type killing struct {
	step, driver string
	elsewhere    bool // the next worker is on another host
	pooled       bool // the session has a sandbox that was ready

	w             *testenv.World // with a queue of its own
	hosts         []string       // state directories
	session       string
	doomed, after *testenv.Process
	back          *testenv.Process // the first host's next worker, nil on the same host
}

func (k *killing) name() string {
	how := map[bool]string{true: "another host", false: "the same host"}[k.elsewhere]
	if k.pooled {
		how += ", pooled"
	}
	return k.driver + ", " + how + ", " + k.step
}

// A worker is killed by SIGKILL at each step of an item and of a call. The next
// one, on the same host or on another, loses no session, answers no call twice
// and runs none twice, and in the end no sandbox is left.
func TestWorkerKilledAtEachStep(t *testing.T) {
	w := testenv.Start(t, testenv.Options{})
	agent := w.Agent()
	var all []*killing
	add := func(k *killing) {
		k.w = w.Environment(k.name(), shortLeases)
		all = append(all, k)
	}
	for _, driver := range []string{"namespaces", "process"} {
		add(&killing{step: amidCall, driver: driver, pooled: true, hosts: []string{t.TempDir()}})
		for _, elsewhere := range []bool{false, true} {
			for _, step := range workerSteps {
				k := &killing{step: step, driver: driver, elsewhere: elsewhere, hosts: []string{t.TempDir()}}
				if elsewhere {
					k.hosts = append(k.hosts, t.TempDir())
				}
				add(k)
			}
		}
	}
	// Most of it is waiting for leases to lapse: all at once.
	for _, k := range all {
		lasts := "sleep 0.5"
		if k.step == amidCall {
			lasts = "until [ -e gate ]; do sleep 0.05; done"
		}
		if k.pooled {
			k.doomed = k.start(k.hosts[0], k.step)
			k.ready(t)
		}
		k.session = k.w.Session(agent, testenv.Script(
			testenv.Say("first", testenv.Bash("echo 1 >> ran; touch at; "+lasts+"; echo one")),
			testenv.Say("second", testenv.Bash("echo 2 >> ran; echo two")), testenv.Say("done")))
		if !k.pooled {
			k.doomed = k.start(k.hosts[0], k.step)
		}
	}
	for _, k := range all {
		k.await(t)
		k.after = k.start(k.hosts[len(k.hosts)-1], "")
	}
	for _, k := range all {
		t.Run(k.name(), k.check)
	}
	for _, k := range all { // the first host comes back, and all end
		if k.elsewhere {
			k.back = k.start(k.hosts[0], "")
		}
	}
	for _, k := range all {
		if k.elsewhere {
			k.back.Said("polling for work")
			k.back.Signal(syscall.SIGTERM)
		}
		k.after.Signal(syscall.SIGTERM)
	}
	for _, k := range all {
		t.Run("the end of "+k.name(), k.gone)
	}
}

// start starts a worker that dies at a step, "" for one that does not.
func (k *killing) start(state, step string) *testenv.Process {
	if step == amidCall {
		step = ""
	}
	warm := map[bool]string{true: "1", false: "0"}[k.pooled]
	return k.w.WorkerIn(state, step, "--sandbox", k.driver, "--warm", warm, "--max-idle", "1s", "--max-sessions", "2")
}

// ready waits until a sandbox is.
func (k *killing) ready(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(testenv.Patience); ; <-time.After(20 * time.Millisecond) {
		all, err := sandbox.List(filepath.Join(k.hosts[0], "sandboxes"))
		if err == nil && slices.ContainsFunc(all, func(e sandbox.Entry) bool { return e.State == sandbox.StateReady && e.Receipt != nil }) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: no sandbox is ready: %v %v\n%s", k.name(), all, err, k.doomed.Log())
		}
	}
}

// ran is what the session's commands noted on a host.
func (k *killing) ran(host string) string {
	b, _ := os.ReadFile(filepath.Join(k.workspace(host), "ran")) // none ran there
	return string(b)
}

func (k *killing) workspace(host string) string {
	return filepath.Join(host, "sandboxes", k.session, "tree", "workspace")
}

// await waits for the first worker's death.
func (k *killing) await(t *testing.T) {
	t.Helper()
	if k.step == amidCall {
		k.w.Until(k.session, "the command to run", func([]map[string]any) bool {
			_, err := os.Stat(filepath.Join(k.workspace(k.hosts[0]), "at"))
			return err == nil
		})
		at := filepath.Join(k.hosts[0], "sandboxes", k.session)
		if rec, err := sandbox.ReadRecord(at); err != nil || k.pooled == (rec.Label == sandbox.Label(at)) {
			t.Errorf("%s: the session's sandbox bears %q, %v", k.name(), rec.Label, err)
		}
		k.doomed.Kill()
		if err := os.WriteFile(filepath.Join(k.workspace(k.hosts[0]), "gate"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-k.doomed.Done():
	case <-time.After(testenv.Patience):
		t.Fatalf("%s: the worker was not killed\n%s", k.name(), k.doomed.Log())
	}
}

// check holds the session to the rule.
func (k *killing) check(t *testing.T) {
	t.Helper()
	calls := []string{"one", "two"}
	if k.step == worker.PointReleased { // its turn was over: there shall be another
		calls = append(calls, "three")
		k.w.Send(k.session, testenv.Script(testenv.Say("third", testenv.Bash("echo 3 >> ran; echo three")), testenv.Say("done")))
	}
	events := k.w.Until(k.session, "the end of all", func(e []map[string]any) bool {
		r := testenv.StopReason(e)
		return r != "" && r != "requires_action" && len(testenv.Of(e, "agent.tool_use")) == len(calls)
	})
	checkLog(t, events)
	if got := testenv.StopReason(events); got != "end_turn" {
		t.Errorf("ended with %s", got)
	}
	ran := ""
	for _, host := range k.hosts {
		ran += k.ran(host)
	}
	for i, r := range testenv.Of(events, "user.tool_result") {
		text := testenv.Text(r)
		interrupted := strings.HasPrefix(text, "interrupted: this call may have been started")
		times := strings.Count(ran, string(rune('1'+i)))
		switch {
		case times > 1:
			t.Errorf("call %d ran %d times", i+1, times)
		case interrupted && i != k.unknown():
			t.Errorf("call %d is answered as interrupted:\n%s", i+1, testenv.Dump(events))
		case interrupted:
			t.Logf("interrupted; ran %d times", times)
		case !strings.HasSuffix(text, calls[i]) || times != 1: // it may begin with news of the workspace
			t.Errorf("call %d ran %d times and is answered with %q", i+1, times, text)
		}
	}
}

// unknown is the call of which whoever comes after may not know whether it has
// run: it was streamed, or may have been, to the worker that died, and what that
// one noted is out of reach or was about to be written; -1 for none.
func (k *killing) unknown() int {
	switch k.step {
	case worker.PointClaimed:
		return -1
	case worker.PointAcked, worker.PointOpening, sandbox.PointStarting, sandbox.PointStarted:
		return 0
	case worker.PointReleased:
		return 2
	}
	switch {
	case !k.elsewhere:
		return -1
	case k.step == worker.PointPosted:
		return 1
	}
	return 0
}

// gone waits for the last worker, and for the first host's, which came back: no
// sandbox is left on either.
func (k *killing) gone(t *testing.T) {
	t.Helper()
	for _, p := range []*testenv.Process{k.after, k.back} {
		if p == nil {
			continue
		}
		if code := p.Wait(); code != 0 {
			t.Errorf("a worker ended with %d\n%s", code, p.Log())
		}
	}
	for _, host := range k.hosts {
		entries, err := sandbox.List(filepath.Join(host, "sandboxes"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.State != sandbox.StateKept || e.Problem != "" {
				t.Errorf("a sandbox is left: %+v", e)
			}
		}
		for _, pid := range within(t, host) {
			t.Errorf("process %s still has mounts of %s", pid, host)
		}
	}
}

// within lists the processes that have mounts of a directory.
func within(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var some []string
	for _, file := range all {
		if b, err := os.ReadFile(file); err == nil && strings.Contains(string(b), dir+"/") { // else it has just ended
			some = append(some, strings.Split(file, "/")[2])
		}
	}
	return some
}
