package anthropic_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/model"
	"github.com/berthdev/berth/internal/model/anthropic"
)

const key = "sk-secret-0123456789"

// provider answers one request with frames of the Messages stream.
type provider struct {
	t      *testing.T
	status int
	header map[string]string
	frames []string // "type data", or "raw:..." as it is
	hang   bool     // after the frames, until the client goes
	body   map[string]any
	seen   http.Header
	path   string
	calls  int
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.calls++
	p.seen, p.path = r.Header, r.URL.Path
	raw, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(raw, &p.body)
	}
	if err != nil {
		p.t.Errorf("the request: %v", err)
	}
	for k, v := range p.header {
		w.Header().Set(k, v)
	}
	if p.status != 0 {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(p.status)
		io.WriteString(w, p.frames[0])
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for _, f := range p.frames {
		kind, data, _ := strings.Cut(f, " ")
		fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind, data)
	}
	w.(http.Flusher).Flush()
	if p.hang {
		<-r.Context().Done()
	}
}

// ear writes down what a sink hears.
type ear struct {
	heard []string
	alive int
}

func (e *ear) Start(i int, k model.BlockKind) {
	e.heard = append(e.heard, fmt.Sprintf("start %d %s", i, k))
}
func (e *ear) Delta(i int, s string) { e.heard = append(e.heard, fmt.Sprintf("delta %d %s", i, s)) }
func (e *ear) Alive()                { e.alive++ }

func ask(t *testing.T, p *provider, r model.Request) (model.Response, *ear, error) {
	t.Helper()
	p.t = t
	srv := httptest.NewServer(p)
	defer srv.Close()
	m := anthropic.New(anthropic.Config{APIKey: key, BaseURL: srv.URL + "/gateway", MaxTokens: 1000})
	e := &ear{}
	resp, err := m.Stream(t.Context(), r, e)
	return resp, e, err
}

func start(usage string) string {
	return `message_start {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-opus-5-5","content":[],"stop_reason":null,"stop_sequence":null,"usage":` + usage + `}}`
}

func end(reason string) []string {
	return []string{
		`message_delta {"type":"message_delta","delta":{"stop_reason":"` + reason + `","stop_sequence":null},"usage":{"output_tokens":42}}`,
		`message_stop {"type":"message_stop"}`,
	}
}

var hello = model.Request{Model: api.ModelConfig{ID: "m"}, Messages: []model.Message{{Role: model.User, Content: []api.Block{api.Text("hi")}}}}

