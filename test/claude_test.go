package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/test/testenv"
)

// claude stands in for the provider: it gives its answers one after the other
// and is as strict about requests as the real one.
type claude struct {
	t       *testing.T
	mu      sync.Mutex
	answers []reply
	asked   []request // those that were taken
}

// reply is one answer: a status with an error, or frames of a stream, an error
// frame at its end.
type reply struct {
	status int
	blocks []string // content blocks as they are to be remembered
	fault  string   // type of an error amid the stream
	stop   string
}

type request struct {
	System   []json.RawMessage `json:"system"`
	Tools    []json.RawMessage `json:"tools"`
	Messages []struct {
		Role    string            `json:"role"`
		Content []json.RawMessage `json:"content"`
	} `json:"messages"`
}

// block is what the provider looks at in a content block.
type block struct {
	Type         string          `json:"type"`
	ID           string          `json:"id"`
	Text         string          `json:"text"`
	ToolUseID    string          `json:"tool_use_id"`
	CacheControl json.RawMessage `json:"cache_control"`
	Content      []block         `json:"content"`
}

func (c *claude) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/v1/messages" { // the server asks first whether a Berth is there
		http.NotFound(w, r)
		return
	}
	raw, err := io.ReadAll(r.Body)
	var req request
	if err == nil {
		err = json.Unmarshal(raw, &req)
	}
	if err == nil {
		err = req.fault()
	}
	if err != nil || r.Header.Get("X-Api-Key") != "sk-ant-of-the-test" {
		c.t.Errorf("the provider refuses a request: %v\n%s", err, raw)
		refuse(w, http.StatusBadRequest, "invalid_request_error")
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.answers) == 0 {
		c.t.Errorf("a request too many: %s", raw)
		refuse(w, http.StatusBadRequest, "invalid_request_error")
		return
	}
	c.asked = append(c.asked, req)
	a := c.answers[0]
	c.answers = c.answers[1:]
	if a.status != 0 {
		w.Header().Set("Retry-After-Ms", "20")
		refuse(w, a.status, a.fault)
		return
	}
	a.stream(w)
}

