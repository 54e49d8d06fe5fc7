package plane_test

import (
	"encoding/json"
	"errors"
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
		`{"type":"user.message","content":[{"type":"text","text":"a"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AA"}},{"type":"document","source":{"type":"url","url":"u"},"title":"t"}]}`,
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
