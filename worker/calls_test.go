package worker_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/workertest"
)

func idleSoon(c *worker.Config) { c.MaxIdle = 30 * time.Millisecond }

func asking(name string, p api.Permission) workertest.Turn {
	return workertest.Turn{Calls: []workertest.Call{{Name: name, Permission: p}}}
}

func TestACallThatAsksWaitsForItsVerdict(t *testing.T) {
	t.Parallel()
	for _, permission := range []api.Permission{api.PermissionAsk, "newer_than_us"} {
		l := start(t, idleSoon)
		turn := workertest.Calls("before")
		turn.Calls = append(turn.Calls, workertest.Call{Name: "asked", Permission: permission}, workertest.Call{Name: "after"})
		s := l.plane.Session(turn)
		l.wait("the calls that need no verdict", func() bool { return len(s.Answers()) == 2 })
		id := s.CallIDs()[1]
		if l.kit.ran(id) != 0 {
			t.Fatalf("%s: ran before its verdict", permission)
		}
		s.Confirm(id, "allow")
		l.finished(s)
		if diff := cmp.Diff([]string{"ran before false", "ran asked false", "ran after false"}, texts(s)); diff != "" {
			t.Error(diff)
		}
		if s.Refused() != 0 {
			t.Errorf("%s: %d results refused", permission, s.Refused())
		}
	}
}

func TestVerdictsInTheHistoryCount(t *testing.T) {
	t.Parallel()
	p := workertest.New(t)
	turn := asking("yes", api.PermissionAsk)
	turn.Calls = append(turn.Calls, workertest.Call{Name: "no", Permission: api.PermissionAsk})
	s := p.Session(turn)
	s.Confirm(s.CallIDs()[0], "allow")
	s.Confirm(s.CallIDs()[1], "deny")
	l := startAt(t, p, idleSoon)
	l.finished(s)
	l.wait("the item's end", func() bool { return p.Live() == 0 })
	if diff := cmp.Diff([]string{"ran yes false"}, texts(s)); diff != "" {
		t.Error(diff)
	}
}

func TestDeniedCallsAreLeftAlone(t *testing.T) {
	t.Parallel()
	l := start(t, idleSoon)
	turn := asking("policy", api.PermissionDeny)
	turn.Calls = append(turn.Calls, workertest.Call{Name: "person", Permission: api.PermissionAsk})
	s := l.plane.Session(turn)
	l.wait("the stream", func() bool { return len(l.plane.Requests(workertest.List)) > 0 })
	s.Confirm(s.CallIDs()[1], "deny")
	l.wait("the item's end", func() bool { return l.plane.Live() == 0 })
	if n := len(l.plane.Requests(workertest.Send)); n != 0 || len(l.kit.order) != 0 {
		t.Errorf("%d results posted, ran %v", n, l.kit.order)
	}
}

func TestUnownedToolsAreLeftAlone(t *testing.T) {
	t.Parallel()
	l := start(t, func(c *worker.Config) { c.MaxSessions = 1 })
	s := l.plane.Session(workertest.Calls("foreign", "mine"))
	l.wait("the other call", func() bool { return len(s.Answers()) == 1 })
	// The session waits for somebody else now and does not hold the slot.
	other := l.plane.Session(workertest.Calls("x"))
	l.finished(other)
	if diff := cmp.Diff([]string{"ran mine false"}, texts(s)); diff != "" {
		t.Error(diff)
	}
}

func TestCustomToolsGetTheirOwnKindOfResult(t *testing.T) {
	t.Parallel()
	l := start(t)
	l.kit.result = func(c worker.Call) ([]api.Block, bool) {
		return []api.Block{api.Text(string(c.Input))}, !c.Custom
	}
	s := l.plane.Session(workertest.Turn{Calls: []workertest.Call{{Name: "deploy", Custom: true, Input: `{"to":"prod"}`}}})
	l.finished(s)
	if diff := cmp.Diff([]string{`{"to":"prod"} false`}, texts(s)); diff != "" {
		t.Error(diff)
	}
}

func TestResultsAreNeverEmpty(t *testing.T) {
	t.Parallel()
	l := start(t)
	results := [][]api.Block{nil, {}, {api.Text("")}, {api.Text(""), api.Text("b")}}
	l.kit.result = func(worker.Call) ([]api.Block, bool) {
		r := results[0]
		results = results[1:]
		return r, false
	}
	s := l.plane.Session(workertest.Calls("a", "b", "c", "d"))
	l.finished(s)
	if diff := cmp.Diff([]string{"(no output) false", "(no output) false", "(no output) false", "b false"}, texts(s)); diff != "" {
		t.Error(diff)
	}
	for _, a := range s.Answers() {
		var members map[string]json.RawMessage
		if err := json.Unmarshal(a.Raw, &members); err != nil {
			t.Fatal(err)
		}
		if string(members["is_error"]) != "false" || members["id"] != nil || members["processed_at"] != nil {
			t.Errorf("posted %s", a.Raw)
		}
	}
}

