package api

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestDecodeNamesTheField(t *testing.T) {
	for _, tc := range []struct {
		name, body string
		into       any
		path, says string
	}{
		{"empty", "  ", &CreateEnvironment{}, "", "empty"},
		{"not JSON", `{"name":"a"`, &CreateEnvironment{}, "", "not valid JSON"},
		{"trailing", `{} x`, &CreateEnvironment{}, "", "not valid JSON"},
		{"unknown", `{"name":"a","nmae":"b"}`, &CreateEnvironment{}, "nmae", "unknown field"},
		{"case counts", `{"Name":"a"}`, &CreateEnvironment{}, "Name", "unknown field"},
		{"repeated", `{"name":"a","name":"b"}`, &CreateEnvironment{}, "name", "duplicate"},
		{"wrong type", `{"name":["a"]}`, &CreateEnvironment{}, "name", "got array, want string"},
		{"wrong type deep", `{"tools":[{"type":"custom"},{"configs":[{"enabled":"yes"}]}]}`, &CreateAgent{}, "tools[1].configs[0].enabled", "got string, want boolean"},
		{"unknown deep", `{"tools":[{"configs":[{"permission_policy":{"type":"auto","x":1}}]}]}`, &CreateAgent{}, "tools[0].configs[0].permission_policy.x", "unknown field"},
		{"unknown in a string-or-object", `{"model":{"id":"m","budget":1}}`, &CreateAgent{}, "model.budget", "unknown field"},
		{"wrong in a string-or-object", `{"model":7}`, &CreateAgent{}, "model", "got number"},
		{"unknown in an agent reference", `{"agent":{"type":"agent","id":"a","tool":[]}}`, &CreateSession{}, "agent.tool", "unknown field"},
		{"unknown in an optional", `{"tools":[{"type":"custom","x":1}]}`, &UpdateAgent{}, "tools[0].x", "unknown field"},
		{"wrong in an optional", `{"version":"3"}`, &UpdateAgent{}, "version", "got string, want integer"},
		{"fraction", `{"version":1.5}`, &UpdateAgent{}, "version", ""},
		{"metadata value", `{"metadata":{"k":{}}}`, &CreateEnvironment{}, "metadata.k", "got object, want string"},
		{"invalid UTF-8", "{\"name\":\"\xff\"}", &CreateEnvironment{}, "name", "UTF-8"},
	} {
		err := Decode([]byte(tc.body), tc.into)
		fe, ok := errors.AsType[*FieldError](err)
		if !ok {
			t.Errorf("%s: %v is no *FieldError", tc.name, err)
			continue
		}
		if fe.Path != tc.path || !strings.Contains(fe.Problem, tc.says) {
			t.Errorf("%s: %q says %q, want %q saying %q", tc.name, fe.Path, fe.Problem, tc.path, tc.says)
		}
	}
}

func TestDecodeAcceptsTheShortForms(t *testing.T) {
	var a CreateAgent
	if err := Decode([]byte(`{"name":"a","model":"m","system":null,"tools":null}`), &a); err != nil || a.Model.ID != "m" || a.System != nil {
		t.Errorf("%+v %v", a, err)
	}
	if err := Decode([]byte(`{"name":"a","model":{"id":"m","effort":"low"}}`), &a); err != nil || a.Model.Effort.Type != "low" {
		t.Errorf("%+v %v", a, err)
	}
	if err := Decode([]byte(`{"name":"a","model":{"id":"m","effort":{"type":"max"}}}`), &a); err != nil || a.Model.Effort.Type != "max" {
		t.Errorf("%+v %v", a, err)
	}
	var s CreateSession
	if err := Decode([]byte(`{"agent":"agent_01","environment_id":"e"}`), &s); err != nil || s.Agent.ID != "agent_01" || s.Agent.Type != "agent" {
		t.Errorf("%+v %v", s, err)
	}
	if err := DecodeLenient([]byte(`{"agent":"agent_01","more":1}`), &s); err != nil {
		t.Error(err)
	}
}

func TestOptionalTellsAbsentFromNull(t *testing.T) {
	var u UpdateEnvironment
	if err := Decode([]byte(`{"description":null,"metadata":{"a":null,"b":""}}`), &u); err != nil {
		t.Fatal(err)
	}
	if u.Name.Set || !u.Description.Set || !u.Description.Null || u.Metadata.Value["a"] != nil || *u.Metadata.Value["b"] != "" {
		t.Errorf("%+v", u)
	}
	text, err := json.Marshal(UpdateEnvironment{Name: Some("x"), Description: Null[string]()})
	if err != nil || string(text) != `{"name":"x","description":null}` {
		t.Errorf("%s %v", text, err)
	}
}