func TestStreamReadsThinkingTextAndToolUses(t *testing.T) {
	p := &provider{frames: append([]string{
		start(`{"input_tokens":10,"output_tokens":1,"cache_read_input_tokens":7,"cache_creation_input_tokens":5,"cache_creation":{"ephemeral_5m_input_tokens":3,"ephemeral_1h_input_tokens":2}}`),
		`ping {"type":"ping"}`,
		`content_block_start {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}`,
		`content_block_delta {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm <&>"}}`,
		`content_block_delta {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"c2ln"}}`,
		`content_block_stop {"type":"content_block_stop","index":0}`,
		`content_block_start {"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}`,
		`content_block_delta {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"Hel"}}`,
		`content_block_delta {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"lo"}}`,
		`content_block_stop {"type":"content_block_stop","index":1}`,
		`content_block_start {"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"toolu_9","name":"bash","input":{}}}`,
		`content_block_delta {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"command\":"}}`,
		`content_block_delta {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"\"ls\"}"}}`,
		`content_block_stop {"type":"content_block_stop","index":2}`,
	}, end("tool_use")...)}
	resp, e, err := ask(t, p, hello)
	if err != nil {
		t.Fatal(err)
	}
	want := model.Response{
		Blocks: []model.Block{
			{Kind: model.Thinking}, {Kind: model.Text, Text: "Hello"},
			{Kind: model.ToolUse, Name: "bash", Input: json.RawMessage(`{"command":"ls"}`)},
		},
		Provider: "anthropic",
		Usage:    model.Usage{Input: 10, Output: 42, CacheRead: 7, CacheCreation5m: 3, CacheCreation1h: 2},
		Stop:     model.StopTools,
	}
	raw := resp.Raw
	resp.Raw = nil
	if d := cmp.Diff(want, resp); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"start 0 thinking", "start 1 text", "delta 1 Hel", "delta 1 lo", "start 2 tool_use"}, e.heard); d != "" {
		t.Error(d)
	}
	if e.alive == 0 {
		t.Error("the sink never heard that the provider is alive")
	}
	if p.path != "/gateway/v1/messages" || p.seen.Get("X-Api-Key") != key {
		t.Errorf("asked %s with key %q", p.path, p.seen.Get("X-Api-Key"))
	}

	// The answer goes back unchanged, with the provider's own call ids.
	next := hello
	next.Model.ID = "claude-opus-5-5"
	next.Model.Effort.Type = "low"
	next.System = "Be brief."
	next.Tools = []model.Tool{{Name: "a", Description: "A", Schema: json.RawMessage(`{"type":"object"}`)},
		{Name: "bash", Description: "B", Schema: json.RawMessage(`{"type":"object","properties":{"command":{"type":"string"}},"x-extra":1}`)}}
	next.Messages = append(next.Messages,
		model.Message{Role: model.Assistant, Provider: "anthropic", Raw: raw, CallIDs: []string{"sevt_1"}},
		model.Message{Role: model.User, Results: []model.Result{{CallID: "sevt_1", Content: []api.Block{api.Text("a.txt")}, IsError: true}}},
		model.Message{Role: model.User, Content: []api.Block{api.Text("and now?")}},
	)
	p = &provider{frames: append([]string{start(`{"input_tokens":1,"output_tokens":1}`)}, end("end_turn")...)}
	if _, _, err := ask(t, p, next); err != nil {
		t.Fatal(err)
	}
	var sent any
	if err := json.Unmarshal([]byte(`{
		"model":"claude-opus-5-5","max_tokens":1000,"stream":true,"thinking":{"type":"adaptive"},"output_config":{"effort":"low"},
		"system":[{"type":"text","text":"Be brief.","cache_control":{"type":"ephemeral"}}],
		"tools":[{"name":"a","description":"A","input_schema":{"type":"object"}},
			{"name":"bash","description":"B","input_schema":{"type":"object","properties":{"command":{"type":"string"}},"x-extra":1},"cache_control":{"type":"ephemeral"}}],
		"messages":[
			{"role":"user","content":[{"type":"text","text":"hi","cache_control":{"type":"ephemeral"}}]},
			{"role":"assistant","content":[{"type":"thinking","thinking":"hm <&>","signature":"c2ln"},{"type":"text","text":"Hello"},{"type":"tool_use","id":"toolu_9","name":"bash","input":{"command":"ls"}}]},
			{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_9","is_error":true,"content":[{"type":"text","text":"a.txt"}]},{"type":"text","text":"and now?","cache_control":{"type":"ephemeral"}}]}
		]}`), &sent); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(sent, any(p.body)); d != "" {
		t.Error(d)
	}
}

