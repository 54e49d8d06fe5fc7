package httpapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

// matrix says, for every route, what an API key, an environment key and a
// sessions token of the item get: + for admitted, - for 403. It is the
// contract's acceptance matrix written out once more, by hand.
const matrix = `
POST   /v1/environments                                      + - -
GET    /v1/environments                                      + - -
GET    /v1/environments/{environment}                        + - -
POST   /v1/environments/{environment}                        + - -
DELETE /v1/environments/{environment}                        + - -
POST   /v1/environments/{environment}/archive                + - -
GET    /v1/environments/{environment}/work                   + + -
GET    /v1/environments/{environment}/work/poll              + + -
GET    /v1/environments/{environment}/work/stats             + + -
GET    /v1/environments/{environment}/work/{work}            + - -
POST   /v1/environments/{environment}/work/{work}            + - -
POST   /v1/environments/{environment}/work/{work}/ack        + + +
POST   /v1/environments/{environment}/work/{work}/heartbeat  + + +
POST   /v1/environments/{environment}/work/{work}/stop       + + +
POST   /v1/agents                                            + - -
GET    /v1/agents                                            + - -
GET    /v1/agents/{agent}                                    + - -
POST   /v1/agents/{agent}                                    + - -
POST   /v1/agents/{agent}/archive                            + - -
GET    /v1/agents/{agent}/versions                           + - -
POST   /v1/sessions                                          + - -
GET    /v1/sessions                                          + - -
GET    /v1/sessions/{session}                                + + +
POST   /v1/sessions/{session}                                + - -
DELETE /v1/sessions/{session}                                + - -
POST   /v1/sessions/{session}/archive                        + - -
GET    /v1/sessions/{session}/events                         + + +
POST   /v1/sessions/{session}/events                         + + +
GET    /v1/sessions/{session}/events/stream                  + + +
GET    /v1/sessions/{session}/threads                        + + +
GET    /v1/sessions/{session}/threads/{thread}               + + +
POST   /v1/sessions/{session}/threads/{thread}/archive       + - -
GET    /v1/sessions/{session}/threads/{thread}/events        + + +
GET    /v1/sessions/{session}/threads/{thread}/stream        + + +
GET    /v1/sessions/{session}/resources                      + + +
POST   /v1/sessions/{session}/resources                      + - -
GET    /v1/sessions/{session}/resources/{resource}           + + +
POST   /v1/sessions/{session}/resources/{resource}           + - -
DELETE /v1/sessions/{session}/resources/{resource}           + - -
GET    /v1/models                                            + - -
GET    /v1/models/{model...}                                 + - -
POST   /v1/berth/keys                                        + - -
GET    /v1/berth/keys                                        + - -
DELETE /v1/berth/keys/{key}                                  + - -
`

// claimed is a session whose item was polled and acked.
type claimed struct {
	env    api.Environment
	sess   api.Session
	item   api.Work
	worker string // environment key
	own    string // sessions token
}

func (w *world) claim(name, agent string) claimed {
	w.t.Helper()
	c := claimed{env: w.environment(name)}
	c.worker = w.environmentKey(c.env.ID)
	c.sess = w.session(c.env.ID, agent, "")
	w.do(c.worker, "GET", "/v1/environments/"+c.env.ID+"/work/poll?block_ms=999", nil).json(w.t, &c.item)
	if c.item.Secret == nil {
		w.t.Fatal("nothing was polled")
	}
	c.own = token(w.t, c.item)
	if r := w.do(c.worker, "POST", "/v1/environments/"+c.env.ID+"/work/"+c.item.ID+"/ack", nil); r.status != 200 {
		w.t.Fatalf("ack: %s", r.body)
	}
	return c
}

// probe asks with a body that no route accepts, so that nothing happens, and
// gives the status. Streams are asked for a preview that does not exist.
func (w *world) probe(cred, method, path string) int {
	w.t.Helper()
	if strings.HasSuffix(path, "/stream") {
		path += "?event_deltas[]=nothing"
	} else if method == "GET" {
		path += "?limit=x&block_ms=x&version=x"
	}
	var body any
	if method == "POST" {
		body = `{"no_such_field":1}`
	}
	return w.do(cred, method, path, body).status
}