func TestInterruptCancelsTheRunningCallAndDropsTheRest(t *testing.T) {
	t.Parallel()
	l := start(t)
	g := l.kit.gate("slow")
	turn := workertest.Calls("slow", "queued")
	turn.Calls = append(turn.Calls, workertest.Call{Name: "held", Permission: api.PermissionAsk})
	s := l.plane.Session(turn)
	first := <-g.entered
	s.InterruptThread("sthr_child") // not ours
	s.Interrupt(true)
	if got := <-g.cancelled; got != first {
		t.Fatalf("cancelled %s", got)
	}
	held := s.CallIDs()[2]
	s.Confirm(held, "allow")
	s.More(workertest.Calls("next"))
	l.finished(s)
	if diff := cmp.Diff([]string{"ran next false"}, texts(s)); diff != "" {
		t.Error(diff)
	}
	if n := len(l.plane.Requests(workertest.Send)); n != 1 || s.Refused() != 0 {
		t.Errorf("%d results posted, %d refused", n, s.Refused())
	}
	if want := []string{first, s.CallIDs()[3]}; !slices.Equal(l.kit.order, want) {
		t.Errorf("ran %v, want %v", l.kit.order, want)
	}
}

func TestQueuedInterruptsAndThoseOfThreadsCancelNothing(t *testing.T) {
	t.Parallel()
	l := start(t)
	g := l.kit.gate("slow")
	s := l.plane.Session(workertest.Calls("slow"))
	<-g.entered
	s.InterruptThread("sthr_child")
	g.let()
	l.finished(s)
	if diff := cmp.Diff([]string{"ran slow false"}, texts(s)); diff != "" {
		t.Error(diff)
	}
	if len(g.cancelled) != 0 {
		t.Error("the call was cancelled")
	}
}

func TestInterruptsInTheHistoryVoidOlderCalls(t *testing.T) {
	t.Parallel()
	p := workertest.New(t)
	s := p.Session(workertest.Calls("old"))
	s.Interrupt(false)
	s.More(workertest.Calls("new"))
	l := startAt(t, p)
	l.finished(s)
	if diff := cmp.Diff([]string{"ran new false"}, texts(s)); diff != "" {
		t.Error(diff)
	}
	if l.kit.ran(s.CallIDs()[0]) != 0 || s.Refused() != 0 {
		t.Error("a void call ran")
	}
}

func TestEndedThreadsLoseTheirCalls(t *testing.T) {
	t.Parallel()
	// All of it is history when the worker comes: it has read the thread's end
	// before it runs anything.
	p := workertest.New(t)
	head := api.EventHead{Type: api.TypeSessionThreadStatusRunning}
	s := p.Session()
	s.Add(&api.SessionThreadStatus{EventHead: head, SessionThreadID: "sthr_primary"})
	s.More(workertest.Turn{Calls: []workertest.Call{
		{Name: "main"}, {Name: "child", Thread: "sthr_child"}, {Name: "asks", Thread: "sthr_child", Permission: api.PermissionAsk},
		{Name: "last"},
	}})
	head.Type = api.TypeSessionThreadStatusTerminated
	s.Add(&api.SessionThreadStatus{EventHead: head, SessionThreadID: "sthr_child"})
	s.Confirm(s.CallIDs()[2], "allow")
	s.Add(&api.SessionThreadStatus{EventHead: head, SessionThreadID: "sthr_primary"})
	s.Add(&api.AgentToolUse{EventHead: api.EventHead{Type: api.TypeAgentToolUse}, Name: "late", Input: json.RawMessage("{}"), SessionThreadID: new("sthr_child")})
	l := startAt(t, p)
	// Calls run in their order: one of the child's would come before the last.
	l.wait("two answers", func() bool { return len(s.Answers()) == 2 })
	s.Interrupt(false)
	s.More(workertest.Calls("fence"))
	l.finished(s)
	if diff := cmp.Diff([]string{"ran main false", "ran last false", "ran fence false"}, texts(s)); diff != "" {
		t.Error(diff)
	}
	if len(l.kit.order) != 3 {
		t.Errorf("ran %v", l.kit.order)
	}
}

