package worker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/workertest"
)

// A control plane that does not tell which calls a lost holder may have begun:
// they run again, or are answered as interrupted, as the operator chose. What
// comes after them runs either way.
func TestTakeoverOfCallsThatMayHaveBegun(t *testing.T) {
	t.Parallel()
	for _, mode := range []worker.Takeover{worker.TakeoverRun, worker.TakeoverInterrupt} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			still(t, func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
				p.Reticent()
				l := newLab(t, p, via, func(c *worker.Config) { c.Journal, c.Takeover = nil, mode })
				g := l.kit.gate("slow")
				l.run()
				s := p.Session(workertest.Calls("first"), workertest.Calls("slow"), workertest.Calls("later"))
				if first := <-g.entered; l.kit.ran(s.CallIDs()[0]) != 1 || first != s.CallIDs()[1] {
					t.Fatalf("a session's first item: ran %v", l.kit.order)
				}
				time.Sleep(time.Second) // the clock has moved since the call came
				p.StealLease(s)
				<-g.cancelled
				g.let()
				l.finished(s)
				got := s.Answers()
				interrupted := strings.HasPrefix(got[1].Text, "interrupted")
				want := map[worker.Takeover]int{worker.TakeoverRun: 2, worker.TakeoverInterrupt: 1}[mode]
				if ran := l.kit.ran(s.CallIDs()[1]); ran != want || interrupted != (mode == worker.TakeoverInterrupt) {
					t.Errorf("ran %d times and answered %q", ran, got[1].Text)
				}
				if got[0].Text != "ran first" || got[2].Text != "ran later" {
					t.Errorf("answers %v", texts(s))
				}
			})
		})
	}
}

// A control plane that knows is believed, whatever the operator chose.
func TestTakeoverBelievesThePlane(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
		l := newLab(t, p, via, func(c *worker.Config) { c.Journal, c.Takeover = nil, worker.TakeoverInterrupt })
		g := l.kit.gate("slow")
		l.run()
		s := p.Session(workertest.Turn{Calls: []workertest.Call{{Name: "slow"}}})
		<-g.entered
		p.StealLease(s)
		<-g.cancelled
		l.finished(s)
		if got := s.Answers(); !strings.HasPrefix(got[0].Text, "interrupted") || l.kit.ran(s.CallIDs()[0]) != 1 {
			t.Errorf("answers %v", texts(s))
		}
	})
}
