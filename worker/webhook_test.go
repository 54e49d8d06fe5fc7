package worker_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/workertest"
)

const (
	oldSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	newSecret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	runs      = `{"type":"event","id":"whe_1","data":{"type":"session.status_run_started","id":"sesn_1"}}`
	idles     = `{"type":"event","id":"whe_1","data":{"type":"session.status_idled","id":"sesn_1"}}`
)

func newWebhook(t *testing.T, secrets ...string) *worker.Webhook {
	t.Helper()
	h, err := worker.NewWebhook(worker.WebhookConfig{Secrets: secrets})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// delivery is one as the official library signs it.
func delivery(t *testing.T, secret, id string, at time.Time, body string) *http.Request {
	t.Helper()
	signer, err := webhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := signer.Sign(id, at, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	r.Header.Set("webhook-id", id)
	r.Header.Set("webhook-timestamp", strconv.FormatInt(at.Unix(), 10))
	r.Header.Set("webhook-signature", signature)
	return r
}

func answer(h http.Handler, r *http.Request) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func woken(h *worker.Webhook) bool {
	select {
	case <-h.Wake():
		return true
	default:
		return false
	}
}

// Each forgery is refused where the official library refuses it, and what that
// takes wakes the worker.
func TestWebhookVerdictsAreTheOfficialLibrarys(t *testing.T) {
	t.Parallel()
	other := "whsec_" + strings.Repeat("QUJD", 8)
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	edit := func(name string, f func(string) string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, f(r.Header.Get(name))) }
	}
	for name, c := range map[string]struct {
		secret string
		shift  time.Duration
		change func(*http.Request)
	}{
		"as sent":               {},
		"another key":           {secret: other},
		"almost too old":        {shift: -4*time.Minute - 50*time.Second},
		"too old":               {shift: -5*time.Minute - 5*time.Second},
		"almost too early":      {shift: 4*time.Minute + 50*time.Second},
		"too early":             {shift: 5*time.Minute + 5*time.Second},
		"no id":                 {change: set("webhook-id", "")},
		"another id":            {change: set("webhook-id", "whe_2")},
		"no timestamp":          {change: set("webhook-timestamp", "")},
		"timestamp of letters":  {change: set("webhook-timestamp", "soon")},
		"timestamp of ages":     {change: set("webhook-timestamp", "-9223372036854775808")},
		"another timestamp":     {change: edit("webhook-timestamp", func(s string) string { n, _ := strconv.Atoi(s); return strconv.Itoa(n - 1) })},
		"no signature":          {change: set("webhook-signature", "")},
		"unknown version":       {change: edit("webhook-signature", func(s string) string { return "v2," + s[3:] })},
		"cut signature":         {change: edit("webhook-signature", func(s string) string { return s[:len(s)-4] })},
		"signature, not base64": {change: set("webhook-signature", "v1,*")},
		"one of several":        {change: edit("webhook-signature", func(s string) string { return "v1a,AAAA v1,AAAA " + s })},
		"another body":          {change: func(r *http.Request) { *r = *replaced(r, strings.Replace(runs, "sesn_1", "sesn_2", 1)) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { // both at one time
				if c.secret == "" {
					c.secret = newSecret
				}
				r := delivery(t, c.secret, "whe_1", time.Now().Add(c.shift), runs)
				if c.change != nil {
					c.change(r)
				}
				var body bytes.Buffer
				body.ReadFrom(r.Body)
				r = replaced(r, body.String())
				oracle, err := webhooks.NewWebhook(newSecret)
				if err != nil {
					t.Fatal(err)
				}
				want := oracle.Verify(body.Bytes(), r.Header) == nil
				h := newWebhook(t, oldSecret, newSecret)
				status, text := answer(h, r)
				if took := status == http.StatusNoContent; took != want || !took && status != http.StatusUnauthorized || woken(h) != want {
					t.Errorf("answered %d %q, the library takes it: %v", status, text, want)
				}
				if strings.Contains(text, "MfKQ") || strings.Contains(text, "C2FV") {
					t.Error("the answer holds a key")
				}
			})
		})
	}
}

func replaced(r *http.Request, body string) *http.Request {
	n := httptest.NewRequest(r.Method, "/", strings.NewReader(body))
	n.Header = r.Header
	return n
}

func TestWebhookAnswers(t *testing.T) {
	t.Parallel()
	h := newWebhook(t, oldSecret)
	now := time.Now()
	get := delivery(t, oldSecret, "a", now, runs)
	get.Method = http.MethodGet
	for name, c := range map[string]struct {
		r      *http.Request
		status int
		body   string
	}{
		"another event": {delivery(t, oldSecret, "b", now, idles), 200, "ignored"},
		"no event":      {delivery(t, oldSecret, "c", now, `{"data":7}`), 400, "the delivery is not JSON\n"},
		"not JSON":      {delivery(t, oldSecret, "d", now, `[`), 400, "the delivery is not JSON\n"},
		"too long":      {delivery(t, oldSecret, "e", now, strings.Repeat(" ", 1<<20)+runs), 413, "the delivery could not be read\n"},
		"GET":           {get, 405, "webhook deliveries are POST requests\n"},
	} {
		if status, body := answer(h, c.r); status != c.status || body != c.body {
			t.Errorf("%s: %d %q", name, status, body)
		}
	}
	if woken(h) {
		t.Error("woken for nothing")
	}
}

