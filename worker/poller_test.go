package worker_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/workertest"
)

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

// A poller that drains is at the end of an empty queue at once.
func TestPollerDoesNotHoldPolls(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
		var cfg worker.Config
		via(&cfg)
		c := client.New(p.URL, client.Bearer(workertest.EnvironmentKey), cfg.HTTPClient)
		poller, err := worker.NewPoller(worker.PollerConfig{Client: c, EnvironmentID: workertest.EnvironmentID, Drain: true, Block: -1})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := poller.Next(t.Context()); err != io.EOF {
			t.Error(err)
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("an empty queue took %v", took)
		}
	})
}

// Without AutoStop the items of a poller are served at the same time by
// whoever gets them.
func TestPollerItemsAreServedSideBySide(t *testing.T) {
	t.Parallel()
	const n = 4
	p := workertest.New(t)
	kit := newKit()
	g := kit.gate("slow")
	for range n {
		p.Session(workertest.Calls("slow"))
	}
	c := client.New(p.URL, client.Bearer(workertest.EnvironmentKey), nil)
	defer c.CloseIdleConnections()
	poller, err := worker.NewPoller(worker.PollerConfig{Client: c, EnvironmentID: workertest.EnvironmentID, Drain: true, Block: -1})
	if err != nil {
		t.Fatal(err)
	}
	w, err := worker.New(worker.Config{BaseURL: p.URL, EnvironmentID: workertest.EnvironmentID, Tools: kit.tools, MaxIdle: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	var items sync.WaitGroup
	for {
		item, err := poller.Next(t.Context())
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		items.Go(func() {
			if end, err := w.HandleItem(t.Context(), t.Context(), item); end != worker.EndIdle || err != nil {
				t.Errorf("%s: %s, %v", item.Work.ID, end, err)
			}
		})
	}
	for range n {
		<-g.entered
	}
	g.let()
	items.Wait()
	if kit.most != n || p.Live() != 0 {
		t.Errorf("%d calls ran at one time, %d items are left", kit.most, p.Live())
	}
}

func TestHeldPollsAreRepeatedAtOnce(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
		l := startAt(t, p, via, func(c *worker.Config) { c.Block = 100 * time.Millisecond })
		l.wait("some polls", func() bool { return routes(p, workertest.Poll) >= 5 })
		polls := p.Requests(workertest.Poll)
		if took := polls[4].At.Sub(polls[0].At); took > 900*time.Millisecond {
			t.Errorf("five polls of 100 ms took %v", took)
		}
	})
}
