package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/test/testenv"
	"github.com/berthdev/berth/worker/workertest"
)

// scriptsAtOnce is how many scripts play at one time: they wait more than they
// work.
const scriptsAtOnce = 6

// Through every kind of trouble the real worker, with real sandboxes and its
// journal, loses no session, answers and runs no call twice, calls no healthy
// call a failure, and leaves nothing.
func TestUnderFaults(t *testing.T) {
	sessions := 30
	if soak {
		sessions = 300
	}
	testenv.Binary(t)
	eachScript(t, func(f *faulty) {
		f.mark = "86400." + strings.TrimPrefix(filepath.Base(f.dir), "berth-faults-")
		for _, found := range f.play(sessions, "/ran", f.ourWorker()).Check() {
			f.t.Error(found)
		}
	})
}

// The official worker under the same scripts, for docs/faults.md: nothing is
// asked of it but that it lives when there is no trouble, which says that plane
// and checker are fair to it.
func TestOfficialWorkerUnderFaults(t *testing.T) {
	if os.Getenv("BERTH_OFFICIAL") == "" {
		t.Skip("by design: it measures somebody else's worker; BERTH_OFFICIAL=1 runs it")
	}
	eachScript(t, func(f *faulty) {
		sessions := 20
		if f.script.Long {
			sessions = 6 // one at a time
		}
		found := f.play(sessions, f.log(), f.officialWorker()).Check()
		if f.script.Name == "none" {
			for _, x := range found {
				f.t.Error(x)
			}
		}
		f.t.Log(tally(sessions, found))
	})
}

// eachScript plays the scripts, those with long calls first.
func eachScript(t *testing.T, play func(f *faulty)) {
	scripts := workertest.Scripts()
	slices.SortStableFunc(scripts, func(a, b workertest.Script) int {
		switch {
		case a.Long == b.Long:
			return 0
		case a.Long:
			return -1
		}
		return 1
	})
	room := make(chan struct{}, scriptsAtOnce)
	var all sync.WaitGroup
	for _, s := range scripts {
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			t.Run(s.Name, func(t *testing.T) { play(newFaulty(t, s)) })
		})
	}
	all.Wait()
}

// tally is a line of the table in docs/faults.md.
func tally(sessions int, found []workertest.Finding) string {
	lost, calls := map[string]bool{}, map[workertest.Rule]map[string]bool{}
	for _, f := range found {
		if f.Rule == workertest.RuleLost {
			lost[f.Session] = true
		}
		if calls[f.Rule] == nil {
			calls[f.Rule] = map[string]bool{}
		}
		calls[f.Rule][f.Call] = true
	}
	return fmt.Sprintf("of %d sessions %d lost; calls: %d ran twice, %d answered twice, %d wrong results, %d from nowhere",
		sessions, len(lost), len(calls[workertest.RuleRan]), len(calls[workertest.RuleAnswered]), len(calls[workertest.RuleWrong]), len(calls[workertest.RuleNowhere]))
}

// faulty is a plane with trouble, and sessions that live through it.
type faulty struct {
	t      *testing.T
	script workertest.Script
	plane  *workertest.Plane
	dir    string // of all that is on disk here
	mark   string // argument of a process that each session leaves behind, "" for none
}