func TestWebhookDropsReplaysAndJoinsDeliveries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newWebhook(t, oldSecret, newSecret)
		sent := time.Now()
		for i, want := range []int{204, 200, 204} {
			id := []string{"whe_1", "whe_1", "whe_2"}[i]
			if status, _ := answer(h, delivery(t, oldSecret, id, sent, runs)); status != want {
				t.Errorf("delivery %d: %d", i, status)
			}
		}
		if !woken(h) || woken(h) {
			t.Error("two deliveries are not one wake")
		}
		// A delivery of the future is not taken again while it is fresh.
		answer(h, delivery(t, oldSecret, "whe_3", sent.Add(5*time.Minute), runs))
		time.Sleep(9*time.Minute + 59*time.Second)
		if status, body := answer(h, delivery(t, oldSecret, "whe_3", sent.Add(5*time.Minute), runs)); body != "known" {
			t.Errorf("a replay is answered %d %q", status, body)
		}
	})
}

func TestWebhookMemoryIsBounded(t *testing.T) {
	t.Parallel()
	h := newWebhook(t, oldSecret)
	now := time.Now()
	for i := range 1<<14 + 1 {
		if status, _ := answer(h, delivery(t, oldSecret, fmt.Sprint(i), now, runs)); status != http.StatusNoContent {
			t.Fatalf("delivery %d: %d", i, status)
		}
	}
	if _, body := answer(h, delivery(t, oldSecret, "1", now, runs)); body != "known" {
		t.Error("too much was forgotten")
	}
	if status, _ := answer(h, delivery(t, oldSecret, "0", now, runs)); status != http.StatusNoContent {
		t.Error("the oldest is still remembered")
	}
}

func TestWebhookKeys(t *testing.T) {
	t.Parallel()
	for _, secrets := range [][]string{nil, {""}, {"whsec_"}, {"whsec_***"}, {"whsec_c2hvcnQ="}, {oldSecret, "x"}} {
		if _, err := worker.NewWebhook(worker.WebhookConfig{Secrets: secrets}); err == nil || strings.Contains(err.Error(), "c2hv") {
			t.Errorf("%q: %v", secrets, err)
		}
	}
}

// The queue is emptied at the start and after each delivery, bounded by the
// slots, and not polled in between: what a lost delivery left is served by the
// next one.
func TestWebhookWakesAWorker(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
		h := newWebhook(t, oldSecret)
		early := p.Session(workertest.Calls("a"))
		l := startAt(t, p, via, idleSoon, func(c *worker.Config) { c.MaxSessions, c.MaxParked, c.Wake = 2, -1, h.Wake() })
		l.finished(early)
		l.wait("the item to be let go, and the queue to be found empty", func() bool { return p.Live() == 0 && routes(p, workertest.Poll) == 2 })

		polls := routes(p, workertest.Poll)
		lost := []*workertest.Session{p.Session(workertest.Calls("a")), p.Session(workertest.Calls("a")), p.Session(workertest.Calls("a"))}
		last := p.Session(workertest.Calls("a"))
		time.Sleep(time.Second)
		came := time.Now()
		if status, _ := answer(h, delivery(t, oldSecret, "whe_1", came, runs)); status != http.StatusNoContent {
			t.Fatal(status)
		}
		for _, s := range append(lost, last) {
			l.finished(s)
		}
		if l.kit.most > 2 {
			t.Errorf("%d calls at a time in two slots", l.kit.most)
		}
		l.wait("the items to be let go", func() bool { return p.Live() == 0 })
		time.Sleep(10 * time.Second)
		later := p.Requests(workertest.Poll)[polls:]
		if len(later) != 5 || later[0].At.Before(came) {
			t.Errorf("%d polls for four items, the first %v after the delivery", len(later), later[0].At.Sub(came))
		}
		l.stop()
		if err := l.ended(); err != nil {
			t.Error(err)
		}
		if p.Items(last)[0] != api.WorkStopped {
			t.Error("an item was kept")
		}
	})
}

// A delivery that is lost is made up for by a look at the queue.
func TestALostDeliveryIsMadeUpFor(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
		l := startAt(t, p, via, func(c *worker.Config) { c.Wake, c.Sweep = make(chan struct{}), 200*time.Millisecond })
		l.wait("the first look", func() bool { return len(p.Requests(workertest.Poll)) == 1 })
		s := p.Session(workertest.Calls("a"))
		l.finished(s)
		if n := len(p.Requests(workertest.Poll)); n > 5 {
			t.Errorf("%d polls", n)
		}
	})
}

func TestNoSweepWhereNoneIsWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			sweep       time.Duration
			least, most int // polls in an hour
		}{{-1, 1, 1}, {0, 61, 121}, {10 * time.Minute, 7, 13}} {
			p := &badPlane{over: map[string]http.HandlerFunc{onPoll: jsonOf("null")}, requests: map[string]int{}}
			net := newWire()
			server := &http.Server{Handler: p}
			go server.Serve(net)
			transport := &http.Transport{DialContext: net.dial}
			w, err := worker.New(worker.Config{
				BaseURL: "http://plane.test", HTTPClient: &http.Client{Transport: transport}, EnvironmentID: "env_1", EnvironmentKey: "k",
				Wake: make(chan struct{}), Sweep: tt.sweep, Sandboxes: &boxes{},
			})
			if err != nil {
				t.Fatal(err)
			}
			take, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- w.Run(take, t.Context()) }()
			time.Sleep(time.Hour)
			synctest.Wait()
			if n := p.requests[onPoll]; n < tt.least || n > tt.most {
				t.Errorf("%v: %d polls in an hour, want %d to %d", tt.sweep, n, tt.least, tt.most)
			}
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
			transport.CloseIdleConnections()
			server.Close()
		}
	})
}
