package worker_test

import (
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/workertest"
)

// TestUnderFaults plays sessions through every kind of trouble, with tools that
// only remember; the test of the same name in test/ does so with real ones.
func TestUnderFaults(t *testing.T) {
	t.Parallel()
	for _, script := range workertest.Scripts() {
		t.Run(script.Name, func(t *testing.T) {
			t.Parallel()
			p := workertest.New(t)
			script.Begin(p)
			var labs []*lab
			for range script.Workers {
				l := newLab(t, p, func(c *worker.Config) {
					c.MaxSessions, c.MaxIdle, c.Reclaim, c.Block = 4, 10*time.Millisecond, 300*time.Millisecond, 100*time.Millisecond
					if script.Terminated {
						c.MaxIdle = -1
					}
				})
				l.kit.result = func(worker.Call) ([]api.Block, bool) {
					pause(20 * time.Millisecond)
					return []api.Block{api.Text("ok")}, false
				}
				l.run()
				labs = append(labs, l)
			}
			call := workertest.Call{Name: "a", Input: `{"call":"{{call}}"}`, Want: "ok"}
			var all []*workertest.Session
			for range 10 {
				all = append(all, p.Session(workertest.Turn{Calls: []workertest.Call{call}}, workertest.Turn{Calls: []workertest.Call{call, call}}, workertest.Turn{}))
			}
			for _, s := range all {
				p.Wait(t, "the end of "+s.ID, 2*time.Minute, s.Done)
				if script.Terminated {
					s.Terminate(false)
				}
			}
			p.Wait(t, "every item's end", 2*time.Minute, func() bool { return p.Live() == 0 })
			h := p.History()
			for _, l := range labs {
				h.Ran = append(h.Ran, l.kit.began()...)
			}
			for _, found := range h.Check() {
				t.Error(found)
			}
		})
	}
}

// pause is a call's duration, not a wait for something.
func pause(d time.Duration) { <-time.After(d) }