func refuse(w http.ResponseWriter, status int, kind string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"type":"error","error":{"type":%q,"message":"no"}}`, kind)
}

// stream sends an answer block by block, each text and input in one piece.
func (a reply) stream(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/event-stream")
	send := func(kind, data string) { fmt.Fprintf(w, "event: %s\ndata: {\"type\":%q,%s}\n\n", kind, kind, data) }
	send("message_start", `"message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-opus-5-5","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":10,"output_tokens":1,"cache_read_input_tokens":3}}`)
	for i, b := range a.blocks {
		var is struct {
			Type, ID, Name, Text, Thinking, Signature string
			Input                                     json.RawMessage
		}
		json.Unmarshal([]byte(b), &is) // a test's own
		began, deltas := b, []string(nil)
		delta := func(kind, member string, v any) {
			text, _ := json.Marshal(v)
			deltas = append(deltas, fmt.Sprintf(`{"type":%q,%q:%s}`, kind, member, text))
		}
		switch is.Type {
		case "text":
			began = `{"type":"text","text":""}`
			delta("text_delta", "text", is.Text)
		case "thinking":
			began = `{"type":"thinking","thinking":"","signature":""}`
			delta("thinking_delta", "thinking", is.Thinking)
			delta("signature_delta", "signature", is.Signature)
		case "tool_use":
			began = fmt.Sprintf(`{"type":"tool_use","id":%q,"name":%q,"input":{}}`, is.ID, is.Name)
			delta("input_json_delta", "partial_json", string(is.Input))
		}
		send("content_block_start", fmt.Sprintf(`"index":%d,"content_block":%s`, i, began))
		for _, d := range deltas {
			send("content_block_delta", fmt.Sprintf(`"index":%d,"delta":%s`, i, d))
		}
		if a.fault == "" {
			send("content_block_stop", fmt.Sprintf(`"index":%d`, i))
		}
	}
	if a.fault != "" {
		send("error", fmt.Sprintf(`"error":{"type":%q,"message":"no"}`, a.fault))
		return
	}
	send("message_delta", fmt.Sprintf(`"delta":{"stop_reason":%q,"stop_sequence":null},"usage":{"output_tokens":5}`, a.stop))
	send("message_stop", `"stop":true`)
}

// fault is why the provider would answer a request with 400.
func (r request) fault() error {
	marks := 0
	for _, list := range [][]json.RawMessage{r.System, r.Tools} {
		if len(list) == 0 || !bytes.Contains(list[len(list)-1], []byte(`"cache_control":{"type":"ephemeral"}`)) {
			return fmt.Errorf("no breakpoint at the end of %s", list)
		}
		for _, raw := range list {
			marks += bytes.Count(raw, []byte(`"cache_control"`))
		}
	}
	var calls []string
	for i, m := range r.Messages {
		if want := []string{"user", "assistant"}[i%2]; m.Role != want || len(m.Content) == 0 {
			return fmt.Errorf("message %d is the %s's, with %d blocks", i, m.Role, len(m.Content))
		}
		var ids []string
		for at, raw := range m.Content {
			var b block
			if err := json.Unmarshal(raw, &b); err != nil {
				return err
			}
			for _, text := range append(b.Content, b) {
				if text.Type == "text" && strings.TrimSpace(text.Text) == "" {
					return fmt.Errorf("message %d has a blank text", i)
				}
			}
			if b.CacheControl != nil {
				marks++
				if m.Role != "user" || i < len(r.Messages)-3 || at != len(m.Content)-1 {
					return fmt.Errorf("a breakpoint at block %d of message %d of %d", at, i, len(r.Messages))
				}
			}
			switch {
			case b.Type == "tool_use":
				ids = append(ids, b.ID)
			case b.Type == "tool_result" && len(calls) > 0 && b.ToolUseID == calls[0]:
				calls = calls[1:]
			case b.Type == "tool_result" || m.Role == "user" && len(calls) > 0:
				return fmt.Errorf("block %d of message %d is a %s; results of %v are due", at, i, b.Type, calls)
			}
		}
		if len(calls) > 0 {
			return fmt.Errorf("message %d has no result of %v", i, calls)
		}
		calls = ids
	}
	if want := 2 + min(2, (len(r.Messages)+1)/2); marks != want || len(r.Messages)%2 == 0 {
		return fmt.Errorf("%d breakpoints, want %d; %d messages", marks, want, len(r.Messages))
	}
	return nil
}

const (
	thought  = `{"type":"thinking","thinking":"a < b & \u2028 \"é\"\n","signature":"c2ln+/=="}`
	redacted = `{"type":"redacted_thinking","data":"Zm9v"}`
)

// A provider that speaks the real protocol plays a session through the whole
// program: errors before and amid its stream are lived through, what it thought
// goes back to it unchanged, also after the server was killed, and no request
// is one that it refuses.
func TestClaudePlaysASession(t *testing.T) {
	eachStore(t, func(t *testing.T, o testenv.Options) {
		use := func(id, command string) string {
			return fmt.Sprintf(`{"type":"tool_use","id":%q,"name":"bash","input":{"command":%q}}`, id, command)
		}
		text := func(s string) string { return fmt.Sprintf(`{"type":"text","text":%q}`, s) }
		first := []string{thought, redacted, text("I look."), use("toolu_1", "echo one"), use("toolu_2", "true")}
		c := &claude{t: t, answers: []reply{
			{status: 529, fault: "overloaded_error"},
			{blocks: []string{text("half")}, fault: "api_error"},
			{blocks: first, stop: "tool_use"},
			{blocks: []string{text("done")}, stop: "end_turn"},
			{blocks: []string{text("\n\n"), use("toolu_3", "echo three")}, stop: "tool_use"},
			{blocks: []string{text("over")}, stop: "end_turn"},
		}}
		provider := httptest.NewServer(c)
		t.Cleanup(provider.Close)
		o.Env, o.Args = []string{"ANTHROPIC_API_KEY=sk-ant-of-the-test"}, []string{"--model-base-url", provider.URL}
		w := testenv.Start(t, o)
		w.Worker("", "--sandbox", "process")
		agent := w.Must("POST", "/v1/agents", w.APIKey, map[string]any{
			"name": "claude", "model": "claude-opus-5-5", "tools": []map[string]any{{"type": "agent_toolset_20260401"}}}).String("id")
		session := w.Session(agent)
		stream, err := client.New(w.BaseURL, client.APIKey(w.APIKey), nil).Stream(t.Context(), session, client.StreamOptions{Deltas: []string{api.TypeAgentMessage, api.TypeAgentThinking}})
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		w.Send(session, testenv.Message("go"))
		events := w.Ended(session)
		checkLog(t, events)

		var statuses []any
		for _, e := range testenv.Of(events, "session.error") {
			fault := e["error"].(map[string]any)
			statuses = append(statuses, fault["type"], fault["retry_status"].(map[string]any)["type"])
		}
		if d := cmp.Diff([]any{"model_overloaded_error", "retrying", "model_request_failed_error", "retrying"}, statuses); d != "" {
			t.Errorf("the errors of the session (-want +got):\n%s", d)
		}
		if n := len(testenv.Of(events, "session.status_rescheduled")); n != 2 {
			t.Errorf("rescheduled %d times", n)
		}
		if got := previewed(t, stream); got != "half|I look.|done" {
			t.Errorf("previewed %q", got)
		}
		usage := w.Must("GET", "/v1/sessions/"+session, w.APIKey, nil).Body["usage"].(map[string]any)
		if usage["input_tokens"] != 30.0 || usage["cache_read_input_tokens"] != 9.0 || usage["output_tokens"] != 11.0 {
			t.Errorf("usage %v", usage)
		}

		w.Server.Kill()
		w.Serve("")
		w.Send(session, testenv.Message(" \n")) // blank, which a provider refuses
		events = w.Ended(session)
		checkLog(t, events)
		if got := testenv.StopReason(events); got != "end_turn" {
			t.Fatalf("ended with %s\n%s", got, testenv.Dump(events))
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.answers) > 0 {
			t.Errorf("%d answers were not asked for", len(c.answers))
		}
		var back any
		for _, r := range c.asked[3:] { // each with the first answer as it was
			raw, err := json.Marshal(r.Messages[1].Content)
			if err == nil {
				err = json.Unmarshal(raw, &back)
			}
			var want any
			if err == nil {
				err = json.Unmarshal([]byte("["+strings.Join(first, ",")+"]"), &want)
			}
			if d := cmp.Diff(want, back); err != nil || d != "" {
				t.Errorf("the first answer came back changed (-was +is): %v\n%s", err, d)
			}
		}
	})
}

// previewed reads a stream up to the turn's end: the texts of its previews.
func previewed(t *testing.T, stream *client.Stream) string {
	t.Helper()
	var texts []string
	for {
		e, err := stream.Next()
		if err != nil {
			t.Fatal(err)
		}
		switch e := e.(type) {
		case *api.EventStart:
			if e.Event.Type == api.TypeAgentMessage {
				texts = append(texts, "")
			}
		case *api.EventDelta:
			texts[len(texts)-1] += e.Delta.Content.Text
		case *api.SessionStatusIdle:
			if e.StopReason.Type != api.StopRequiresAction {
				return strings.Join(texts, "|")
			}
		}
	}
}
