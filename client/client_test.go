package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/api"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// fake serves f and gives a client for it.
func fake(t *testing.T, f http.HandlerFunc) *Client {
	t.Helper()
	srv := httptest.NewServer(f)
	c := New(srv.URL, Bearer("secret-token"), srv.Client())
	t.Cleanup(func() { c.CloseIdleConnections(); srv.Close() })
	return c
}

func TestRetries(t *testing.T) {
	for _, tc := range []struct {
		name   string
		status int
		should string
		tries  int32
	}{
		{"500", 500, "", 3}, {"529", 529, "", 3}, {"408", 408, "", 3}, {"409", 409, "", 3}, {"429", 429, "", 3},
		{"400", 400, "", 1}, {"401", 401, "", 1}, {"404", 404, "", 1}, {"412", 412, "", 1},
		{"409 told not to", 409, "false", 1}, {"500 told not to", 500, "false", 1}, {"400 told to", 400, "true", 3},
	} {
		var tries atomic.Int32
		c := fake(t, func(w http.ResponseWriter, r *http.Request) {
			n := tries.Add(1)
			if got := r.Header.Get("X-Stainless-Retry-Count"); got != fmt.Sprint(n-1) {
				t.Errorf("%s: try %d says it is retry %s", tc.name, n, got)
			}
			if body, _ := io.ReadAll(r.Body); string(body) != `{"force":true}` {
				t.Errorf("%s: try %d has the body %q", tc.name, n, body)
			}
			w.Header().Set("Retry-After-Ms", "1")
			if tc.should != "" {
				w.Header().Set("X-Should-Retry", tc.should)
			}
			w.WriteHeader(tc.status)
		})
		_, err := c.Stop(t.Context(), "env_1", "work_1", true)
		if StatusOf(err) != tc.status || tries.Load() != tc.tries {
			t.Errorf("%s: %d tries, %v", tc.name, tries.Load(), err)
		}
	}
}

func TestRetrySucceedsAfterABrokenConnection(t *testing.T) {
	var tries atomic.Int32
	c := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if tries.Add(1) == 1 {
			panic(http.ErrAbortHandler)
		}
		io.WriteString(w, `{"id":"env_1","type":"environment"}`)
	})
	e, err := c.Environment(t.Context(), "env_1")
	if err != nil || e.ID != "env_1" || tries.Load() != 2 {
		t.Errorf("%+v %v after %d tries", e, err, tries.Load())
	}
}

func TestPause(t *testing.T) { synctest.Test(t, testPause) }

func testPause(t *testing.T) {
	h := func(k, v string) http.Header { return http.Header{k: {v}} }
	for _, tc := range []struct {
		h           http.Header
		try         int
		least, most time.Duration
	}{
		{nil, 0, 375 * time.Millisecond, 500 * time.Millisecond},
		{nil, 1, 750 * time.Millisecond, time.Second},
		{nil, 9, 6 * time.Second, 8 * time.Second},
		{nil, 500, 6 * time.Second, 8 * time.Second},
		{h("Retry-After-Ms", "1500"), 0, 1500 * time.Millisecond, 1500 * time.Millisecond},
		{h("Retry-After", "90"), 0, 90 * time.Second, 90 * time.Second},
		{h("Retry-After", "0.5"), 0, 500 * time.Millisecond, 500 * time.Millisecond},
		{h("Retry-After", time.Now().Add(time.Minute).UTC().Format(http.TimeFormat)), 0, time.Minute, time.Minute},
		{h("Retry-After", "Fri, 31 Dec 2100 23:59:59 GMT"), 0, time.Hour, time.Hour},
		{h("Retry-After", "1e300"), 0, time.Hour, time.Hour},
		{h("Retry-After", "-3"), 0, 375 * time.Millisecond, 500 * time.Millisecond},
		{h("Retry-After", "soon"), 0, 375 * time.Millisecond, 500 * time.Millisecond},
	} {
		if d := pause(tc.h, tc.try); d < tc.least || d > tc.most {
			t.Errorf("%v try %d: %s", tc.h, tc.try, d)
		}
	}
}

func TestContextEndsTheWaitBetweenTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c := New("http://plane.test", Bearer("t"), &http.Client{Transport: busy{}})
		began := time.Now()
		_, err := c.Environment(ctx, "env_1")
		if !errors.Is(err, context.DeadlineExceeded) || StatusOf(err) != 503 || time.Since(began) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// busy asks everybody to come back in an hour.
type busy struct{}

func (busy) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {"3600"}}, Body: http.NoBody, Request: r}, nil
}