func TestAcceptanceMatrix(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t))
	agent := w.agent()
	mine, other := w.claim("mine", agent.ID), w.claim("other", agent.ID)
	var threads api.Page[api.SessionThread]
	w.ok("GET", "/v1/sessions/"+mine.sess.ID+"/threads", nil, &threads)
	fill := func(c claimed, pattern string) string {
		return strings.NewReplacer("{environment}", c.env.ID, "{work}", c.item.ID, "{session}", c.sess.ID, "{agent}", agent.ID,
			"{thread}", threads.Data[0].ID, "{resource}", "sesrsc_01nothing", "{model...}", "scripted", "{key}", "nothing1").Replace(pattern)
	}
	covered := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSpace(matrix), "\n") {
		f := strings.Fields(line)
		method, pattern, marks := f[0], f[1], f[2:]
		covered[method+" "+pattern] = true
		path := fill(mine, pattern)
		for i, cred := range []string{w.key, mine.worker, mine.own} {
			if method == "DELETE" && i == 0 {
				continue // would do it
			}
			status := w.probe(cred, method, path)
			admitted := status != 401 && status != 403
			if admitted != (marks[i] == "+") || status >= 500 {
				t.Errorf("%s %s as credential %d: %d, want it %s", method, pattern, i, status, marks[i])
			}
		}
		// Somebody else's environment, item and session.
		for i, cred := range []string{other.worker, other.own} {
			if status := w.probe(cred, method, path); status != 403 && status != 404 {
				t.Errorf("%s %s with a foreign credential %d: %d", method, pattern, i, status)
			}
		}
		if status := w.probe("", method, path); status != 401 {
			t.Errorf("%s %s without a credential: %d", method, pattern, status)
		}
		for _, wrong := range []string{"sk-ant-oat01-x", mine.own[:len(mine.own)-1] + "x", mine.worker + "x", "x"} {
			if wrong == mine.own {
				continue
			}
			if status := w.probe(wrong, method, path); status != 401 {
				t.Errorf("%s %s as %q: %d", method, pattern, wrong, status)
			}
		}
	}
	for _, r := range (&server{}).routes() {
		if !covered[r.pattern] {
			t.Errorf("%s is not in the matrix", r.pattern)
		}
	}
	if strings.Contains(w.logs.String(), "sk-berth-") {
		t.Error("a credential is in the log")
	}
}

func TestHowCredentialsArePresented(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t))
	c := w.claim("lab", w.agent().ID)
	session := "/v1/sessions/" + c.sess.ID
	for _, tc := range []struct {
		name, path  string
		key, bearer string
		want        int
	}{
		{"API key as x-api-key", "/v1/environments", w.key, "", 200},
		{"API key as bearer", "/v1/environments", "", "Bearer " + w.key, 200},
		{"scheme in any case", "/v1/environments", "", "bearer " + w.key, 200},
		{"environment key as x-api-key", session, c.worker, "", 401},
		{"sessions token as x-api-key", session, c.own, "", 401},
		{"another scheme", session, "", "Basic " + w.key, 401},
		{"nobody, and an id of another kind", "/v1/sessions/env_01x", "", "", 401},
		{"an API key, and an id of another kind", "/v1/sessions/env_01x", w.key, "", 404},
		{"both: the bearer counts", "/v1/environments", w.key, "Bearer " + c.worker, 403},
		{"both, and the key is nonsense", session, "nonsense", "Bearer " + c.worker, 200},
		{"both on a stream", session + "/events/stream", w.key, "Bearer " + c.worker, 400},
		{"both on a thread's stream", session + "/threads/sthr_01x/stream", w.key, "Bearer " + w.key, 400},
	} {
		req, err := http.NewRequest("GET", w.url+tc.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tc.key != "" {
			req.Header.Set("x-api-key", tc.key)
		}
		if tc.bearer != "" {
			req.Header.Set("Authorization", tc.bearer)
		}
		if r := w.send(req); r.status != tc.want {
			t.Errorf("%s: %d %s, want %d", tc.name, r.status, r.body, tc.want)
		}
	}
}

func TestRevokedKeyIsOutAtOnce(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t))
	var made api.Key
	w.ok("POST", "/v1/berth/keys", map[string]any{"type": "api", "name": "second"}, &made)
	if made.Key == "" || made.Type != "api" {
		t.Fatalf("made %+v", made)
	}
	if r := w.do(made.Key, "GET", "/v1/environments", nil); r.status != 200 {
		t.Fatalf("the new key: %d", r.status)
	}
	var list api.Page[api.Key]
	w.ok("GET", "/v1/berth/keys", nil, &list)
	if len(list.Data) != 2 || list.Data[0].Key+list.Data[1].Key != "" {
		t.Errorf("listed %+v", list.Data)
	}
	w.ok("DELETE", "/v1/berth/keys/"+made.ID, nil, nil)
	if r := w.do(made.Key, "GET", "/v1/environments", nil); r.status != 401 {
		t.Errorf("the revoked key: %d", r.status)
	}
	if r := w.do(w.key, "DELETE", "/v1/berth/keys/unknown1", nil); r.status != 404 {
		t.Errorf("an unknown key: %d", r.status)
	}
}

