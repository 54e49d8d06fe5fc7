package worker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/workertest"
)

// TestUnderFaults plays sessions through trouble: none may be lost, no call
// run twice or answered twice, and but for stolen leases none interrupted.
func TestUnderFaults(t *testing.T) {
	t.Parallel()
	type fault = workertest.Fault
	everywhere := func(f fault) func(*workertest.Plane) {
		return func(p *workertest.Plane) { p.Inject(f); f.Route = workertest.Stream; f.Lost = false; p.Inject(f) }
	}
	tests := []struct {
		name    string
		trouble func(*workertest.Plane)
		steal   bool // leases are stolen in the middle of calls
		slow    time.Duration
	}{
		{name: "none", trouble: func(p *workertest.Plane) {}},
		{name: "500, 10 %", trouble: everywhere(fault{Share: 0.1, Status: 500})},
		{name: "429, 10 %", trouble: everywhere(fault{Share: 0.1, Status: 429})},
		{name: "slow, 20 %", trouble: everywhere(fault{Share: 0.2, Delay: 200 * time.Millisecond})},
		{name: "ack 500, 60 %", trouble: func(p *workertest.Plane) { p.Inject(fault{Route: workertest.Ack, Share: 0.6, Status: 500}) }},
		{name: "session 500, 60 %", trouble: func(p *workertest.Plane) { p.Inject(fault{Route: workertest.GetSession, Share: 0.6, Status: 500}) }},
		{name: "answers lost, 10 %", trouble: everywhere(fault{Share: 0.1, Lost: true})},
		{name: "answers of beats lost, 50 %", trouble: func(p *workertest.Plane) {
			p.SetTTL(3 * time.Second)
			p.Inject(fault{Route: workertest.Beat, Share: 0.5, Lost: true})
		}, slow: 300 * time.Millisecond},
		{name: "412, short calls", trouble: func(p *workertest.Plane) { p.SetTTL(2 * time.Second) }, steal: true, slow: 10 * time.Millisecond},
		{name: "412, long calls", trouble: func(p *workertest.Plane) { p.SetTTL(2 * time.Second) }, steal: true, slow: 400 * time.Millisecond},
		{name: "streams of 50 to 400 ms", trouble: func(p *workertest.Plane) { p.CutStreams(50*time.Millisecond, 400*time.Millisecond) }, slow: 20 * time.Millisecond},
		{name: "streams of 1 to 20 ms", trouble: func(p *workertest.Plane) { p.CutStreams(time.Millisecond, 20*time.Millisecond) }, slow: 30 * time.Millisecond},
		{name: "streams cut in place of a call, events twice", trouble: func(p *workertest.Plane) {
			p.InjectFrames(workertest.FrameFault{Kind: workertest.FrameTwice})
			p.InjectFrames(workertest.FrameFault{Type: api.TypeAgentToolUse, Times: 1, Kind: workertest.FrameCut})
		}},
		{name: "a little of everything", trouble: func(p *workertest.Plane) {
			p.SetTTL(3 * time.Second)
			p.Inject(fault{Share: 0.05, Status: 503})
			p.Inject(fault{Share: 0.05, Lost: true})
			p.Inject(fault{Share: 0.05, Delay: 100 * time.Millisecond})
			p.Inject(fault{Route: workertest.Stream, Share: 0.2, Status: 502})
			p.InjectFrames(workertest.FrameFault{Kind: workertest.FrameTwice})
			p.CutStreams(20*time.Millisecond, 200*time.Millisecond)
		}, slow: 5 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := workertest.New(t)
			tt.trouble(p)
			l := newLab(t, p, func(c *worker.Config) {
				c.MaxSessions, c.MaxIdle, c.Reclaim, c.Block = 4, 10*time.Millisecond, 300*time.Millisecond, 100*time.Millisecond
			})
			l.kit.result = func(c worker.Call) ([]api.Block, bool) {
				pause(tt.slow)
				return []api.Block{api.Text("ok")}, false
			}
			l.run()
			var all []*workertest.Session
			for range 10 {
				all = append(all, p.Session(workertest.Calls("a"), workertest.Calls("b", "c"), workertest.Turn{}))
			}
			if tt.steal {
				for i, s := range all {
					l.wait("a call to begin", func() bool { return len(s.CallIDs()) == 0 || l.kit.ran(s.CallIDs()[0]) > 0 || s.Done() })
					if i%2 == 0 {
						p.StealLease(s)
					}
				}
			}
			for _, s := range all {
				p.Wait(t, "the end of "+s.ID, 60*time.Second, s.Done)
				ids, answers := s.CallIDs(), s.Answers()
				if len(ids) != 3 || len(answers) != 3 {
					t.Errorf("%s: %d calls, %d answers", s.ID, len(ids), len(answers))
				}
				for i, a := range answers {
					interrupted := a.IsError && strings.HasPrefix(a.Text, "interrupted")
					switch ran := l.kit.ran(a.Call); {
					case a.Call != ids[i]:
						t.Errorf("%s answered for %s", a.Call, ids[i])
					case ran > 1:
						t.Errorf("%s ran %d times", a.Call, ran)
					case a.Text != "ok" && !(tt.steal && interrupted):
						t.Errorf("%s answered %q", a.Call, a.Text)
					case a.Text == "ok" && ran != 1:
						t.Errorf("%s answered without a run", a.Call)
					}
				}
			}
			p.Wait(t, "every item's end", 60*time.Second, func() bool { return p.Live() == 0 })
		})
	}
}

// pause is a call's duration, not a wait for something.
func pause(d time.Duration) {
	if d > 0 {
		<-time.After(d)
	}
}