func newFaulty(t *testing.T, s workertest.Script) *faulty {
	t.Helper()
	// Not below /tmp, which is each session's own.
	dir, err := os.MkdirTemp("/var/tmp", "berth-faults-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	f := &faulty{t: t, script: s, plane: workertest.New(t), dir: dir}
	if err := os.Mkdir(f.log(), 0o755); err != nil {
		t.Fatal(err)
	}
	s.Begin(f.plane)
	return f
}

// log is the directory of the sessions' logs of what they ran.
func (f *faulty) log() string { return filepath.Join(f.dir, "ran") }

// servant is a worker at the plane of a faulty.
type servant struct {
	limit time.Duration   // for the sessions to end
	idle  func() []string // what of ended sessions is there while the worker runs
	stop  func() []string // ends the worker and tells what is left
}

// ourWorker starts as many of Berth's workers as the script asks for.
func (f *faulty) ourWorker() servant {
	policy := filepath.Join(f.dir, "policy.yaml")
	text := fmt.Sprintf("mounts: [{source: %s, target: /ran, read_only: false}]\n", f.log())
	if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	idle := "200ms"
	if f.script.Terminated {
		idle = "10m" // the end alone lets the session go
	}
	env := []string{
		"ANTHROPIC_BASE_URL=" + f.plane.URL, "ANTHROPIC_ENVIRONMENT_ID=" + workertest.EnvironmentID, "ANTHROPIC_ENVIRONMENT_KEY=" + workertest.EnvironmentKey,
	}
	var states []string
	var workers []*testenv.Process
	for i := range f.script.Workers {
		state := filepath.Join(f.dir, fmt.Sprint("w", i))
		states = append(states, state)
		workers = append(workers, testenv.Run(f.t, env, "worker", "poll", "--sandbox", "namespaces", "--state-dir", state,
			"--policy", policy, "--max-sessions", "12", "--max-idle", idle))
	}
	return servant{
		limit: 5 * testenv.Patience,
		idle:  func() []string { return live(f.t, states) },
		stop: func() []string {
			for _, w := range workers {
				w.Signal(syscall.SIGTERM)
			}
			var left []string
			for _, w := range workers {
				if code := w.Wait(); code != 0 {
					f.t.Errorf("the worker ended with %d", code)
				}
			}
			for _, state := range states {
				left = append(left, f.leftovers(state)...)
			}
			return left
		},
	}
}

// officialWorker starts the official Go SDK's worker, whose sandbox is its
// working directory.
func (f *faulty) officialWorker() servant {
	w := &testenv.World{BaseURL: f.plane.URL, EnvironmentID: workertest.EnvironmentID, EnvKey: workertest.EnvironmentKey}
	idle := 200 * time.Millisecond
	if f.script.Terminated {
		idle = 10 * time.Minute
	}
	for i := range f.script.Workers {
		dir := filepath.Join(f.dir, fmt.Sprint("official", i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			f.t.Fatal(err)
		}
		officialWorker(f.t, w, dir, idle)
	}
	nothing := func() []string { return nil }
	return servant{limit: 3 * testenv.Patience, idle: nothing, stop: nothing}
}

// play lets sessions play and gives what became of them. ran is where they see
// the directory of their log.
func (f *faulty) play(n int, ran string, w servant) workertest.History {
	f.t.Helper()
	var all []*part
	for i := range n {
		all = append(all, f.session(i, ran))
	}
	until(w.limit+time.Duration(n)*time.Second, func() bool {
		over := true
		for _, p := range all {
			over = p.step() && over
		}
		return over
	})
	until(testenv.Patience, func() bool { return f.plane.Live() == 0 && len(w.idle()) == 0 })
	h := f.plane.History()
	h.Left = w.idle()
	h.Left = append(h.Left, w.stop()...)
	h.Ran = f.ran()
	return h
}

// until waits for cond for as long as limit, and says whether it came.
func until(limit time.Duration, cond func() bool) bool {
	deadline := time.After(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			return false
		}
	}
	return true
}

// part is a session and what is still to come for it.
type part struct {
	*workertest.Session
	next []func() bool // each is done when it says so
}

// step says whether the session has got all that is to come for it.
func (p *part) step() bool {
	for len(p.next) > 0 && p.next[0]() {
		p.next = p.next[1:]
	}
	return len(p.next) == 0
}

// session makes a session: a message with two requests for tools, an interrupt
// that finds nothing to interrupt, and a second message. One that is to be
// terminated is so while it is idle or in a call.
func (f *faulty) session(i int, ran string) *part {
	bash := func(command string) workertest.Call {
		return toolCall("bash", map[string]string{"command": "echo {{call}} >> " + ran + "/{{session}}; " + command + "; echo ran {{call}}"}, "ran {{call}}")
	}
	work := bash("true")
	if f.script.Long {
		work = bash("sleep 2.5")
	}
	leave := bash("true")
	if f.mark != "" {
		leave = bash("setsid sleep " + f.mark + " > /dev/null 2>&1 & true")
	}
	first := []workertest.Turn{{Calls: []workertest.Call{leave, work}}}
	second := workertest.Turn{Calls: []workertest.Call{work, toolCall("write", map[string]string{"file_path": "note", "content": "of {{session}}\n"}, "")}}
	if !f.script.Takes && !f.script.Shuffles {
		second.Calls = append(second.Calls, toolCall("read", map[string]string{"file_path": "note"}, "of {{session}}"),
			toolCall("edit", map[string]string{"file_path": "note", "old_string": "of", "new_string": "from"}, ""))
	}
	last := workertest.Turn{Calls: []workertest.Call{work, toolCall("glob", map[string]string{"pattern": "*"}, "")}}
	if !f.script.Terminated {
		s := f.plane.Session(append(first, second)...)
		return &part{s, []func() bool{
			func() bool {
				if s.Done() {
					s.Interrupt(false)
					s.More(last)
					return true
				}
				return false
			},
			s.Done,
		}}
	}
	if i%2 == 0 {
		s := f.plane.Session(first...)
		return &part{s, []func() bool{func() bool {
			if s.Done() {
				s.Terminate(false)
				return true
			}
			return false
		}}}
	}
	s := f.plane.Session(append(first, workertest.Turn{Calls: []workertest.Call{bash("sleep 3600")}})...)
	return &part{s, []func() bool{func() bool {
		text, _ := os.ReadFile(filepath.Join(f.log(), s.ID))
		if strings.Count(string(text), "\n") == 3 {
			s.Terminate(false)
			return true
		}
		return false
	}}}
}

func toolCall(tool string, input map[string]string, want string) workertest.Call {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(input); err != nil {
		panic(err) // strings
	}
	return workertest.Call{Name: tool, Input: b.String(), Want: want}
}

// ran reads the sessions' logs.
func (f *faulty) ran() []string {
	f.t.Helper()
	files, err := os.ReadDir(f.log())
	if err != nil {
		f.t.Fatal(err)
	}
	var ids []string
	for _, e := range files {
		text, err := os.ReadFile(filepath.Join(f.log(), e.Name()))
		if err != nil {
			f.t.Fatal(err)
		}
		ids = append(ids, strings.Fields(string(text))...)
	}
	return ids
}

// live lists the sandboxes that sessions have in state directories.
func live(t *testing.T, states []string) []string {
	t.Helper()
	var left []string
	for _, state := range states {
		entries, err := sandbox.List(filepath.Join(state, "sandboxes"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.State == sandbox.StateLive {
				left = append(left, "sandbox of "+e.Session)
			}
		}
	}
	return left
}

// leftovers is what a worker that has ended left of its sandboxes: folders,
// processes, mounts, cgroups.
func (f *faulty) leftovers(state string) []string {
	f.t.Helper()
	left := live(f.t, []string{state})
	gc := testenv.Run(f.t, nil, "sandbox", "gc", "--dry-run", "--json", "--sandbox", "namespaces", "--state-dir", state)
	var found struct{ Data []json.RawMessage }
	if err := json.Unmarshal([]byte(gc.FirstLine()), &found); err != nil {
		f.t.Errorf("sandbox gc: %v\n%s", err, gc.Log())
	}
	mine := strings.TrimSuffix(sandbox.Label(filepath.Join(state, "sandboxes", "x")), "x")
	for _, l := range found.Data {
		if strings.Contains(string(l), mine) {
			left = append(left, string(l))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		f.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, state) {
			left = append(left, "mount "+strings.TrimSpace(line))
		}
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		f.t.Fatal(err)
	}
	for _, c := range commands {
		text, _ := os.ReadFile(c) // it may have ended
		if strings.Contains(string(text), f.mark) {
			left = append(left, "process "+strings.ReplaceAll(string(text), "\x00", " "))
		}
	}
	return left
}
