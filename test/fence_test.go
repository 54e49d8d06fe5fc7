package test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/test/testenv"
)

// holder is a worker made by hand, one call at a time.
type holder struct {
	w     *testenv.World
	work  string
	token string // the sessions token
	beat  string // what the next beat must expect
}

// claim polls and acks, and beats when asked; session is who should come.
func claim(t *testing.T, w *testenv.World, session string, bearer func(*holder) string, beat bool) *holder {
	t.Helper()
	h := &holder{w: w}
	base := "/v1/environments/" + w.EnvironmentID + "/work/"
	for range 60 {
		a := w.Must("GET", base+"poll?block_ms=900", w.EnvKey, nil)
		if a.Body == nil {
			continue
		}
		h.work = a.String("id")
		if got := a.Body["data"].(map[string]any)["id"]; got != session {
			t.Fatalf("polled %v, want %s", got, session)
		}
		raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(a.String("secret"), "="))
		var secret api.WorkSecret
		if err == nil {
			err = json.Unmarshal(raw, &secret)
		}
		if err != nil {
			t.Fatal(err)
		}
		h.token = secret.SessionsToken
		w.Must("POST", base+h.work+"/ack", w.EnvKey, nil)
		if beat {
			if a := h.Beat(bearer(h)); a.Status != http.StatusOK {
				t.Fatalf("first beat: %d %s", a.Status, a.Raw)
			}
		}
		return h
	}
	t.Fatal("nothing was offered")
	return nil
}

func byToken(h *holder) string { return h.token }
func byKey(h *holder) string   { return h.w.EnvKey }

// Beat beats with a bearer and remembers the answer.
func (h *holder) Beat(bearer string) testenv.Answer {
	expected := h.beat
	if expected == "" {
		expected = api.NoHeartbeat
	}
	a := h.w.Call("POST", "/v1/environments/"+h.w.EnvironmentID+"/work/"+h.work+"/heartbeat?expected_last_heartbeat="+expected, bearer, nil)
	if a.Status == http.StatusOK {
		h.beat = a.String("last_heartbeat")
	}
	return a
}

func (h *holder) Stop(bearer string, force bool) testenv.Answer {
	return h.w.Call("POST", "/v1/environments/"+h.w.EnvironmentID+"/work/"+h.work+"/stop", bearer, map[string]any{"force": force})
}

func (h *holder) Result(session, call, text, bearer string) testenv.Answer {
	return h.w.Call("POST", "/v1/sessions/"+session+"/events", bearer, map[string]any{"events": []map[string]any{{
		"type": "user.tool_result", "tool_use_id": call, "is_error": false,
		"content": []map[string]any{{"type": "text", "text": text}},
	}}})
}

func (w world) call(session string) string {
	events := w.Until(session, "a tool use", func(e []map[string]any) bool { return len(testenv.Of(e, "agent.tool_use")) > 0 })
	return testenv.Of(events, "agent.tool_use")[0]["id"].(string)
}

type world struct{ *testenv.World }

// A worker that stalls past its lease and comes back changes nothing that its
// successor holds.
func TestAStalledWorkerIsFenced(t *testing.T) {
	for _, credential := range []string{"token", "key"} {
		t.Run(credential, func(t *testing.T) {
			t.Parallel() // most of it is waiting for a lease to lapse
			bearer := byToken
			if credential == "key" {
				bearer = byKey
			}
			w := world{testenv.Start(t, testenv.Options{})}
			shorten(t, w.World)
			session := w.Session(w.Agent(), testenv.Script(testenv.Say("go", testenv.Bash("true")), testenv.Say("done")))
			old := claim(t, w.World, session, bearer, true)
			call := w.call(session)
			// The lease of 10 s lapses; the successor's poll waits for it.
			next := claim(t, w.World, session, bearer, true)
			if next.work == old.work {
				t.Fatal("the second delivery has the first one's id")
			}

			if a := old.Beat(bearer(old)); credential == "token" && a.Status != http.StatusUnauthorized && a.Status != http.StatusForbidden && a.Status != http.StatusPreconditionFailed || a.Status == http.StatusOK {
				t.Errorf("the old worker beats: %d %s", a.Status, a.Raw)
			}
			old.Stop(bearer(old), true)
			if a := next.Beat(bearer(next)); a.Status != http.StatusOK || a.Body["lease_extended"] != true {
				t.Errorf("the successor's lease is harmed: %d %s", a.Status, a.Raw)
			}
			if credential == "token" {
				if a := old.Result(session, call, "old", old.token); a.Status == http.StatusOK {
					t.Errorf("the old worker posted: %s", a.Raw)
				}
			}
			if a := next.Result(session, call, "new", bearer(next)); a.Status != http.StatusOK {
				t.Fatalf("the successor cannot post: %d %s", a.Status, a.Raw)
			}
			if a := old.Result(session, call, "old", bearer(old)); a.Status == http.StatusOK {
				t.Errorf("a second result got in: %s", a.Raw)
			}
			if a := next.Result(session, call, "new", bearer(next)); a.Status != http.StatusOK {
				t.Errorf("the same result again: %d %s", a.Status, a.Raw)
			}
			events := w.Ended(session)
			checkLog(t, events)
			if got := testenv.Text(testenv.Of(events, "user.tool_result")[0]); got != "new" {
				t.Errorf("the accepted result is %q", got)
			}
		})
	}
}
