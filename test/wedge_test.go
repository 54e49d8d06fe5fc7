package test

import (
	"net/http"
	"testing"
	"time"

	"github.com/berthdev/berth/test/testenv"
)

// ask is a bash tool that asks before it runs.
func ask(w *testenv.World) string {
	return w.Must("POST", "/v1/agents", w.APIKey, map[string]any{
		"name": "asks", "model": "scripted",
		"tools": []map[string]any{{
			"type":           "agent_toolset_20260401",
			"default_config": map[string]any{"permission_policy": map[string]any{"type": "always_ask"}},
		}},
	}).String("id")
}

func confirm(call, result string) map[string]any {
	return map[string]any{"type": "user.tool_confirmation", "tool_use_id": call, "result": result}
}

var oneCall = testenv.Script(testenv.Say("go", testenv.Bash("echo ran")), testenv.Say("done"))

// Each case is a way in which a session was once left waiting for ever.
func TestNoSessionWedges(t *testing.T) {
	ended := func(t *testing.T, w world, session, reason string) []map[string]any {
		t.Helper()
		events := w.Ended(session)
		if got := testenv.StopReason(events); got != reason {
			t.Errorf("ended with %s, want %s\n%s", got, reason, testenv.Dump(events))
		}
		return events
	}
	cases := map[string]func(t *testing.T, w world){
		"empty output": func(t *testing.T, w world) {
			w.Worker("", "--sandbox", "process")
			s := w.Session(w.Agent(), testenv.Script(testenv.Say("go", testenv.Bash("true")), testenv.Say("done")))
			events := ended(t, w, s, "end_turn")
			if got := testenv.Text(testenv.Of(events, "user.tool_result")[0]); got != "(no output)" {
				t.Errorf("the silent command's result is %q", got)
			}
		},
		"asked and allowed": func(t *testing.T, w world) {
			w.Worker("", "--sandbox", "process")
			s := w.Session(ask(w.World), oneCall)
			call := w.call(s)
			if a := w.Send(s, confirm(call, "allow")); a.Status != http.StatusOK {
				t.Fatalf("%d %s", a.Status, a.Raw)
			}
			checkLog(t, ended(t, w, s, "end_turn"))
		},
		"asked and denied": func(t *testing.T, w world) {
			w.Worker("", "--sandbox", "process")
			s := w.Session(ask(w.World), oneCall)
			w.Send(s, confirm(w.call(s), "deny"))
			events := ended(t, w, s, "end_turn")
			if len(testenv.Of(events, "agent.tool_result")) != 1 || len(testenv.Of(events, "user.tool_result")) != 0 {
				t.Errorf("a denied call:\n%s", testenv.Dump(events))
			}
		},
		"asked and never answered": func(t *testing.T, w world) {
			w.Worker("", "--sandbox", "process")
			s := w.Session(ask(w.World), oneCall)
			w.call(s)
			// The queue behind it does not wait.
			other := w.Session(w.Agent(), oneCall)
			ended(t, w, other, "end_turn")
			w.Send(s, map[string]any{"type": "user.interrupt"})
			ended(t, w, s, "end_turn")
		},
		"a result before its confirmation": func(t *testing.T, w world) {
			s := w.Session(ask(w.World), oneCall)
			h := claim(t, w.World, s, byToken, true)
			call := w.call(s)
			if a := h.Result(s, call, "early", h.token); a.Status != http.StatusBadRequest {
				t.Errorf("an early result: %d %s", a.Status, a.Raw)
			}
			w.Send(s, confirm(call, "allow"))
			if a := h.Result(s, call, "now", h.token); a.Status != http.StatusOK {
				t.Errorf("after the confirmation: %d %s", a.Status, a.Raw)
			}
			ended(t, w, s, "end_turn")
		},
		"a holder that acks and dies": func(t *testing.T, w world) {
			s := w.Session(w.Agent(), oneCall)
			claim(t, w.World, s, byKey, false)
			w.Worker("", "--sandbox", "process")
			ended(t, w, s, "end_turn")
		},
		"a holder that detaches and stops": func(t *testing.T, w world) {
			s := w.Session(w.Agent(), oneCall)
			h := claim(t, w.World, s, byKey, false)
			w.call(s)
			if a := h.Stop(w.EnvKey, false); a.Status != http.StatusOK {
				t.Fatalf("%d %s", a.Status, a.Raw)
			}
			w.Worker("", "--sandbox", "process")
			ended(t, w, s, "end_turn")
		},
		"an unknown tool": func(t *testing.T, w world) {
			w.Worker("", "--sandbox", "process")
			s := w.Session(w.Agent(), testenv.Script(
				testenv.Say("go", map[string]any{"name": "teleport", "input": map[string]any{}}), testenv.Say("done")))
			ended(t, w, s, "end_turn")
		},
		"an empty session in front of a real one, stock worker": func(t *testing.T, w world) {
			agent := w.Agent()
			w.Session(agent)
			officialWorker(t, w.World, t.TempDir(), time.Second)
			// The official worker has taken the empty session when its item is acked.
			for deadline := time.Now().Add(testenv.Patience); time.Now().Before(deadline); {
				a := w.Must("GET", "/v1/environments/"+w.EnvironmentID+"/work/stats", w.APIKey, nil)
				if a.Body["pending"].(float64) == 1 {
					break
				}
			}
			s := w.Session(agent, oneCall)
			w.UntilWithin(2*testenv.Patience, s, "the end of its turn", func(e []map[string]any) bool {
				return testenv.StopReason(e) == "end_turn"
			})
		},
		"a result posted twice": func(t *testing.T, w world) {
			s := w.Session(w.Agent(), oneCall)
			h := claim(t, w.World, s, byToken, true)
			call := w.call(s)
			first := h.Result(s, call, "x", h.token)
			again := h.Result(s, call, "x", h.token)
			if first.Status != http.StatusOK || again.Status != http.StatusOK || string(first.Raw) == "" {
				t.Fatalf("%d %s, then %d %s", first.Status, first.Raw, again.Status, again.Raw)
			}
			id := func(a testenv.Answer) any { return a.Body["data"].([]any)[0].(map[string]any)["id"] }
			if id(first) != id(again) {
				t.Errorf("the repeat became %v beside %v", id(again), id(first))
			}
			if a := h.Result(s, call, "y", h.token); a.Status != http.StatusBadRequest {
				t.Errorf("another result: %d %s", a.Status, a.Raw)
			}
			checkLog(t, ended(t, w, s, "end_turn"))
		},
		"a result for somebody else's call": func(t *testing.T, w world) {
			agent := w.Agent()
			s := w.Session(agent, oneCall)
			h := claim(t, w.World, s, byToken, true)
			call := w.call(s)
			other := w.Session(agent, oneCall)
			theirs := w.call(other)
			if a := h.Result(s, theirs, "x", h.token); a.Status != http.StatusBadRequest {
				t.Errorf("another session's call: %d %s", a.Status, a.Raw)
			}
			if a := h.Result(other, theirs, "x", h.token); a.Status != http.StatusForbidden && a.Status != http.StatusNotFound {
				t.Errorf("in another session: %d %s", a.Status, a.Raw)
			}
			h.Result(s, call, "mine", h.token)
			ended(t, w, s, "end_turn")
		},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of it is waiting for a lease to lapse
			w := world{testenv.Start(t, testenv.Options{})}
			shorten(t, w.World)
			test(t, w)
		})
	}
}
