package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/auth"
	"github.com/berthdev/berth/internal/events"
	"github.com/berthdev/berth/internal/model"
	"github.com/berthdev/berth/internal/model/scripted"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/queue"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/turn"
)

// world is a whole control plane behind a test server.
type world struct {
	t      testing.TB
	store  store.Store
	turns  *turn.Runner
	open   func() int64 // streams
	keys   *auth.Keys
	events *events.Log
	queue  *queue.Queue
	url    string
	key    string // an API key
	logs   *bytes.Buffer
}

func newWorld(t testing.TB, st store.Store, change ...func(*Config)) *world {
	t.Helper()
	w := &world{t: t, store: st, logs: &bytes.Buffer{}}
	log := slog.New(slog.NewTextHandler(w.logs, nil))
	models := &model.Registry{}
	models.Add(api.Model{ID: "scripted", DisplayName: "Scripted"}, scripted.New(scripted.Config{}))
	w.keys = auth.New(st)
	w.events = events.New(st)
	var turns *turn.Runner
	w.queue = queue.New(st, queue.Config{Log: log, GiveUp: func(tx store.Tx, s *plane.Session, why string) error { return turns.GiveUp(tx, s, why) }})
	turns = turn.New(turn.Config{Store: st, Log: w.events, Queue: w.queue, Models: models, Logger: log})
	cfg := Config{Store: st, Keys: w.keys, Queue: w.queue, Events: w.events, Turn: turns, Models: models, Log: log, Version: "test"}
	for _, f := range change {
		f(&cfg)
	}
	w.events.Start()
	w.queue.Start()
	if err := turns.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.turns = turns
	h := New(cfg)
	w.open = h.(*server).streams.open.Load
	srv := httptest.NewServer(h)
	w.url = srv.URL
	t.Cleanup(func() {
		w.events.Stop()
		w.queue.Stop()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		turns.Stop(ctx)
		srv.Close()
	})
	key, _, err := w.keys.Create(t.Context(), plane.KeyAPI, "", "test")
	if err != nil {
		t.Fatal(err)
	}
	w.key = key
	return w
}

// reply is an answer that was read.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (r reply) json(t testing.TB, into any) {
	t.Helper()
	if err := json.Unmarshal(r.body, into); err != nil {
		t.Fatalf("answer %q: %v", r.body, err)
	}
}

// failure is the envelope of an answer that is not 200.
func (r reply) failure(t testing.TB) api.ErrorResponse {
	t.Helper()
	var e api.ErrorResponse
	r.json(t, &e)
	if e.Type != "error" || e.Error.Type == "" || e.Error.Message == "" || e.RequestID == "" || e.RequestID != r.header.Get("Request-Id") {
		t.Fatalf("answer %d %q is no whole error envelope (request-id %q)", r.status, r.body, r.header.Get("Request-Id"))
	}
	return e
}

// do sends a request as the given credential: "" for none, else as a bearer.
// body is a string, a reader or something to encode.
func (w *world) do(cred, method, path string, body any) reply {
	w.t.Helper()
	var rd io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		rd = strings.NewReader(b)
	case io.Reader:
		rd = b
	default:
		text, err := json.Marshal(b)
		if err != nil {
			w.t.Fatal(err)
		}
		rd = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, rd)
	if err != nil {
		w.t.Fatal(err)
	}
	if cred != "" {
		req.Header.Set("Authorization", "Bearer "+cred)
	}
	return w.send(req)
}

func (w *world) send(req *http.Request) reply {
	w.t.Helper()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatalf("%s %s: %v", req.Method, req.URL.Path, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatalf("%s %s: %v", req.Method, req.URL.Path, err)
	}
	if ct := res.Header.Get("Content-Type"); ct != "application/json" {
		w.t.Errorf("%s %s: content type %q", req.Method, req.URL.Path, ct)
	}
	if !strings.HasPrefix(res.Header.Get("Request-Id"), "req_01") {
		w.t.Errorf("%s %s: request-id %q", req.Method, req.URL.Path, res.Header.Get("Request-Id"))
	}
	return reply{res.StatusCode, res.Header, body}
}

// ok is do with the API key that has to be answered with 200.
func (w *world) ok(method, path string, body, into any) {
	w.t.Helper()
	r := w.do(w.key, method, path, body)
	if r.status != http.StatusOK {
		w.t.Fatalf("%s %s: %d %s", method, path, r.status, r.body)
	}
	if into != nil {
		r.json(w.t, into)
	}
}

func (w *world) environment(name string) api.Environment {
	w.t.Helper()
	var e api.Environment
	w.ok("POST", "/v1/environments", map[string]any{"name": name, "config": map[string]any{"type": "self_hosted"}}, &e)
	return e
}

func (w *world) environmentKey(env string) string {
	w.t.Helper()
	secret, _, err := w.keys.Create(w.t.Context(), plane.KeyEnvironment, env, "worker")
	if err != nil {
		w.t.Fatal(err)
	}
	return secret
}

func (w *world) agent() api.Agent {
	w.t.Helper()
	var a api.Agent
	w.ok("POST", "/v1/agents", map[string]any{"name": "A", "model": "scripted", "tools": []any{map[string]any{"type": "agent_toolset_20260401"}}}, &a)
	return a
}

// session is a new one, with a message when text is not "".
func (w *world) session(env, agent, text string) api.Session {
	w.t.Helper()
	body := map[string]any{"agent": agent, "environment_id": env}
	if text != "" {
		body["initial_events"] = []any{message(text)}
	}
	var s api.Session
	w.ok("POST", "/v1/sessions", body, &s)
	return s
}

func message(text string) map[string]any {
	return map[string]any{"type": "user.message", "content": []any{map[string]any{"type": "text", "text": text}}}
}

// script is a message that makes the scripted model call bash once.
const script = "Do it.\n```script\n" + `{"turns":[{"text":"on it","tools":[{"name":"bash","input":{"command":"true"}}]},{"text":"done"}]}` + "\n```\n"