func TestAnswersOfAnotherModelAreRewritten(t *testing.T) {
	p := &provider{frames: append([]string{start(`{"input_tokens":1,"output_tokens":1}`)}, end("end_turn")...)}
	r := hello
	r.Messages = append(r.Messages,
		model.Message{Role: model.Assistant, Provider: model.ProviderBlocks, CallIDs: []string{"sevt_1"},
			Raw: json.RawMessage(`[{"kind":"thinking","text":"x"},{"kind":"text","text":"one"},{"kind":"tool_use","name":"bash","input":{"command":"ls"}}]`)},
		model.Message{Role: model.User, Results: []model.Result{{CallID: "sevt_1", Content: []api.Block{api.Text("ok")}}}},
		model.Message{Role: model.Assistant, Provider: "anthropic", Raw: json.RawMessage(`[{"type":"text","text":""}]`)},
		model.Message{Role: model.User, Content: []api.Block{{Type: "redacted"}}},
	)
	if _, _, err := ask(t, p, r); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(p.body["messages"].([]any)[1:])
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"content":[{"text":"one","type":"text"},{"id":"sevt_1","input":{"command":"ls"},"name":"bash","type":"tool_use"}],"role":"assistant"},` +
		`{"content":[{"content":[{"text":"ok","type":"text"}],"tool_use_id":"sevt_1","type":"tool_result"},{"cache_control":{"type":"ephemeral"},"text":"[redacted]","type":"text"}],"role":"user"}]`
	if string(got) != want {
		t.Errorf("sent\n%s\nwant\n%s", got, want)
	}
	if _, there := p.body["thinking"]; there {
		t.Error("thinking was asked of a model that may not know it")
	}
}

// The provider refuses texts of white space only, whoever wrote them, and with
// them every later request of the session.
func TestBlankTextsAreNotSent(t *testing.T) {
	p := &provider{frames: append([]string{start(`{"input_tokens":1,"output_tokens":1}`)}, end("end_turn")...)}
	r, title := hello, "t"
	found := []api.Block{{Type: "search_result", Source: &api.Source{Plain: "s"}, Title: &title, Content: []api.Block{api.Text("ok"), api.Text(" ")}}}
	r.System = " \n"
	r.Messages = []model.Message{
		{Role: model.User, Content: []api.Block{api.Text(" \t")}},
		{Role: model.Assistant, Provider: "anthropic", CallIDs: []string{"sevt_1"}, Raw: json.RawMessage(`[{"type":"text","text":"\n\n"},{"type":"tool_use","id":"toolu_1","name":"bash","input":{}}]`)},
		{Role: model.User, Results: []model.Result{{CallID: "sevt_1", Content: []api.Block{api.Text("\n")}}}},
		{Role: model.Assistant, Provider: model.ProviderBlocks, CallIDs: []string{"sevt_2"}, Raw: json.RawMessage(`[{"kind":"text","text":" "},{"kind":"tool_use","name":"bash","input":{}}]`)},
		{Role: model.User, Results: []model.Result{{CallID: "sevt_2", Content: found}}},
	}
	if _, _, err := ask(t, p, r); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal([]any{p.body["system"], p.body["messages"]})
	if err != nil {
		t.Fatal(err)
	}
	want := `[null,[{"content":[{"text":"(blank)","type":"text"}],"role":"user"},` +
		`{"content":[{"id":"toolu_1","input":{},"name":"bash","type":"tool_use"}],"role":"assistant"},` +
		`{"content":[{"cache_control":{"type":"ephemeral"},"content":[{"text":"(blank)","type":"text"}],"tool_use_id":"toolu_1","type":"tool_result"}],"role":"user"},` +
		`{"content":[{"id":"sevt_2","input":{},"name":"bash","type":"tool_use"}],"role":"assistant"},` +
		`{"content":[{"cache_control":{"type":"ephemeral"},"content":[{"content":[{"text":"ok","type":"text"},{"text":"(blank)","type":"text"}],"source":"s","title":"t","type":"search_result"}],"tool_use_id":"sevt_2","type":"tool_result"}],"role":"user"}]]`
	if string(got) != want {
		t.Errorf("sent\n%s\nwant\n%s", got, want)
	}
	if first, last := r.Messages[0].Content[0].Text, found[0].Content[1].Text; first != " \t" || last != " " {
		t.Errorf("the history was changed: %q %q", first, last)
	}
}

func TestACutToolUseIsLeftOut(t *testing.T) {
	p := &provider{frames: append([]string{
		start(`{"input_tokens":1,"output_tokens":1}`),
		`content_block_start {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`,
		`content_block_delta {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"so"}}`,
		`content_block_stop {"type":"content_block_stop","index":0}`,
		`content_block_start {"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"toolu_9","name":"write","input":{}}}`,
		`content_block_delta {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"content\":\"half a"}}`,
		`content_block_stop {"type":"content_block_stop","index":1}`,
	}, end("max_tokens")...)}
	resp, _, err := ask(t, p, hello)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Stop != model.StopEnd || len(resp.Blocks) != 2 || resp.Blocks[1].Kind != model.Text || strings.Contains(string(resp.Raw), "tool_use") {
		t.Errorf("got %+v, raw %s", resp, resp.Raw)
	}
}

func TestRefusal(t *testing.T) {
	p := &provider{frames: []string{
		start(`{"input_tokens":1,"output_tokens":1}`),
		`message_delta {"type":"message_delta","delta":{"stop_reason":"refusal","stop_sequence":null,"stop_details":{"type":"refusal","category":"cyber","explanation":"no"}},"usage":{"output_tokens":1}}`,
		`message_stop {"type":"message_stop"}`,
	}}
	resp, _, err := ask(t, p, hello)
	if err != nil || resp.Stop != model.StopRefusal || resp.Refusal == nil || *resp.Refusal.Category != "cyber" || *resp.Refusal.Explanation != "no" {
		t.Errorf("got %+v, %v", resp, err)
	}
}

