package plane_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
)

func TestCheckCreateSession(t *testing.T) {
	good := func() api.CreateSession {
		return api.CreateSession{EnvironmentID: "env_1", Budget: json.RawMessage("null")}
	}
	if err := plane.CheckCreateSession(good()); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", plane.MaxTitle+1)
	for field, change := range map[string]func(*api.CreateSession){
		"environment_id":    func(r *api.CreateSession) { r.EnvironmentID = "" },
		"title":             func(r *api.CreateSession) { r.Title = &long },
		"budget":            func(r *api.CreateSession) { r.Budget = json.RawMessage(`{"type":"limit"}`) },
		"vault_ids":         func(r *api.CreateSession) { r.VaultIDs = []string{"vlt_1"} },
		"resources[0].type": func(r *api.CreateSession) { r.Resources = []json.RawMessage{json.RawMessage(`{"type":"file"}`)} },
		"initial_events":    func(r *api.CreateSession) { r.InitialEvents = make([]json.RawMessage, 51) },
	} {
		r := good()
		change(&r)
		err, ok := errors.AsType[*plane.Error](plane.CheckCreateSession(r))
		if !ok || err.Kind != plane.Invalid || err.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestCheckUpdateSession(t *testing.T) {
	long := strings.Repeat("x", plane.MaxTitle+1)
	for field, u := range map[string]api.UpdateSession{
		"":          {Title: api.Some(long[1:]), Budget: api.Null[json.RawMessage]()},
		"title":     {Title: api.Some(long)},
		"budget":    {Budget: api.Some(json.RawMessage(`{"type":"limit"}`))},
		"vault_ids": {VaultIDs: api.Some([]string{})},
	} {
		err := plane.CheckUpdateSession(u)
		if e, ok := errors.AsType[*plane.Error](err); ok != (field != "") || ok && (e.Kind != plane.Invalid || e.Field != field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestParseSent(t *testing.T) {
	many := func(n int, one string) string { return "[" + strings.Repeat(one+",", n-1) + one + "]" }
	const text = `{"type":"text","text":"a"}`
	for _, c := range []struct{ event, field string }{ // no field: it is fine
		{`{"type":"user.message","content":[` + text + `]}`, ""},
		{`{"type":"user.message","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AA=="}}]}`, ""},
		{`{"type":"user.message","content":[{"type":"image","source":{"type":"url","url":"https://h/u"}}]}`, ""},
		{`{"type":"user.message","content":[{"type":"document","title":"t","context":"c","source":{"type":"text","media_type":"text/plain","data":"a"}}]}`, ""},
		{`{"type":"user.interrupt"}`, ""},
		{`{"type":"user.interrupt","session_thread_id":"sthr_1"}`, ""},
		{`{"type":"user.tool_confirmation","tool_use_id":"sevt_1","result":"allow"}`, ""},
		{`{"type":"user.tool_confirmation","tool_use_id":"sevt_1","result":"deny"}`, ""},
		{`{"type":"user.tool_confirmation","tool_use_id":"sevt_1","result":"deny","deny_message":"` + strings.Repeat("é", 10_000) + `"}`, ""},
		{`{"type":"user.tool_result","tool_use_id":"sevt_1"}`, ""},
		{`{"type":"user.tool_result","tool_use_id":"sevt_1","content":[{"type":"search_result","source":"s","title":"t","content":[` + text + `]}]}`, ""},
		{`{"type":"user.custom_tool_result","custom_tool_use_id":"sevt_1","content":` + many(1000, text) + `,"is_error":true}`, ""},

		{`{"type":"user.message","content":[{"type":"text","text":"` + "\xff" + `"}]}`, "events[0]"},
		{`{"type":"user.message","content":[` + text + `],"id":"sevt_1"}`, "events[0].id"},
		{`{}`, "events[0].type"},
		{`{"type":"user.mesage"}`, "events[0].type"},
		{`{"type":"agent.message","content":[]}`, "events[0].type"},
		{`{"type":"system.message","content":[]}`, "events[0].type"},
		{`{"type":"user.message"}`, "events[0].content"},
		{`{"type":"user.message","content":[]}`, "events[0].content"},
		{`{"type":"user.message","content":` + many(1001, text) + `}`, "events[0].content"},
		{`{"type":"user.message","content":[{"text":"a"}]}`, "events[0].content[0].type"},
		{`{"type":"user.message","content":[{"type":"search_result","source":"s","title":"t"}]}`, "events[0].content[0].type"},
		{`{"type":"user.message","content":[{"type":"text","text":""}]}`, "events[0].content[0].text"},
		{`{"type":"user.message","content":[{"type":"text","text":"a","title":"t"}]}`, "events[0].content[0].title"},
		{`{"type":"user.message","content":[{"type":"image"}]}`, "events[0].content[0].source"},
		{`{"type":"user.message","content":[{"type":"image","text":"a","source":{"type":"url","url":"u"}}]}`, "events[0].content[0].text"},
		{`{"type":"user.message","content":[{"type":"image","source":{"type":"base64","data":"AA"}}]}`, "events[0].content[0].source.media_type"},
		{`{"type":"user.message","content":[{"type":"image","source":{"type":"base64","media_type":"image/png"}}]}`, "events[0].content[0].source.data"},
		{`{"type":"user.message","content":[{"type":"image","source":{"type":"url"}}]}`, "events[0].content[0].source.url"},
		{`{"type":"user.message","content":[{"type":"image","source":{"type":"text","data":"a"}}]}`, "events[0].content[0].source.type"},
		{`{"type":"user.message","content":[{"type":"image","source":{"type":"file","file_id":"f"}}]}`, "events[0].content[0].source.type"},
		{`{"type":"user.message","content":[{"type":"document","source":{"type":"text"}}]}`, "events[0].content[0].source.data"},
		{`{"type":"user.message","content":[{"type":"image","source":{"type":"base64","media_type":"text/html","data":"AA=="}}]}`, "events[0].content[0].source.media_type"},
		{`{"type":"user.message","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"A@=="}}]}`, "events[0].content[0].source.data"},
		{`{"type":"user.message","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AA"}}]}`, "events[0].content[0].source.data"},
		{`{"type":"user.message","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AA\n=="}}]}`, "events[0].content[0].source.data"},
		{`{"type":"user.message","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AA==","url":"https://h/u"}}]}`, "events[0].content[0].source.url"},
		{`{"type":"user.message","content":[{"type":"image","source":{"type":"url","url":"file:///etc/passwd"}}]}`, "events[0].content[0].source.url"},
		{`{"type":"user.message","content":[{"type":"image","source":{"type":"url","url":"https://h/u","data":"AA=="}}]}`, "events[0].content[0].source.data"},
		{`{"type":"user.message","content":[{"type":"document","source":{"type":"base64","media_type":"image/png","data":"AA=="}}]}`, "events[0].content[0].source.media_type"},
		{`{"type":"user.message","content":[{"type":"document","source":{"type":"text","data":"a"}}]}`, "events[0].content[0].source.media_type"},
		{`{"type":"user.message","content":[{"type":"document","source":{"type":"text","media_type":"text/html","data":"a"}}]}`, "events[0].content[0].source.media_type"},
		{`{"type":"user.tool_result","tool_use_id":"sevt_1","content":[{"type":"search_result","source":"s","title":"t","text":"x"}]}`, "events[0].content[0].text"},
		{`{"type":"user.message","content":[{"type":"document","source":{"type":"url","url":"u"},"content":[` + text + `]}]}`, "events[0].content[0].content"},
		{`{"type":"user.tool_confirmation","result":"allow"}`, "events[0].tool_use_id"},
		{`{"type":"user.tool_confirmation","tool_use_id":"toolu_1","result":"allow"}`, "events[0].tool_use_id"},
		{`{"type":"user.tool_confirmation","tool_use_id":"sevt_1","result":"yes"}`, "events[0].result"},
		{`{"type":"user.tool_confirmation","tool_use_id":"sevt_1","result":"allow","deny_message":"no"}`, "events[0].deny_message"},
		{`{"type":"user.tool_confirmation","tool_use_id":"sevt_1","result":"deny","deny_message":"` + strings.Repeat("é", 10_001) + `"}`, "events[0].deny_message"},
		{`{"type":"user.tool_result"}`, "events[0].tool_use_id"},
		{`{"type":"user.tool_result","tool_use_id":"sevt_1","content":[{"type":"search_result","title":"t"}]}`, "events[0].content[0].source"},
		{`{"type":"user.tool_result","tool_use_id":"sevt_1","content":[{"type":"search_result","source":{"type":"url","url":"u"},"title":"t"}]}`, "events[0].content[0].source"},
		{`{"type":"user.tool_result","tool_use_id":"sevt_1","content":[{"type":"search_result","source":"s"}]}`, "events[0].content[0].title"},
		{`{"type":"user.tool_result","tool_use_id":"sevt_1","content":[{"type":"search_result","source":"s","title":"t","content":[{"type":"image"}]}]}`, "events[0].content[0].content[0].type"},
		{`{"type":"user.tool_result","tool_use_id":"sevt_1","content":[{"type":"text","text":"` + strings.Repeat("x", 10<<20) + `"}]}`, "events[0]"},
		{`{"type":"user.custom_tool_result","tool_use_id":"sevt_1"}`, "events[0].tool_use_id"},
		{`{"type":"user.custom_tool_result","custom_tool_use_id":"sevt_1","content":[{"type":"text"}]}`, "events[0].content[0].text"},
	} {
		got, err := plane.ParseSent("events", []json.RawMessage{json.RawMessage(c.event)})
		if c.field == "" {
			if err != nil || !strings.HasPrefix(c.event, `{"type":"`+got[0].Head().Type+`"`) {
				t.Errorf("%.200s: %v, %v", c.event, got, err)
			}
			continue
		}
		want := plane.Invalid
		if len(c.event) > plane.MaxToolResult {
			want = plane.TooLarge
		}
		if e, ok := errors.AsType[*plane.Error](err); !ok || e.Kind != want || e.Field != c.field {
			t.Errorf("%.200s: %v; want a fault of %s", c.event, err, c.field)
		}
	}

	message := json.RawMessage(`{"type":"user.message","content":[` + text + `]}`)
	_, err := plane.ParseSent("initial_events", []json.RawMessage{message, json.RawMessage(`{"type":"user.interrupt"}`)})
	if e, ok := errors.AsType[*plane.Error](err); !ok || e.Field != "initial_events[1].type" {
		t.Errorf("a session that begins with an interrupt: %v", err)
	}
	if got, err := plane.ParseSent("events", slices.Repeat([]json.RawMessage{message}, 50)); len(got) != 50 {
		t.Error(err)
	}
	if _, err := plane.ParseSent("events", slices.Repeat([]json.RawMessage{message}, 51)); plane.KindOf(err) != plane.Invalid {
		t.Errorf("51 events: %v", err)
	}
}

func TestResultDigest(t *testing.T) {
	yes, no := true, false
	a := plane.ResultDigest([]api.Block{api.Text("a")}, nil)
	if a != plane.ResultDigest([]api.Block{api.Text("a")}, &no) {
		t.Error("is_error false is not the same as absent")
	}
	if a == plane.ResultDigest([]api.Block{api.Text("a")}, &yes) || a == plane.ResultDigest([]api.Block{api.Text("b")}, nil) || a == plane.ResultDigest(nil, nil) {
		t.Error("different results look the same")
	}
}

func FuzzParseSent(f *testing.F) {
	for _, s := range []string{
		`{"type":"user.message","content":[{"type":"text","text":"a"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AA=="}},{"type":"document","source":{"type":"url","url":"https://h/u"},"title":"t"}]}`,
		`{"type":"user.interrupt","session_thread_id":"sthr_1"}`,
		`{"type":"user.tool_confirmation","tool_use_id":"sevt_1","result":"deny","deny_message":"no"}`,
		`{"type":"user.tool_result","tool_use_id":"sevt_1","content":[{"type":"search_result","source":"s","title":"t","content":[{"type":"text","text":"x"}],"citations":{"enabled":true}}],"is_error":true}`,
		`{"type":"user.custom_tool_result","custom_tool_use_id":"sevt_1"}`,
		`{"type":"system.message","content":[]}`, `{"type":1}`, `[]`, `null`, `{"type":"user.message","content":[{"type":"image","source":"x"}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := plane.ParseSent("events", []json.RawMessage{raw})
		if err != nil {
			e, ok := errors.AsType[*plane.Error](err)
			if !ok || e.Kind != plane.Invalid || !strings.HasPrefix(e.Field, "events[0]") {
				t.Fatalf("%q: %v", raw, err)
			}
			return
		}
		// What is taken can be stored, listed and read by every client.
		body, err := json.Marshal(got[0])
		if err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
		if _, err := api.DecodeEvent(body); err != nil {
			t.Fatalf("%q became %s: %v", raw, body, err)
		}
	})
}