func TestTheSessionsEndEndsTheRun(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*workertest.Session){
		"terminated": func(s *workertest.Session) { s.Terminate(false) },
		"deleted": func(s *workertest.Session) {
			s.Terminate(true) // so that it is not offered again
			s.Add(&api.SessionDeleted{EventHead: api.EventHead{Type: api.TypeSessionDeleted}})
		},
	}
	for name, end := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := start(t)
			g := l.kit.gate("slow")
			s := l.plane.Session(workertest.Calls("slow"))
			<-g.entered
			end(s)
			<-g.cancelled
			l.wait("the stop", func() bool { return len(l.plane.Requests(workertest.Stop)) == 1 })
			if n := len(l.plane.Requests(workertest.Send)); n != 0 {
				t.Errorf("%d results posted", n)
			}
			if _, closed, forgot := l.boxes.count(); closed != 1 || forgot != 1 {
				t.Errorf("closed %d, forgot %d", closed, forgot)
			}
		})
	}
}

func TestATerminationInAStreamGapIsFound(t *testing.T) {
	t.Parallel()
	p := workertest.New(t)
	p.CutStreams(20*time.Millisecond, 60*time.Millisecond)
	l := startAt(t, p)
	s := p.Session(workertest.Calls("a"))
	l.finished(s)
	s.Terminate(true)
	l.wait("the stop", func() bool { return len(p.Requests(workertest.Stop)) == 1 })
	if _, _, forgot := l.boxes.count(); forgot != 1 {
		t.Errorf("forgot %d", forgot)
	}
}

func TestSessionsThatAreOverAlreadyNeedNoSandbox(t *testing.T) {
	t.Parallel()
	p := workertest.New(t)
	s := p.Session(workertest.Calls("a"))
	s.Terminate(false)
	l := startAt(t, p)
	l.wait("the stop", func() bool { return len(p.Requests(workertest.Stop)) == 1 })
	if opened, _, _ := l.boxes.count(); opened > 0 || len(l.kit.order) > 0 {
		t.Errorf("opened %d sandboxes, ran %v", opened, l.kit.order)
	}
}

func TestIdleClock(t *testing.T) {
	t.Parallel()
	const idle = 300 * time.Millisecond
	soon := func(c *worker.Config) { c.MaxIdle = idle }
	released := func(l *lab) time.Duration {
		began := time.Now()
		l.wait("the item's end", func() bool { return l.plane.Live() == 0 })
		return time.Since(began)
	}
	for name, play := range map[string]func(t *testing.T, p *workertest.Plane, via func(*worker.Config)){
		"runs after the turn": func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
			l := startAt(t, p, via, soon)
			l.finished(p.Session(workertest.Calls("a")))
			if took := released(l); took < idle || took > 2*idle {
				t.Errorf("let go after %v", took)
			}
		},
		"starts with the history": func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
			p.Session(workertest.Turn{})
			released(startAt(t, p, via, soon))
		},
		"starts with an empty history": func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
			l := startAt(t, p, via, soon)
			p.Session()
			released(l)
			if opened, _, _ := l.boxes.count(); opened > 0 {
				t.Error("a session without input opened a sandbox")
			}
		},
		"another event stops it, a verdict does not": func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
			l := startAt(t, p, via, soon)
			s := p.Session(workertest.Calls("a"))
			l.finished(s)
			s.Add(&api.SessionUpdated{EventHead: api.EventHead{Type: api.TypeSessionUpdated}})
			l.outlived(idle, s)
			s.More(workertest.Turn{})
			s.Confirm("sevt_none", "allow")
			released(l)
		},
		"a held call stops it": func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
			l := startAt(t, p, via, soon)
			s := p.Session(asking("ask", api.PermissionAsk))
			s.Add(&api.SessionStatusIdle{EventHead: api.EventHead{Type: api.TypeSessionStatusIdle}, StopReason: api.StopReason{Type: api.StopEndTurn}})
			l.outlived(idle, s)
			s.Confirm(s.CallIDs()[0], "allow")
			l.finished(s)
			released(l)
			if diff := cmp.Diff([]string{"ran ask false"}, texts(s)); diff != "" {
				t.Error(diff)
			}
		},
		"less than zero is for ever": func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
			l := startAt(t, p, via, func(c *worker.Config) { c.MaxIdle = -1 })
			s := p.Session(workertest.Calls("a"))
			l.finished(s)
			time.Sleep(10 * time.Minute)
			s.More(workertest.Calls("b"))
			l.finished(s)
			if p.Live() != 1 || len(p.Requests(workertest.Stop)) != 0 {
				t.Error("let go")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			still(t, play)
		})
	}
}

