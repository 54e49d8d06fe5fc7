package worker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/workertest"
)

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
	for _, stop := range l.plane.Requests(workertest.Stop) {
		if stop.Begun != api.BegunNone {
			t.Errorf("the stop of %s says that %q may have begun", stop.Work, stop.Begun)
		}
	}
}

// A call whose result could not be posted is told of with the item's stop; the
// one behind it, which had not begun, is not.
func TestAStopTellsWhatHasBegun(t *testing.T) {
	t.Parallel()
	l := start(t, func(c *worker.Config) { c.DrainLimit = 50 * time.Millisecond })
	g := l.kit.gate("slow")
	s := l.plane.Session(workertest.Calls("slow", "queued"))
	<-g.entered
	l.plane.Inject(workertest.Fault{Route: workertest.Send, Status: 503})
	l.stop()
	l.kill()
	if err := l.ended(); err != nil {
		t.Errorf("Run: %v", err)
	}
	stops := l.plane.Requests(workertest.Stop)
	if len(stops) != 1 || stops[0].Begun != s.CallIDs()[0] {
		t.Errorf("stopped with %+v, began %s", stops, s.CallIDs()[0])
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