// A worker whose delivery went to another is out for everything at once, and
// learns by beat, ack and stop what happened.
func TestSupersededToken(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		env := w.environment("lab")
		worker := w.environmentKey(env.ID)
		sess := w.session(env.ID, w.agent().ID, "hello")
		base := "/v1/environments/" + env.ID + "/work/"
		var first, second api.Work
		w.do(worker, "GET", base+"poll?block_ms=999", nil).json(t, &first)
		old := token(t, first)
		stream := w.listen(old, "/v1/sessions/"+sess.ID+"/events/stream")
		w.do(worker, "GET", base+"poll?block_ms=999&reclaim_older_than_ms=0", nil).json(t, &second)
		if second.ID == "" || second.ID == first.ID {
			t.Fatalf("reclaimed %q after %q", second.ID, first.ID)
		}
		if r := w.do(old, "GET", "/v1/sessions/"+sess.ID, nil); r.status != 401 {
			t.Errorf("get by a superseded token: %d %s", r.status, r.body)
		}
		if r := w.do(old, "POST", "/v1/sessions/"+sess.ID+"/events", map[string]any{"events": []any{message("x")}}); r.status != 401 {
			t.Errorf("post by a superseded token: %d", r.status)
		}
		if r := w.do(old, "POST", base+first.ID+"/heartbeat?expected_last_heartbeat=NO_HEARTBEAT", nil); r.status != 412 {
			t.Errorf("beat by a superseded token: %d %s", r.status, r.body)
		}
		if r := w.do(old, "POST", base+first.ID+"/ack", nil); r.status != 409 || r.header.Get("X-Should-Retry") != "false" {
			t.Errorf("ack by a superseded token: %d %s", r.status, r.body)
		}
		if r := w.do(old, "POST", base+first.ID+"/stop", `{"force":true}`); r.status != 200 {
			t.Errorf("stop by a superseded token: %d %s", r.status, r.body)
		}
		if r := w.do(old, "POST", base+second.ID+"/stop", `{"force":true}`); r.status != 403 {
			t.Errorf("stop of the successor by a superseded token: %d %s", r.status, r.body)
		}
		// The old stream shows nothing of what comes now: it ends.
		w.ok("POST", "/v1/sessions/"+sess.ID+"/events", map[string]any{"events": []any{message("secret")}}, nil)
		for _, f := range stream.ended(t) {
			if strings.Contains(string(f.data), "secret") {
				t.Errorf("the superseded stream showed %s", f.data)
			}
		}
		var got api.Work
		w.ok("GET", base+second.ID, nil, &got)
		if got.State != api.WorkQueued {
			t.Errorf("the successor is %s", got.State)
		}
	})
}

// A worker's stream says that its session was archived, though the worker's
// item ends by the same transition: clients that read to that end let go at
// once, others come back only to be refused.
func TestWorkerHearsThatItsSessionEnded(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		env := w.environment("lab")
		sess := w.session(env.ID, w.agent().ID, "hello")
		l := w.listen(w.key, "/v1/sessions/"+sess.ID+"/events/stream", "Last-Event-ID", "0")
		l.until(t, api.TypeSessionStatusIdle)
		w.ok("POST", "/v1/sessions/"+sess.ID+"/events", map[string]any{"events": []any{message("again")}}, nil)
		var item api.Work
		w.do(w.environmentKey(env.ID), "GET", "/v1/environments/"+env.ID+"/work/poll?block_ms=999", nil).json(t, &item)
		stream := w.listen(token(t, item), "/v1/sessions/"+sess.ID+"/events/stream")
		l.until(t, api.TypeSessionStatusIdle)
		w.ok("POST", "/v1/sessions/"+sess.ID+"/archive", map[string]any{}, nil)
		tail := stream.ended(t)
		if len(tail) == 0 || tail[len(tail)-1].event != api.TypeSessionStatusTerminated {
			t.Errorf("the worker's stream ended with %v", tail)
		}
	})
}