// outlived checks that a session stays while others that end their turns
// later, for two idle times on end, come and go.
func (l *lab) outlived(idle time.Duration, s *workertest.Session) {
	l.t.Helper()
	for range 2 {
		other := l.plane.Session(workertest.Turn{})
		l.wait("the other session to be let go", func() bool { return !slices.Contains(live(l.plane.Items(other)), true) })
	}
	if !slices.Contains(live(l.plane.Items(s)), true) {
		l.t.Fatal("let go")
	}
}

func live(states []api.WorkState) (all []bool) {
	for _, s := range states {
		all = append(all, s != api.WorkStopped)
	}
	return all
}

func TestEventsThatComeTwiceRunOnce(t *testing.T) {
	t.Parallel()
	p := workertest.New(t)
	p.InjectFrames(workertest.FrameFault{Kind: workertest.FrameTwice})
	p.CutStreams(10*time.Millisecond, 40*time.Millisecond)
	l := startAt(t, p)
	var turns []workertest.Turn
	for range 20 {
		turns = append(turns, workertest.Calls("a", "b", "c"))
	}
	s := p.Session(turns...)
	l.finished(s)
	for _, id := range s.CallIDs() {
		if l.kit.ran(id) != 1 {
			t.Errorf("%s ran %d times", id, l.kit.ran(id))
		}
	}
	if !slices.Equal(l.kit.order, s.CallIDs()) {
		t.Error("not in the order of the log")
	}
}

func TestAStreamCutInPlaceOfACall(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
		l := startAt(t, p, via)
		s := p.Session(workertest.Calls("a"))
		l.finished(s)
		began := time.Now()
		p.InjectFrames(workertest.FrameFault{Type: api.TypeAgentToolUse, Times: 1, Kind: workertest.FrameCut})
		s.More(workertest.Calls("b"))
		l.finished(s)
		if diff := cmp.Diff([]string{"ran a false", "ran b false"}, texts(s)); diff != "" {
			t.Error(diff)
		}
		if took := time.Since(began); took > 400*time.Millisecond {
			t.Errorf("the reconnect after a healthy stream took %v", took)
		}
	})
}

func TestAHistoryThatFailsIsReadAgain(t *testing.T) {
	t.Parallel()
	p := workertest.New(t)
	s := p.Session(workertest.Calls("a"))
	p.Inject(workertest.Fault{Route: workertest.List, Times: 2, Status: 500})
	l := startAt(t, p)
	l.finished(s)
	if diff := cmp.Diff([]string{"ran a false"}, texts(s)); diff != "" {
		t.Error(diff)
	}
}

func TestAStreamThatIsRefusedForGoodEndsTheItem(t *testing.T) {
	t.Parallel()
	p := workertest.New(t)
	s := p.Session(workertest.Calls("a"))
	p.Inject(workertest.Fault{Route: workertest.Stream, Times: 1, Status: 403})
	l := startAt(t, p)
	l.wait("the stop", func() bool { return len(p.Requests(workertest.Stop)) == 1 })
	l.finished(s) // by the next delivery
}

func TestLongHistoriesAreReadWhole(t *testing.T) {
	t.Parallel()
	p := workertest.New(t)
	s := p.Session()
	for range 230 {
		s.Add(&api.AgentMessage{EventHead: api.EventHead{Type: api.TypeAgentMessage}, Content: []api.Block{api.Text("x")}})
	}
	s.More(workertest.Calls("a"))
	l := startAt(t, p)
	l.finished(s)
	if n := len(p.Requests(workertest.List)); n < 5 {
		t.Errorf("%d pages", n)
	}
	if diff := cmp.Diff([]string{"ran a false"}, texts(s)); diff != "" {
		t.Error(diff)
	}
}

func TestPossiblyStartedCallsAreNotRun(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
		l := newLab(t, p, via, func(c *worker.Config) { c.Journal = nil })
		g := l.kit.gate("slow")
		l.run()
		s := p.Session(workertest.Calls("slow", "second"))
		<-g.entered
		p.StealLease(s)
		<-g.cancelled
		l.finished(s)
		got := s.Answers()
		if len(got) != 2 {
			t.Fatalf("answers %v", texts(s))
		}
		for _, a := range got {
			if !a.IsError || !strings.HasPrefix(a.Text, "interrupted") {
				t.Errorf("answered %q, error %v", a.Text, a.IsError)
			}
		}
		if l.kit.ran(s.CallIDs()[0]) != 1 || l.kit.ran(s.CallIDs()[1]) != 0 {
			t.Errorf("ran %v", l.kit.order)
		}
	})
}
