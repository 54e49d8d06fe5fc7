package worker_test

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/toolset"
	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/workertest"
)

func routes(p *workertest.Plane, route workertest.Route) int { return len(p.Requests(route)) }

func TestHealthChecksAreBeatenOnceAndStopped(t *testing.T) {
	t.Parallel()
	l := start(t)
	id := l.plane.HealthCheck()
	l.wait("the stop", func() bool { return routes(l.plane, workertest.Stop) == 1 })
	if beats := l.plane.Requests(workertest.Beat); len(beats) != 1 || beats[0].Work != id || beats[0].Expected != api.NoHeartbeat {
		t.Errorf("beats %+v", beats)
	}
	if stop := l.plane.Requests(workertest.Stop)[0]; stop.Work != id || !stop.Force {
		t.Errorf("stop %+v", stop)
	}
	if opened, _, _ := l.boxes.count(); opened != 0 {
		t.Error("a health check opened a sandbox")
	}
}

func TestAckFailures(t *testing.T) {
	t.Parallel()
	t.Run("a blip is outlived", func(t *testing.T) {
		t.Parallel()
		p := workertest.New(t)
		p.Inject(workertest.Fault{Route: workertest.Ack, Times: 4, Status: 500})
		l := startAt(t, p, idleSoon)
		s := p.Session(workertest.Calls("a"))
		l.finished(s)
		if n := len(p.Items(s)); n != 1 {
			t.Errorf("%d items", n)
		}
	})
	t.Run("an outage leaves the item to the queue", func(t *testing.T) {
		t.Parallel()
		p := workertest.New(t)
		p.Inject(workertest.Fault{Route: workertest.Ack, Times: 3, Status: 503})
		l := startAt(t, p, func(c *worker.Config) { c.Reclaim = 300 * time.Millisecond })
		s := p.Session(workertest.Calls("a"))
		l.finished(s)
		for _, r := range p.Requests(workertest.Stop) {
			if r.Status == http.StatusOK && r.Work == p.Requests(workertest.Ack)[0].Work {
				t.Error("the item that could not be acked was stopped")
			}
		}
	})
	t.Run("a lost answer is no conflict", func(t *testing.T) {
		t.Parallel()
		p := workertest.New(t)
		p.Inject(workertest.Fault{Route: workertest.Ack, Times: 1, Lost: true})
		p.Inject(workertest.Fault{Route: workertest.Ack, Times: 1, Status: 409})
		l := startAt(t, p)
		s := p.Session(workertest.Calls("a"))
		l.finished(s)
		if n := len(p.Items(s)); n != 1 {
			t.Errorf("%d items", n)
		}
	})
	t.Run("a conflict drops it", func(t *testing.T) {
		t.Parallel()
		p := workertest.New(t)
		p.Inject(workertest.Fault{Route: workertest.Ack, Times: 1, Status: 409})
		l := startAt(t, p, func(c *worker.Config) { c.Reclaim = 200 * time.Millisecond })
		s := p.Session(workertest.Calls("a"))
		l.finished(s)
		acks := p.Requests(workertest.Ack)
		if len(acks) != 2 || acks[0].Work == acks[1].Work {
			t.Errorf("acks %+v", acks)
		}
		if routes(p, workertest.Stop) != 0 {
			t.Error("stopped")
		}
	})
}

func TestPollFailures(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		status int
		says   string
	}{{401, "refuses the environment key"}, {403, "not for env_"}, {404, "no environment env_"}, {400, "poll for work"}} {
		p := workertest.New(t)
		p.Inject(workertest.Fault{Route: workertest.Poll, Status: tt.status})
		err := startAt(t, p).ended()
		if client.StatusOf(err) != tt.status || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%d: %v", tt.status, err)
		}
		if strings.Contains(err.Error(), workertest.EnvironmentKey) {
			t.Error("the error holds the key")
		}
	}
	for _, status := range []int{408, 409, 429, 500, 529} {
		p := workertest.New(t)
		p.Inject(workertest.Fault{Route: workertest.Poll, Times: 1, Status: status})
		s := p.Session(workertest.Calls("a"))
		l := startAt(t, p)
		l.finished(s)
	}
}

