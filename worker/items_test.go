package worker_test

import (
	"encoding/base64"
	"net/http"
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
		still(t, func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
			p.Inject(workertest.Fault{Route: workertest.Ack, Times: 4, Status: 500})
			l := startAt(t, p, via, idleSoon)
			s := p.Session(workertest.Calls("a"))
			l.finished(s)
			if n := len(p.Items(s)); n != 1 {
				t.Errorf("%d items", n)
			}
		})
	})
	t.Run("an outage leaves the item to the queue", func(t *testing.T) {
		t.Parallel()
		still(t, func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
			p.Inject(workertest.Fault{Route: workertest.Ack, Times: 3, Status: 503})
			l := startAt(t, p, via, func(c *worker.Config) { c.Reclaim = 300 * time.Millisecond })
			s := p.Session(workertest.Calls("a"))
			l.finished(s)
			for _, r := range p.Requests(workertest.Stop) {
				if r.Status == http.StatusOK && r.Work == p.Requests(workertest.Ack)[0].Work {
					t.Error("the item that could not be acked was stopped")
				}
			}
		})
	})
	t.Run("a lost answer is no conflict", func(t *testing.T) {
		t.Parallel()
		still(t, func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
			p.Inject(workertest.Fault{Route: workertest.Ack, Times: 1, Lost: true})
			p.Inject(workertest.Fault{Route: workertest.Ack, Times: 1, Status: 409})
			l := startAt(t, p, via)
			s := p.Session(workertest.Calls("a"))
			l.finished(s)
			if n := len(p.Items(s)); n != 1 {
				t.Errorf("%d items", n)
			}
		})
	})
	t.Run("a conflict drops it", func(t *testing.T) {
		t.Parallel()
		still(t, func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
			p.Inject(workertest.Fault{Route: workertest.Ack, Times: 1, Status: 409})
			l := startAt(t, p, via, func(c *worker.Config) { c.Reclaim = 200 * time.Millisecond })
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
	})
}

func TestALostLeaseEndsEverythingAtOnce(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
		p.SetTTL(2 * time.Second) // a beat a second
		l := startAt(t, p, via)
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
	})
}

// hanging has a session's call go on although end cancels it, until its sandbox is
// killed.
func hanging(t *testing.T, end func(*workertest.Plane, *workertest.Session), then func(*lab, *workertest.Session, *gate)) {
	t.Helper()
	still(t, func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
		p.SetTTL(2 * time.Second)
		l := startAt(t, p, via)
		g := l.kit.gate("slow")
		g.stubborn = true
		s := p.Session(workertest.Calls("slow"))
		<-g.entered
		end(p, s)
		<-g.cancelled
		l.wait("the sandbox's end", func() bool { _, closed, _ := l.boxes.count(); return closed == 1 })
		then(l, s, g)
	})
}

func TestAHangingCallDoesNotKeepALostLease(t *testing.T) {
	t.Parallel()
	hanging(t, (*workertest.Plane).StealLease, func(l *lab, s *workertest.Session, g *gate) {
		g.let()
		l.finished(s)
	})
}

func TestLostHeartbeatAnswersAreNoLostLease(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
		p.SetTTL(4 * time.Second)
		p.Inject(workertest.Fault{Route: workertest.Beat, Times: 3, Lost: true})
		l := startAt(t, p, via)
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
	})
}

func TestOperatorsStop(t *testing.T) {
	t.Parallel()
	t.Run("gracefully: the call finishes and its result is posted", func(t *testing.T) {
		t.Parallel()
		still(t, func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
			p.SetTTL(2 * time.Second)
			l := startAt(t, p, via)
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
	})
	t.Run("by force: cancelled within a second, long before a beat is due", func(t *testing.T) {
		t.Parallel()
		still(t, func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
			l := startAt(t, p, via)
			g := l.kit.gate("slow")
			s := p.Session(workertest.Calls("slow"))
			<-g.entered
			asked := time.Now()
			p.StopWork(s, true)
			<-g.cancelled
			if took := time.Since(asked); took > time.Second {
				t.Errorf("cancelled after %v", took)
			}
			l.wait("the stop", func() bool { return routes(p, workertest.Stop) == 1 })
			if len(s.Answers()) != 0 {
				t.Errorf("answers %v", texts(s))
			}
		})
	})
}

func TestACancelledCallThatHangsLosesItsSandbox(t *testing.T) {
	t.Parallel()
	byForce := func(p *workertest.Plane, s *workertest.Session) { p.StopWork(s, true) }
	hanging(t, byForce, func(l *lab, _ *workertest.Session, g *gate) {
		if routes(l.plane, workertest.Stop) != 0 {
			l.t.Error("let go while the call hangs")
		}
		g.let()
		l.wait("the stop", func() bool { return routes(l.plane, workertest.Stop) == 1 })
	})
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

// acked takes the plane's item as another program would.
func acked(t *testing.T, p *workertest.Plane) (*client.Client, *api.Work) {
	t.Helper()
	c := client.New(p.URL, client.Bearer(workertest.EnvironmentKey), nil)
	t.Cleanup(c.CloseIdleConnections)
	w, err := c.Poll(t.Context(), workertest.EnvironmentID, client.Poll{})
	if err != nil || w == nil {
		t.Fatal(w, err)
	}
	if _, err := c.Ack(t.Context(), w.EnvironmentID, w.ID); err != nil {
		t.Fatal(err)
	}
	return c, w
}

func TestHandleItem(t *testing.T) {
	t.Parallel()
	t.Run("with the secret alone", func(t *testing.T) {
		t.Parallel()
		p := workertest.New(t)
		s := p.Session(workertest.Calls("a"))
		_, w := acked(t, p)
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
	t.Run("a lease that somebody else began", func(t *testing.T) {
		t.Parallel()
		p := workertest.New(t)
		s := p.Session(workertest.Calls("a"))
		c, w := acked(t, p)
		hb, err := c.Beat(t.Context(), w.EnvironmentID, w.ID, api.NoHeartbeat, 0)
		if err != nil {
			t.Fatal(err)
		}
		l := newLab(t, p, func(c *worker.Config) { c.MaxIdle = 10 * time.Millisecond })
		end, err := l.w.HandleItem(t.Context(), t.Context(), worker.Item{Work: *w, Acked: true, LastHeartbeat: hb.LastHeartbeat})
		if end != worker.EndIdle || err != nil {
			t.Errorf("%s, %v", end, err)
		}
		if diff := cmp.Diff([]string{"ran a false"}, texts(s)); diff != "" {
			t.Error(diff)
		}
		for _, stop := range p.Requests(workertest.Stop) {
			if stop.Begun != "" { // it does not know what they have begun
				t.Errorf("the stop tells of %q", stop.Begun)
			}
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

var _ toolset.Host = (*box)(nil)