func TestErrors(t *testing.T) {
	c := fake(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Request-Id", "req_1")
		w.WriteHeader(412)
		io.WriteString(w, `{"type":"error","error":{"type":"invalid_request_error","message":"lost","details":{"error_code":"heartbeat_precondition_failed","current_state":{"state":"queued","last_heartbeat":"x","lease_extended":false,"ttl_seconds":60}}}}`)
	})
	_, err := c.Beat(t.Context(), "env_1", "work_1", api.NoHeartbeat, 0)
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Status != 412 || e.Type != api.ErrInvalidRequest || e.Message != "lost" || e.Code != "heartbeat_precondition_failed" || e.RequestID != "req_1" || e.Temporary() {
		t.Fatalf("%#v", err)
	}
	if l, ok := e.Lease(); !ok || l.State != api.WorkQueued || *l.LastHeartbeat != "x" {
		t.Errorf("lease %+v %v", l, ok)
	}
	html := fake(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(404)
		io.WriteString(w, "<html>")
	})
	if _, err := html.Session(t.Context(), "sesn_1"); StatusOf(err) != 404 || !strings.Contains(err.Error(), "Not Found") {
		t.Errorf("%v", err)
	}
	if _, err := c.Session(t.Context(), ".."); err == nil {
		t.Error("a path of dots was sent")
	}
	if _, err := New("localhost:1", Credential{}, nil).Session(t.Context(), "sesn_1"); err == nil || !strings.Contains(err.Error(), "base URL") {
		t.Errorf("%v", err)
	}
}

// The credential goes to the origin it was given for, and nowhere else.
func TestCredentialStaysAtItsOrigin(t *testing.T) {
	var leaked atomic.Bool
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leaked.Store(true)
		io.WriteString(w, `{}`)
	}))
	defer other.Close()
	for _, cred := range []Credential{APIKey("secret-key"), Bearer("secret-token")} {
		var tries atomic.Int32
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			tries.Add(1)
			if r.Header.Get("X-Api-Key") != "secret-key" && r.Header.Get("Authorization") != "Bearer secret-token" {
				t.Errorf("headers %v", r.Header)
			}
			http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
		}))
		c := New(srv.URL, cred, nil)
		_, err := c.Session(t.Context(), "sesn_1")
		if err == nil || strings.Contains(err.Error(), "secret") || tries.Load() != 1 {
			t.Errorf("%d tries, %v", tries.Load(), err)
		}
		if s := fmt.Sprintf("%v %+v %#v", cred, cred, cred); strings.Contains(s, "secret") {
			t.Errorf("printed: %s", s)
		}
		c.CloseIdleConnections()
		srv.Close()
	}
	if leaked.Load() {
		t.Error("the other origin was called")
	}
}

func TestPollTakesEveryFormOfNoWork(t *testing.T) {
	for _, body := range []string{"null", "", " null\n", `{}`, `{"id":""}`, "204"} {
		c := fake(t, func(w http.ResponseWriter, r *http.Request) {
			if q := r.URL.Query(); q.Get("block_ms") != "999" || q.Get("reclaim_older_than_ms") != "2000" || r.Header.Get("Anthropic-Worker-ID") != "me" {
				t.Errorf("%s %v", r.URL, r.Header)
			}
			if body == "204" {
				w.WriteHeader(204)
				return
			}
			io.WriteString(w, body)
		})
		w, err := c.Poll(t.Context(), "env_1", Poll{Block: 999 * time.Millisecond, ReclaimOlderThan: 2 * time.Second, WorkerID: "me"})
		if w != nil || err != nil {
			t.Errorf("%q: %+v %v", body, w, err)
		}
	}
	c := fake(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"id":"work_1","new":1}`) })
	if w, err := c.Poll(t.Context(), "env_1", Poll{}); err != nil || w == nil || w.ID != "work_1" {
		t.Errorf("%+v %v", w, err)
	}
}

func TestPrefixAndEscapes(t *testing.T) {
	var path string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path = r.URL.EscapedPath()
		io.WriteString(w, `{}`)
	}))
	defer srv.Close()
	c := New(srv.URL+"/some/prefix/", Credential{}, srv.Client())
	if _, err := c.Session(t.Context(), "a/b c"); err != nil || path != "/some/prefix/v1/sessions/a%2Fb%20c" {
		t.Errorf("%q %v", path, err)
	}
}

func TestSendLeavesOutWhatTheServerSets(t *testing.T) {
	var got api.SendEvents
	c := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		io.WriteString(w, `{"data":[{"type":"user.message","id":"sevt_1","processed_at":null,"content":[]}]}`)
	})
	now := time.Now()
	sent, err := c.Send(t.Context(), "sesn_1", &api.UserMessage{EventHead: api.EventHead{ID: "x", Type: api.TypeUserMessage, ProcessedAt: &now}, Content: []api.Block{api.Text("hi")}})
	if err != nil || len(sent) != 1 || sent[0].Head().ID != "sevt_1" {
		t.Fatalf("%v %v", sent, err)
	}
	if s := string(got.Events[0]); s != `{"content":[{"type":"text","text":"hi"}],"type":"user.message"}` {
		t.Errorf("sent %s", s)
	}
}

func TestAllFollowsPages(t *testing.T) {
	c := fake(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("page") {
		case "":
			io.WriteString(w, `{"data":[{"id":"a"},{"id":"b"}],"next_page":"p2"}`)
		case "p2":
			io.WriteString(w, `{"data":[],"next_page":"p3"}`)
		case "p3":
			io.WriteString(w, `{"data":[{"id":"c"}],"next_page":null}`)
		}
	})
	var ids string
	for e, err := range All(func(page string) (*api.Page[api.Environment], error) {
		return c.Environments(t.Context(), EnvironmentQuery{PageQuery: PageQuery{Page: page}})
	}) {
		if err != nil {
			t.Fatal(err)
		}
		ids += e.ID
	}
	if ids != "abc" {
		t.Errorf("walked %q", ids)
	}
}