func TestRunRefusesAFatalPollAfterFinishingItsCalls(t *testing.T) {
	t.Parallel()
	l := start(t, func(c *worker.Config) { c.MaxSessions = 2 })
	g := l.kit.gate("slow")
	s := l.plane.Session(workertest.Calls("slow"))
	<-g.entered
	l.plane.Inject(workertest.Fault{Route: workertest.Poll, Status: 401})
	l.wait("the refused poll", func() bool {
		polls := l.plane.Requests(workertest.Poll)
		return polls[len(polls)-1].Status == 401
	})
	g.let()
	l.finished(s)
	if err := l.ended(); client.StatusOf(err) != 401 {
		t.Errorf("Run: %v", err)
	}
}

func TestALostLeaseEndsEverythingAtOnce(t *testing.T) {
	t.Parallel()
	p := workertest.New(t)
	p.SetTTL(2 * time.Second) // a beat a second
	l := startAt(t, p)
	g := l.kit.gate("slow")
	s := p.Session(workertest.Calls("slow"))
	<-g.entered
	first := p.Requests(workertest.Ack)[0].Work
	p.StealLease(s)
	<-g.cancelled
	l.finished(s)
	for _, r := range p.Requests("") {
		if r.Work == first && r.Route == workertest.Stop {
			t.Error("stopped an item that was lost")
		}
		if r.Route == workertest.Send && r.Credential == "sk-test-req01-"+first {
			t.Error("posted with a lost lease")
		}
	}
	if got := s.Answers(); len(got) != 1 || !got[0].IsError || l.kit.ran(s.CallIDs()[0]) != 1 {
		t.Errorf("answers %v, ran %d times", texts(s), l.kit.ran(s.CallIDs()[0]))
	}
	if opened, closed, _ := l.boxes.count(); opened > 2 || closed < 1 {
		t.Errorf("opened %d, closed %d", opened, closed)
	}
}

func TestAHangingCallDoesNotKeepALostLease(t *testing.T) {
	t.Parallel()
	p := workertest.New(t)
	p.SetTTL(2 * time.Second)
	l := startAt(t, p)
	g := l.kit.gate("slow")
	g.stubborn = true
	s := p.Session(workertest.Calls("slow"))
	<-g.entered
	p.StealLease(s)
	<-g.cancelled
	// The sandbox is killed while the call hangs in it.
	l.wait("the sandbox's end", func() bool { _, closed, _ := l.boxes.count(); return closed == 1 })
	g.let()
	l.finished(s)
}

func TestLostHeartbeatAnswersAreNoLostLease(t *testing.T) {
	t.Parallel()
	p := workertest.New(t)
	p.SetTTL(4 * time.Second)
	p.Inject(workertest.Fault{Route: workertest.Beat, Times: 3, Lost: true})
	l := startAt(t, p)
	g := l.kit.gate("slow")
	s := p.Session(workertest.Calls("slow"))
	<-g.entered
	l.wait("a few beats", func() bool {
		ok := 0
		for _, r := range p.Requests(workertest.Beat) {
			if r.Status == http.StatusOK {
				ok++
			}
		}
		return ok == 2
	})
	g.let()
	l.finished(s)
	if diff := cmp.Diff([]string{"ran slow false"}, texts(s)); diff != "" {
		t.Error(diff)
	}
	if n := len(p.Items(s)); n != 1 {
		t.Errorf("%d items", n)
	}
}

func TestOperatorsStop(t *testing.T) {
	t.Parallel()
	t.Run("gracefully: the call finishes and its result is posted", func(t *testing.T) {
		t.Parallel()
		p := workertest.New(t)
		p.SetTTL(2 * time.Second)
		l := startAt(t, p)
		g := l.kit.gate("slow")
		s := p.Session(workertest.Calls("slow", "next"))
		<-g.entered
		p.StopWork(s, false)
		l.wait("a beat that hears of it, and one more", func() bool { return routes(p, workertest.Beat) >= 3 })
		g.let()
		l.wait("the stop", func() bool { return routes(p, workertest.Stop) == 1 })
		if got := texts(s); len(got) < 1 || got[0] != "ran slow false" {
			t.Errorf("answers %v", got)
		}
		if l.kit.order[0] != s.CallIDs()[0] || len(g.cancelled) > 0 {
			t.Error("the call was cancelled")
		}
	})
	t.Run("by force: cancelled within a second", func(t *testing.T) {
		t.Parallel()
		p := workertest.New(t)
		p.SetTTL(2 * time.Second)
		l := startAt(t, p)
		g := l.kit.gate("slow")
		s := p.Session(workertest.Calls("slow"))
		<-g.entered
		p.StopWork(s, true)
		<-g.cancelled
		l.wait("the stop", func() bool { return routes(p, workertest.Stop) == 1 })
		if len(s.Answers()) != 0 {
			t.Errorf("answers %v", texts(s))
		}
	})
}

