package worker_test

import (
	"slices"
	"testing"

	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/workertest"
)

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
