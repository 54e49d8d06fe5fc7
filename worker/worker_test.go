package worker_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/workertest"
)

func TestAWholeSession(t *testing.T) {
	t.Parallel()
	l := start(t, func(c *worker.Config) { c.MaxIdle = 50 * time.Millisecond; c.WorkerID = "w1" })
	s := l.plane.Session(workertest.Calls("a", "b"), workertest.Calls("c"), workertest.Turn{})
	l.finished(s)
	l.wait("the item's end", func() bool { return l.plane.Live() == 0 })

	if diff := cmp.Diff([]string{"ran a false", "ran b false", "ran c false"}, texts(s)); diff != "" {
		t.Error(diff)
	}
	if !slices.Equal(l.kit.order, s.CallIDs()) || l.kit.most != 1 {
		t.Errorf("ran %v, want %v, %d at one time", l.kit.order, s.CallIDs(), l.kit.most)
	}
	opened, closed, forgot := l.boxes.count()
	if opened != 1 || closed != 1 || forgot != 0 {
		t.Errorf("opened %d, closed %d, forgot %d sandboxes", opened, closed, forgot)
	}
	if got := l.plane.Items(s); !slices.Equal(got, []api.WorkState{api.WorkStopped}) {
		t.Errorf("items %v", got)
	}
	for _, r := range l.plane.Requests("") {
		want := workertest.EnvironmentKey
		if r.Route != workertest.Poll && r.Route != workertest.Ack {
			want = "sk-test-req01-" + l.plane.Requests(workertest.Ack)[0].Work
		}
		if r.Credential != want {
			t.Errorf("%s with %q, want %q", r.Route, r.Credential, want)
		}
		if r.Route == workertest.Poll && r.WorkerID != "w1" {
			t.Errorf("poll as worker %q", r.WorkerID)
		}
		if r.Route == workertest.Stop && !r.Force {
			t.Error("a stop without force")
		}
	}
	if n := len(l.plane.Requests(workertest.Stop)); n != 1 {
		t.Errorf("%d stops", n)
	}
}