func TestFailures(t *testing.T) {
	body := func(kind, msg string) []string {
		return []string{`{"type":"error","error":{"type":"` + kind + `","message":"` + msg + `"},"request_id":"req_1"}`}
	}
	begun := start(`{"input_tokens":11,"output_tokens":1}`)
	for name, tc := range map[string]struct {
		p    provider
		kind model.ErrorKind
		amid bool
		wait time.Duration
		says string
	}{
		"overloaded":        {p: provider{status: 529, frames: body("overloaded_error", "busy"), header: map[string]string{"Retry-After-Ms": "1500"}}, kind: model.Overloaded, wait: 1500 * time.Millisecond, says: "busy"},
		"rate limited":      {p: provider{status: 429, frames: body("rate_limit_error", "slow down"), header: map[string]string{"Retry-After": "7"}}, kind: model.RateLimited, wait: 7 * time.Second, says: "slow down"},
		"bad request":       {p: provider{status: 400, frames: body("invalid_request_error", "prompt too long "+key)}, kind: model.RequestFailed, says: "prompt too long"},
		"wrong key":         {p: provider{status: 401, frames: body("authentication_error", "invalid "+key)}, kind: model.Credential, says: "key"},
		"billing":           {p: provider{status: 402, frames: body("billing_error", "no credit")}, kind: model.Billing, says: "no credit"},
		"not from provider": {p: provider{status: 502, frames: []string{"<html>bad gateway</html>"}}, kind: model.Unavailable, says: "502"},
		"amid":              {p: provider{frames: []string{begun, `error {"type":"error","error":{"type":"overloaded_error","message":"busy"}}`}}, kind: model.Overloaded, amid: true, says: "busy"},
		"ends early":        {p: provider{frames: []string{begun}}, kind: model.Unavailable, amid: true, says: "early"},
		"says nothing":      {p: provider{}, kind: model.Unavailable, says: "early"},
		"no JSON":           {p: provider{frames: []string{begun, "message_delta {"}}, kind: model.Unavailable, amid: true, says: "connection"},
		"wrong order":       {p: provider{frames: []string{begun, `content_block_start {"type":"content_block_start","index":4,"content_block":{"type":"text","text":""}}`}}, kind: model.Unavailable, amid: true, says: "could not be read"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := ask(t, &tc.p, hello)
			me, ok := errors.AsType[*model.Error](err)
			if !ok {
				t.Fatalf("got %v", err)
			}
			if me.Kind != tc.kind || me.Amid != tc.amid || me.RetryAfter != tc.wait || !strings.Contains(me.Message, tc.says) {
				t.Errorf("got %+v", me)
			}
			if tc.amid && me.Usage.Input != 11 {
				t.Errorf("usage %+v", me.Usage)
			}
			if all := fmt.Sprint(me.Message, me.Error(), me.Err); strings.Contains(all, key) {
				t.Errorf("the key leaked: %s", all)
			}
			if tc.p.calls != 1 {
				t.Errorf("the provider was asked %d times", tc.p.calls)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	at := srv.URL
	srv.Close()
	m := anthropic.New(anthropic.Config{APIKey: key, BaseURL: strings.Replace(at, "http://", "http://user:"+key+"@", 1)})
	_, err := m.Stream(t.Context(), hello, &ear{})
	me, ok := errors.AsType[*model.Error](err)
	if !ok || me.Kind != model.Unavailable || me.Amid {
		t.Fatalf("got %v", err)
	}
	if strings.Contains(fmt.Sprint(me, me.Err), key) {
		t.Errorf("the key leaked: %v", me.Err)
	}
}

// A redirect would carry the key away.
func TestNoRedirectIsFollowed(t *testing.T) {
	other := &provider{t: t}
	thief := httptest.NewServer(other)
	defer thief.Close()
	srv := httptest.NewServer(http.RedirectHandler(thief.URL, http.StatusTemporaryRedirect))
	defer srv.Close()
	_, err := anthropic.New(anthropic.Config{APIKey: key, BaseURL: srv.URL}).Stream(t.Context(), hello, &ear{})
	if _, ok := errors.AsType[*model.Error](err); !ok || other.calls != 0 {
		t.Errorf("got %v, and the other server was asked %d times", err, other.calls)
	}
}

// cancelling is a sink that ends the request at the first text.
type cancelling struct {
	ear
	cancel context.CancelFunc
}

func (c *cancelling) Delta(int, string) { c.cancel() }

func TestCancelEndsTheRequest(t *testing.T) {
	p := &provider{t: t, hang: true, frames: []string{
		start(`{"input_tokens":1,"output_tokens":1}`),
		`content_block_start {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`,
		`content_block_delta {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"}}`,
	}}
	srv := httptest.NewServer(p)
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := anthropic.New(anthropic.Config{APIKey: key, BaseURL: srv.URL}).Stream(ctx, hello, &cancelling{cancel: cancel})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestModelsAreListed(t *testing.T) {
	for _, m := range anthropic.Models() {
		if m.ID == "" || m.Type != "model" || m.MaxTokens == 0 || m.Line == nil {
			t.Errorf("%+v", m)
		}
	}
}