func TestUnknownEventKeepsItsJSON(t *testing.T) {
	raw := `{"type":"session.sang","id":"sevt_1","processed_at":null,"song":[1]}`
	e, err := DecodeEvent([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	u, ok := e.(*UnknownEvent)
	if !ok || u.ID != "sevt_1" || u.Type != "session.sang" || KnownEventType(u.Type) {
		t.Fatalf("%#v", e)
	}
	if again, err := json.Marshal(e); err != nil || string(again) != raw {
		t.Errorf("%s %v", again, err)
	}
}

func TestErrorGolden(t *testing.T) {
	text := golden(t, "objects/error.json", ErrorResponse{
		Type: "error", RequestID: "req_01abcdefghijklmnopqrstuv",
		Error: ErrorBody{
			Type: ErrInvalidRequest, Message: "the lease is lost",
			Details: map[string]any{
				"error_code": "heartbeat_precondition_failed", "error_visibility": "user_facing",
				"current_state": LeaseState{State: WorkQueued, TTLSeconds: 60},
			},
		},
	})
	if !strings.Contains(string(text), `"last_heartbeat": null`) {
		t.Errorf("%s", text)
	}
}

// seeds are all the golden files of a folder.
func seeds(f *testing.F, pattern string) {
	files, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds in %s: %v", pattern, err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
}

// The type is the event's own, wherever it stands and whatever lies in it.
func TestDecodeByItsOwnType(t *testing.T) {
	for _, raw := range []string{
		`{"error":{"type":"session.deleted","message":"m","retry_status":{"type":"user.interrupt"}},"id":"sevt_1","type":"session.error"}`,
		`{"type":"session.deleted","id":"sevt_1","type":"session.error"}`,
		`{"id":"sevt_1","input":{"type":"user.message"},"ty\u0070e":"session.error"}`,
	} {
		e, err := DecodeEvent([]byte(raw))
		if _, ok := e.(*SessionError); err != nil || !ok {
			t.Errorf("%s is %T, %v; want a session error", raw, e, err)
		}
	}
}

// A client takes what it need not understand, and says where it cannot take
// something.
func TestDecodeAnswer(t *testing.T) {
	var p EventPage
	err := DecodeAnswer([]byte(`{"new":{"a":[{}]},"next_page":"x","next_page":null,"data":[
		{"type":"agent.message","id":"a","id":"b","content":[{"type":"text","text":"\ud800`+"\xff"+`","source":{"type":"\ud800","type":"url"},"new":1}],"processed_at":null},
		{"type":"session.sang"}, null]}`), &p)
	if err != nil || p.NextPage != nil || len(p.Data) != 3 {
		t.Fatalf("%+v, %v", p, err)
	}
	if m, ok := p.Data[0].(*AgentMessage); !ok || m.ID != "b" || m.Content[0].Text != "\ufffd\ufffd" || m.Content[0].Source.Type != "url" {
		t.Errorf("%+v", p.Data[0])
	}
	for raw, want := range map[string]string{
		`{"data":`:                       `unexpected EOF within "/data"`,
		`{"data":[{"type":"x"},{`:        `unexpected EOF within "/data/1"`,
		`{"data":7}`:                     `JSON number into Go []api.Event within "/data"`,
		`{"data":[{},{"id":[]}]}`:        `within "/data/1": decode event: json: cannot unmarshal JSON array into Go string within "/id"`,
		`{"data":[{}]} {"data":[{}]}`:    `after top-level value`,
		`{"data":null,"next_page":true}`: `within "/next_page"`,
	} {
		// The library says one or the other, by chance.
		if err := DecodeAnswer([]byte(raw), new(EventPage)); err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), "unable to", "cannot"), want) {
			t.Errorf("%s: %v", raw, err)
		}
	}
	if err := json.Unmarshal([]byte(`{"data":null}`), &p); err != nil || p.Data != nil {
		t.Errorf("%+v, %v", p, err)
	}
}

// What DecodeEvent takes it can write, and reads again as the same.
func FuzzDecodeEvent(f *testing.F) {
	seeds(f, "events/*.json")
	f.Add([]byte(`{"type":"agent.message","content":[{"type":"x","source":"s"}]}`))
	f.Add([]byte(`{"type":"user.message","content":[{"source":{}}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := DecodeEvent(text)
		if err != nil {
			return
		}
		once, err := json.Marshal(e)
		if err != nil {
			t.Fatalf("cannot write what was read from %q: %v", text, err)
		}
		again, err := DecodeEvent(once)
		if err != nil {
			t.Fatalf("cannot read %q, written from %q: %v", once, text, err)
		}
		twice, err := json.Marshal(again)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(once), string(twice)); d != "" {
			t.Errorf("writing is not stable (-once +twice):\n%s", d)
		}
	})
}

// Decode takes it or names a field; it never panics, and what it takes fits
// the lenient reader, too.
func FuzzDecode(f *testing.F) {
	seeds(f, "requests/*.json")
	seeds(f, "objects/*.json")
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, newInto := range []func() any{
			func() any { return &CreateAgent{} }, func() any { return &UpdateAgent{} }, func() any { return &CreateSession{} },
			func() any { return &UpdateSession{} }, func() any { return &CreateEnvironment{} }, func() any { return &SendEvents{} },
		} {
			err := Decode(text, newInto())
			if err == nil {
				if err := DecodeLenient(text, newInto()); err != nil {
					t.Errorf("strict takes %q, lenient says %v", text, err)
				}
				continue
			}
			fe, ok := errors.AsType[*FieldError](err)
			if !ok || fe.Problem == "" {
				t.Fatalf("%q: %#v is no *FieldError", text, err)
			}
			if utf8.Valid(text) && !utf8.ValidString(fe.Error()) {
				t.Errorf("%q: the error %q is no text", text, fe.Error())
			}
		}
	})
}