// A worker that stalls in the middle of its post and comes back after its
// delivery went to another does not get its result in.
func TestPostThatOutlivesItsLease(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		env := w.environment("lab")
		worker := w.environmentKey(env.ID)
		sess := w.session(env.ID, w.agent().ID, script)
		l := w.listen(w.key, "/v1/sessions/"+sess.ID+"/events/stream", "Last-Event-ID", "0")
		var call struct {
			ID string `json:"id"`
		}
		for _, f := range l.until(t, api.TypeAgentToolUse) {
			if f.event == api.TypeAgentToolUse {
				if err := json.Unmarshal(f.data, &call); err != nil {
					t.Fatal(err)
				}
			}
		}
		base := "/v1/environments/" + env.ID + "/work/"
		var item, next api.Work
		w.do(worker, "GET", base+"poll?block_ms=999", nil).json(t, &item)

		body, err := json.Marshal(map[string]any{"events": []any{map[string]any{"type": "user.tool_result", "tool_use_id": call.ID,
			"content": []any{map[string]any{"type": "text", "text": "late"}}}}})
		if err != nil {
			t.Fatal(err)
		}
		begun := make(chan struct{})
		rd, wr := io.Pipe()
		post := make(chan reply, 1)
		go func() { post <- w.do(token(t, item), "POST", "/v1/sessions/"+sess.ID+"/events", &begins{rd, begun}) }()
		<-begun // the request's head has left
		wr.Write(body[:len(body)/2])
		// Once the first half has been taken the request was admitted, or is
		// refused at its head: both will do.
		w.do(worker, "GET", base+"poll?block_ms=999&reclaim_older_than_ms=0", nil).json(t, &next)
		if next.ID == "" {
			t.Fatal("nothing was reclaimed")
		}
		wr.Write(body[len(body)/2:])
		wr.Close()
		if r := <-post; r.status != 401 {
			t.Errorf("a post that began before: %d %s", r.status, r.body)
		}
		if r := w.do(token(t, next), "POST", "/v1/sessions/"+sess.ID+"/events", string(body)); r.status != 200 {
			t.Errorf("the successor's post: %d %s", r.status, r.body)
		}
	})
}

// begins is a body that says when it is first read.
type begins struct {
	io.Reader
	at chan struct{}
}

func (b *begins) Read(p []byte) (int, error) {
	if b.at != nil {
		close(b.at)
		b.at = nil
	}
	return b.Reader.Read(p)
}

func TestMethodsAndRoutes(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t))
	for _, tc := range []struct {
		method, path string
		want         int
		allow        string
	}{
		{"PUT", "/v1/environments", 405, "GET, POST"},
		{"DELETE", "/v1/agents/agent_01a", 405, "GET, POST"},
		{"PATCH", "/v1/sessions/sesn_01a/events", 405, "GET, POST"},
		{"HEAD", "/v1/environments/env_01a/work/poll", 405, "GET, POST"},
		{"GET", "/v1/nothing", 404, ""},
		{"GET", "/", 404, ""},
		{"GET", "/v1//environments", 404, ""},
		{"GET", "/v1/environments/", 404, ""},
		{"GET", "/v1/environments/../agents", 404, ""},
	} {
		r := w.do(w.key, tc.method, tc.path, nil)
		if tc.method != "HEAD" { // whose answer has no body
			r.failure(t)
		}
		if r.status != tc.want || r.header.Get("Allow") != tc.allow {
			t.Errorf("%s %s: %d, Allow %q", tc.method, tc.path, r.status, r.header.Get("Allow"))
		}
	}
}

func TestRateLimit(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t), func(c *Config) { c.RatePerMinute = 20 })
	var refused reply
	n := 0
	for ; n < 20 && refused.status == 0; n++ {
		if r := w.do(w.key, "GET", "/v1/models", nil); r.status == 429 {
			refused = r
		}
	}
	if refused.status == 0 || n < 3 {
		t.Fatalf("the limit came after %d calls", n)
	}
	if e := refused.failure(t); e.Error.Type != api.ErrRateLimit || refused.header.Get("Retry-After") == "" || refused.header.Get("Retry-After-Ms") == "" {
		t.Errorf("%v %s", refused.header, refused.body)
	}
	second, _, err := w.keys.Create(t.Context(), plane.KeyAPI, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if r := w.do(second, "GET", "/v1/models", nil); r.status != 200 {
		t.Errorf("another credential: %d", r.status)
	}
}

func TestCapOnStreams(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t), func(c *Config) { c.MaxStreams = 2 })
	sess := w.session(w.environment("lab").ID, w.agent().ID, "")
	path := "/v1/sessions/" + sess.ID + "/events/stream"
	for range 2 {
		w.listen(w.key, path)
	}
	if r := w.do(w.key, "GET", path, nil); r.status != 429 || r.failure(t).Error.Type != api.ErrRateLimit {
		t.Errorf("the third stream: %d %s", r.status, fmt.Sprint(r.header))
	}
}