func TestACancelledCallThatHangsLosesItsSandbox(t *testing.T) {
	t.Parallel()
	p := workertest.New(t)
	p.SetTTL(2 * time.Second)
	l := startAt(t, p)
	g := l.kit.gate("slow")
	g.stubborn = true
	s := p.Session(workertest.Calls("slow"))
	<-g.entered
	p.StopWork(s, true)
	<-g.cancelled
	l.wait("the sandbox's end", func() bool { _, closed, _ := l.boxes.count(); return closed == 1 })
	if routes(p, workertest.Stop) != 0 {
		t.Error("let go while the call hangs")
	}
	g.let()
	l.wait("the stop", func() bool { return routes(p, workertest.Stop) == 1 })
}

func TestAnUnsentResultIsPostedByTheNextHistoryPass(t *testing.T) {
	t.Parallel()
	p := workertest.New(t)
	s := p.Session(workertest.Calls("a", "b"))
	p.Inject(workertest.Fault{Route: workertest.Send, Times: 2, Status: 500})
	k := newKit()
	hc := &http.Client{Transport: &http.Transport{}}
	defer hc.CloseIdleConnections()
	r, err := worker.NewToolRunner(worker.RunnerConfig{
		Client: client.New(p.URL, client.Bearer(workertest.EnvironmentKey), hc), SessionID: s.ID, Tools: k,
		SendWindow: time.Millisecond, MaxIdle: 10 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if end, err := r.Run(t.Context(), t.Context()); end != worker.EndIdle || err != nil {
		t.Errorf("%s, %v", end, err)
	}
	if diff := cmp.Diff([]string{"ran a false", "ran b false"}, texts(s)); diff != "" {
		t.Error(diff)
	}
	for _, id := range s.CallIDs() {
		if k.ran(id) != 1 {
			t.Errorf("%s ran %d times", id, k.ran(id))
		}
	}
}

func TestDrainLetsRunningCallsFinish(t *testing.T) {
	t.Parallel()
	l := start(t, func(c *worker.Config) { c.MaxSessions = 4 })
	g := l.kit.gate("slow")
	parked := l.plane.Session(workertest.Calls("a"))
	l.finished(parked)
	s := l.plane.Session(workertest.Calls("slow", "queued"))
	<-g.entered
	l.stop()
	l.wait("the parked session to be let go", func() bool { return l.plane.Items(parked)[0] == api.WorkStopped })
	if len(g.cancelled) > 0 {
		t.Fatal("the running call was cancelled")
	}
	late := l.plane.Session(workertest.Calls("late"))
	g.let()
	if err := l.ended(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if diff := cmp.Diff([]string{"ran slow false"}, texts(s)); diff != "" {
		t.Error(diff)
	}
	if len(late.Answers()) != 0 || l.plane.Items(s)[0] != api.WorkStopped {
		t.Error("work was taken, or not let go")
	}
	if _, closed, _ := l.boxes.count(); closed != 2 {
		t.Errorf("closed %d sandboxes", closed)
	}
}

func TestTheSecondStopCancels(t *testing.T) {
	t.Parallel()
	l := start(t)
	g := l.kit.gate("slow")
	s := l.plane.Session(workertest.Calls("slow"))
	<-g.entered
	l.stop()
	l.kill()
	<-g.cancelled
	if err := l.ended(); err != nil {
		t.Errorf("Run: %v", err)
	}
	got := s.Answers() // the session is told, so that it does not wait for ever
	if len(got) != 1 || !got[0].IsError || !strings.Contains(string(got[0].Raw), "interrupted: the worker was stopped") {
		t.Errorf("answers %v", texts(s))
	}
	if l.plane.Items(s)[0] != api.WorkStopped {
		t.Error("not let go")
	}
}

func TestADrainIsBounded(t *testing.T) {
	t.Parallel()
	l := start(t, func(c *worker.Config) { c.DrainLimit = 50 * time.Millisecond })
	g := l.kit.gate("slow")
	s := l.plane.Session(workertest.Calls("slow"))
	<-g.entered
	l.stop()
	<-g.cancelled
	if err := l.ended(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if got := s.Answers(); len(got) != 1 || !got[0].IsError {
		t.Errorf("answers %v", texts(s))
	}
}

func TestDrainModeEndsWithTheQueue(t *testing.T) {
	t.Parallel()
	p := workertest.New(t)
	var all []*workertest.Session
	for range 5 {
		all = append(all, p.Session(workertest.Calls("a"), workertest.Calls("b")))
	}
	l := startAt(t, p, func(c *worker.Config) { c.Drain = true; c.MaxSessions = 2 })
	if err := l.ended(); err != nil {
		t.Errorf("Run: %v", err)
	}
	for _, s := range all {
		if !s.Done() || p.Live() != 0 {
			t.Errorf("not done: %v", texts(s))
		}
	}
}

func TestSlots(t *testing.T) {
	t.Parallel()
	t.Run("bound the sessions that have work", func(t *testing.T) {
		t.Parallel()
		l := start(t, func(c *worker.Config) { c.MaxSessions = 3 })
		g := l.kit.gate("slow")
		var all []*workertest.Session
		for range 7 {
			all = append(all, l.plane.Session(workertest.Calls("slow")))
		}
		for range 3 {
			<-g.entered
		}
		g.let()
		for _, s := range all {
			l.finished(s)
		}
		if l.kit.most != 3 {
			t.Errorf("%d calls at one time, want 3", l.kit.most)
		}
	})
	t.Run("an ended turn does not hold one", func(t *testing.T) {
		t.Parallel()
		l := start(t, func(c *worker.Config) { c.MaxSessions = 1; c.MaxIdle = -1 })
		for range 5 {
			l.finished(l.plane.Session(workertest.Calls("a")))
		}
		if l.plane.Live() != 5 {
			t.Errorf("%d sessions attached, want 5 parked", l.plane.Live())
		}
		for _, a := range l.w.Status() {
			if a.SessionID == "" || a.WorkID == "" || a.Since.IsZero() {
				t.Errorf("status %+v", a)
			}
		}
	})
	t.Run("parked sessions keep their sandbox and give way oldest first", func(t *testing.T) {
		t.Parallel()
		l := start(t, func(c *worker.Config) { c.MaxSessions = 1; c.MaxParked = 2; c.MaxIdle = -1 })
		var all []*workertest.Session
		for range 4 {
			s := l.plane.Session(workertest.Calls("a"))
			l.finished(s)
			all = append(all, s)
		}
		l.wait("two to give way", func() bool { _, closed, _ := l.boxes.count(); return closed == 2 })
		if want := []string{all[0].ID, all[1].ID}; !slices.Equal(slices.Sorted(slices.Values(l.boxes.closed)), want) {
			t.Errorf("closed %v, want %v", l.boxes.closed, want)
		}
		all[3].More(workertest.Calls("again"))
		l.finished(all[3])
		if opened, _, _ := l.boxes.count(); opened != 4 {
			t.Errorf("opened %d sandboxes; the parked one was not used", opened)
		}
		if l.boxes.forgot != nil {
			t.Error("a workspace was forgotten")
		}
	})
	t.Run("none parked", func(t *testing.T) {
		t.Parallel()
		l := start(t, func(c *worker.Config) { c.MaxParked = -1; c.MaxIdle = -1 })
		s := l.plane.Session(workertest.Calls("a"))
		l.finished(s)
		l.wait("its end", func() bool { return l.plane.Live() == 0 })
	})
	t.Run("a parked session's new turn goes before a fresh item", func(t *testing.T) {
		t.Parallel()
		l := start(t, func(c *worker.Config) { c.MaxSessions = 1; c.MaxIdle = -1 })
		parked := l.plane.Session(workertest.Calls("a"))
		l.finished(parked)
		g := l.kit.gate("slow")
		busy := l.plane.Session(workertest.Calls("slow"))
		<-g.entered
		fresh := l.plane.Session(workertest.Calls("fresh"))
		parked.More(workertest.Calls("again"))
		l.wait("the parked session to ask for a slot", func() bool {
			return slices.ContainsFunc(l.w.Status(), func(a worker.Attached) bool { return a.State == worker.StateQueued })
		})
		g.let()
		l.finished(busy)
		l.finished(fresh)
		l.finished(parked)
		if want := []string{parked.CallIDs()[1], fresh.CallIDs()[0]}; !slices.Equal(l.kit.order[2:], want) {
			t.Errorf("ran %v, want %v", l.kit.order[2:], want)
		}
	})
}

func TestSandboxes(t *testing.T) {
	t.Parallel()
	t.Run("one that will not open is an answer", func(t *testing.T) {
		t.Parallel()
		l := newLab(t, workertest.New(t))
		l.boxes.fail = []error{errors.New("a"), errors.New("b"), errors.New("c")}
		l.run()
		s := l.plane.Session(workertest.Calls("first", "second"))
		l.finished(s)
		got := s.Answers()
		if !got[0].IsError || !strings.Contains(got[0].Text, "could not be started") || got[1].Text != "ran second" {
			t.Errorf("answers %v", texts(s))
		}
		if l.kit.ran(s.CallIDs()[0]) != 0 {
			t.Error("ran without a sandbox")
		}
	})
	t.Run("a lost workspace is told once", func(t *testing.T) {
		t.Parallel()
		l := newLab(t, workertest.New(t))
		l.boxes.lost = true
		l.run()
		s := l.plane.Session(workertest.Calls("first", "second"))
		l.finished(s)
		got := s.Answers()
		if !strings.HasPrefix(got[0].Text, "[the session's earlier workspace is gone") || !strings.HasSuffix(got[0].Text, "\nran first") || got[1].Text != "ran second" {
			t.Errorf("answers %q", texts(s))
		}
	})
	t.Run("one that breaks is replaced", func(t *testing.T) {
		t.Parallel()
		l := newLab(t, workertest.New(t), func(c *worker.Config) { c.Tools = nil })
		l.run()
		s := l.plane.Session(workertest.Turn{Calls: []workertest.Call{{Name: "bash", Input: `{"command":"x"}`}}})
		l.finished(s)
		if diff := cmp.Diff([]string{"hello false"}, texts(s)); diff != "" {
			t.Error(diff)
		}
		l.boxes.mu.Lock()
		l.boxes.broken = true
		l.boxes.mu.Unlock()
		s.More(workertest.Turn{Calls: []workertest.Call{{Name: "bash", Input: `{"command":"x"}`}, {Name: "bash", Input: `{"command":"y"}`}}})
		l.finished(s)
		got := s.Answers()
		if !got[1].IsError || got[2].IsError || got[2].Text != "hello" {
			t.Errorf("answers %q", texts(s))
		}
		if opened, closed, _ := l.boxes.count(); opened != 2 || closed != 1 {
			t.Errorf("opened %d, closed %d", opened, closed)
		}
	})
	t.Run("none for tools that are not ours", func(t *testing.T) {
		t.Parallel()
		l := start(t, func(c *worker.Config) { c.Tools = nil; c.MaxIdle = 20 * time.Millisecond })
		s := l.plane.Session(workertest.Calls("web_search"))
		l.wait("the wait for somebody else", func() bool {
			st := l.w.Status()
			return len(st) == 1 && st[0].State == worker.StateParked
		})
		s.Interrupt(false)
		l.wait("its end", func() bool { return l.plane.Live() == 0 })
		if routes(l.plane, workertest.Send) != 0 {
			t.Error("answered")
		}
	})
}

func TestJournal(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	t.Run("a started call is answered as interrupted", func(t *testing.T) {
		t.Parallel()
		j := newMemory()
		p := workertest.New(t)
		s := p.Session(workertest.Calls("a"))
		if _, err := j.Started(ctx, worker.CallKey{Session: s.ID, Call: s.CallIDs()[0]}); err != nil {
			t.Fatal(err)
		}
		l := startAt(t, p, func(c *worker.Config) { c.Journal = j })
		l.finished(s)
		if got := s.Answers(); !got[0].IsError || !strings.HasPrefix(got[0].Text, "interrupted") || l.kit.ran(s.CallIDs()[0]) != 0 {
			t.Errorf("answers %q, ran %v", texts(s), l.kit.order)
		}
	})
	t.Run("a finished one is posted again", func(t *testing.T) {
		t.Parallel()
		j := newMemory()
		p := workertest.New(t)
		s := p.Session(workertest.Calls("a"))
		id := s.CallIDs()[0]
		if err := j.Finished(ctx, worker.CallKey{Session: s.ID, Call: id},
			[]byte(`{"type":"user.tool_result","tool_use_id":"`+id+`","is_error":false,"content":[{"type":"text","text":"kept"}]}`)); err != nil {
			t.Fatal(err)
		}
		l := startAt(t, p, func(c *worker.Config) { c.Journal = j })
		l.finished(s)
		if diff := cmp.Diff([]string{"kept false"}, texts(s)); diff != "" || l.kit.ran(id) != 0 {
			t.Error(diff, l.kit.order)
		}
	})
	t.Run("one that fails lets nothing run", func(t *testing.T) {
		t.Parallel()
		l := start(t, func(c *worker.Config) { c.Journal = brokenJournal{} })
		s := l.plane.Session(workertest.Calls("a"))
		l.finished(s)
		if got := s.Answers(); !got[0].IsError || !strings.Contains(got[0].Text, "not run") || len(l.kit.order) != 0 {
			t.Errorf("answers %q, ran %v", texts(s), l.kit.order)
		}
	})
	t.Run("is told in order", func(t *testing.T) {
		t.Parallel()
		j := &tracingJournal{Journal: newMemory()}
		l := start(t, func(c *worker.Config) { c.Journal = j })
		s := l.plane.Session(workertest.Calls("a"))
		l.kit.mu.Lock()
		l.kit.result = func(worker.Call) ([]api.Block, bool) { j.note("run"); return nil, false }
		l.kit.mu.Unlock()
		l.finished(s)
		l.wait("the last entry", func() bool { return len(j.get()) == 4 })
		if diff := cmp.Diff([]string{"started", "run", "finished", "posted"}, j.get()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestHandleItem(t *testing.T) {
	t.Parallel()
	t.Run("with the secret alone", func(t *testing.T) {
		t.Parallel()
		p := workertest.New(t)
		s := p.Session(workertest.Calls("a"))
		c := client.New(p.URL, client.Bearer(workertest.EnvironmentKey), nil)
		defer c.CloseIdleConnections()
		w, err := c.Poll(t.Context(), workertest.EnvironmentID, client.Poll{})
		if err != nil || w == nil {
			t.Fatal(w, err)
		}
		if _, err := c.Ack(t.Context(), w.EnvironmentID, w.ID); err != nil {
			t.Fatal(err)
		}
		l := newLab(t, p, func(c *worker.Config) { c.EnvironmentKey = ""; c.MaxIdle = 10 * time.Millisecond })
		end, err := l.w.HandleItem(t.Context(), t.Context(), worker.Item{Work: *w, Acked: true})
		if end != worker.EndIdle || err != nil {
			t.Errorf("%s, %v", end, err)
		}
		if diff := cmp.Diff([]string{"ran a false"}, texts(s)); diff != "" || p.Live() != 0 {
			t.Error(diff)
		}
		if n := routes(p, workertest.Ack); n != 1 {
			t.Errorf("%d acks", n)
		}
	})
	t.Run("a session that is not there", func(t *testing.T) {
		t.Parallel()
		p := workertest.New(t)
		s := p.Session(workertest.Calls("a"))
		p.Inject(workertest.Fault{Route: workertest.GetSession, Status: 404})
		c := client.New(p.URL, client.Bearer(workertest.EnvironmentKey), nil)
		defer c.CloseIdleConnections()
		w, err := c.Poll(t.Context(), workertest.EnvironmentID, client.Poll{})
		if err != nil {
			t.Fatal(err)
		}
		l := newLab(t, p)
		g := l.kit.gate("a")
		end, err := l.w.HandleItem(t.Context(), t.Context(), worker.Item{Work: *w})
		g.let()
		if end != worker.EndFailed || client.StatusOf(err) != 404 {
			t.Errorf("%s, %v", end, err)
		}
		if routes(p, workertest.Stop) != 1 {
			t.Error("not stopped")
		}
		_ = s
	})
}

func TestUnreadableSecretsFallBackToTheKey(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"%%%", base64.RawURLEncoding.EncodeToString([]byte("no json")), base64.URLEncoding.EncodeToString([]byte(`{"other":1}`))} {
		if _, err := worker.DecodeSecret(secret); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %v", secret, err)
		}
	}
	for _, enc := range []*base64.Encoding{base64.RawURLEncoding, base64.URLEncoding} {
		got, err := worker.DecodeSecret(enc.EncodeToString([]byte(`{"sessions_token":"t","x":[1]}`)))
		if err != nil || got.SessionsToken != "t" {
			t.Errorf("%+v %v", got, err)
		}
	}
	p := workertest.New(t)
	s := p.Session(workertest.Calls("a"))
	c := client.New(p.URL, client.Bearer(workertest.EnvironmentKey), nil)
	defer c.CloseIdleConnections()
	w, err := c.Poll(t.Context(), workertest.EnvironmentID, client.Poll{})
	if err != nil {
		t.Fatal(err)
	}
	w.Secret = new("garbage")
	l := newLab(t, p, idleSoon)
	if end, err := l.w.HandleItem(t.Context(), t.Context(), worker.Item{Work: *w}); end != worker.EndIdle || err != nil {
		t.Errorf("%s, %v", end, err)
	}
	if !s.Done() {
		t.Error("not done")
	}
}

func TestPoller(t *testing.T) {
	t.Parallel()
	p := workertest.New(t)
	first, second := p.Session(workertest.Calls("a")), p.Session(workertest.Calls("b"))
	c := client.New(p.URL, client.Bearer(workertest.EnvironmentKey), nil)
	defer c.CloseIdleConnections()
	poller, err := worker.NewPoller(worker.PollerConfig{Client: c, EnvironmentID: workertest.EnvironmentID, Drain: true, AutoStop: true, Block: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []*workertest.Session{first, second} {
		item, err := poller.Next(t.Context())
		if err != nil || item.Work.Data.ID != want.ID || !item.Acked || item.Work.Secret == nil {
			t.Fatalf("%+v, %v", item, err)
		}
	}
	if _, err := poller.Next(t.Context()); err != io.EOF {
		t.Errorf("at the end of a drain: %v", err)
	}
	poller.Close()
	stops := p.Requests(workertest.Stop)
	if len(stops) != 2 || stops[0].Force || stops[1].Force {
		t.Errorf("stops %+v", stops)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := poller.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

func TestHeldPollsAreRepeatedAtOnce(t *testing.T) {
	t.Parallel()
	l := start(t, func(c *worker.Config) { c.Block = 100 * time.Millisecond })
	l.wait("some polls", func() bool { return routes(l.plane, workertest.Poll) >= 5 })
	polls := l.plane.Requests(workertest.Poll)
	if took := polls[4].At.Sub(polls[0].At); took > 900*time.Millisecond {
		t.Errorf("five polls of 100 ms took %v", took)
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	good := worker.Config{Sandboxes: &boxes{}, EnvironmentID: "env_x"}
	for name, bad := range map[string]func(*worker.Config){
		"no sandboxes":   func(c *worker.Config) { c.Sandboxes = nil },
		"no environment": func(c *worker.Config) { c.EnvironmentID = "" },
		"a timeout":      func(c *worker.Config) { c.HTTPClient = &http.Client{Timeout: time.Second} },
		"a long block":   func(c *worker.Config) { c.Block = time.Second },
		"a pace":         func(c *worker.Config) { c.Pace = "fast" },
		"sessions":       func(c *worker.Config) { c.MaxSessions = -1 },
	} {
		c := good
		bad(&c)
		if _, err := worker.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := worker.New(good); err != nil {
		t.Error(err)
	}
}

type brokenJournal struct{}

func (brokenJournal) Started(context.Context, worker.CallKey) (worker.Known, error) {
	return worker.Known{}, errors.New("disk full")
}
func (brokenJournal) Finished(context.Context, worker.CallKey, []byte) error {
	return errors.New("disk full")
}
func (brokenJournal) Posted(context.Context, worker.CallKey) error { return errors.New("disk full") }

var _ toolset.Host = (*box)(nil)
