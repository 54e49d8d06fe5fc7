package httpapi

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

// endless is a JSON message of n bytes that is made while it is read.
func endless(n int64) io.Reader {
	return io.MultiReader(strings.NewReader(`{"events":[{"type":"user.message","content":[{"type":"text","text":"`),
		io.LimitReader(letters{}, n), strings.NewReader(`"}]}]}`))
}

type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	return len(p), nil
}

func TestBadInput(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		env, agent := w.environment("lab"), w.agent()
		sess := w.session(env.ID, agent.ID, "")
		closed := w.environment("closed")
		w.ok("POST", "/v1/environments/"+closed.ID+"/archive", nil, nil)
		var sessions api.Page[api.Session]
		w.ok("GET", "/v1/sessions?limit=1", nil, &sessions)
		events := "/v1/sessions/" + sess.ID + "/events"
		w.ok("POST", events, map[string]any{"events": []any{message("one"), message("two")}}, nil)
		var page api.EventPage
		w.ok("GET", events+"?limit=1", nil, &page)
		if page.NextPage == nil {
			t.Fatal("no cursor to misuse")
		}
		selfHosted := `"config":{"type":"self_hosted"}`
		newSession := func(more string) string {
			return fmt.Sprintf(`{"agent":%q,"environment_id":%q%s}`, agent.ID, env.ID, more)
		}
		text := func(s string) string {
			return `{"events":[{"type":"user.message","content":[{"type":"text","text":` + s + `}]}]}`
		}
		long := strings.Repeat("x", 600)
		pairs := `{"k0":""` // 17 of them
		for i := 1; i < 17; i++ {
			pairs += fmt.Sprintf(`,"k%d":""`, i)
		}
		pairs += "}"

		for _, tc := range []struct {
			name, method, path string
			body               any
			status             int
			field              string // in details.field
		}{
			{"no body", "POST", "/v1/environments", nil, 400, ""},
			{"not JSON", "POST", "/v1/environments", `{"name":`, 400, "name"},
			{"not an object", "POST", "/v1/environments", `["a"]`, 400, ""},
			{"null body", "POST", "/v1/environments", `null`, 400, "name"},
			{"trailing data", "POST", "/v1/environments", `{"name":"a",` + selfHosted + `} {}`, 400, ""},
			{"repeated field", "POST", "/v1/environments", `{"name":"a","name":"b",` + selfHosted + `}`, 400, "name"},
			{"unknown field", "POST", "/v1/environments", `{"name":"a","colour":"red",` + selfHosted + `}`, 400, "colour"},
			{"unknown field within", "POST", "/v1/environments", `{"name":"a","config":{"type":"self_hosted","size":1}}`, 400, "config.size"},
			{"wrong type", "POST", "/v1/environments", `{"name":1,` + selfHosted + `}`, 400, "name"},
			{"wrong type within", "POST", "/v1/environments", `{"name":"a",` + selfHosted + `,"metadata":{"k":1}}`, 400, "metadata.k"},
			{"invalid UTF-8", "POST", "/v1/environments", "{\"name\":\"a\xff\"," + selfHosted + "}", 400, "name"},
			{"lone surrogate", "POST", "/v1/environments", `{"name":"\ud800",` + selfHosted + `}`, 400, "name"},
			{"NUL in a name", "POST", "/v1/environments", `{"name":"a\u0000b",` + selfHosted + `}`, 400, "name"},
			{"NUL in metadata", "POST", "/v1/environments", `{"name":"a",` + selfHosted + `,"metadata":{"k":"\u0000"}}`, 400, "metadata.k"},
			{"too deep", "POST", "/v1/environments", `{"name":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`, 400, ""},
			{"no name", "POST", "/v1/environments", `{` + selfHosted + `}`, 400, "name"},
			{"no config", "POST", "/v1/environments", `{"name":"a"}`, 400, "config"},
			{"cloud", "POST", "/v1/environments", `{"name":"a","config":{"type":"cloud"}}`, 400, "config.type"},
			{"account scope", "POST", "/v1/environments", `{"name":"a","scope":"account",` + selfHosted + `}`, 400, "scope"},
			{"long metadata value", "POST", "/v1/environments", `{"name":"a",` + selfHosted + `,"metadata":{"k":"` + long + `"}}`, 400, "metadata.k"},
			{"17 pairs", "POST", "/v1/environments", `{"name":"a",` + selfHosted + `,"metadata":` + pairs + `}`, 400, "metadata"},
			{"unknown setting", "POST", "/v1/environments", `{"name":"a",` + selfHosted + `,"metadata":{"berth.speed":"9"}}`, 400, "metadata.berth.speed"},
			{"bad setting", "POST", "/v1/environments", `{"name":"a",` + selfHosted + `,"metadata":{"berth.lease_ttl_seconds":"5"}}`, 400, "metadata.berth.lease_ttl_seconds"},
			{"name taken", "POST", "/v1/environments", `{"name":"lab",` + selfHosted + `}`, 409, "name"},
			{"change to cloud", "POST", "/v1/environments/" + env.ID, `{"config":{"type":"cloud"}}`, 400, "config.type"},
			{"environment in use", "DELETE", "/v1/environments/" + env.ID, nil, 409, ""},

			{"agent without model", "POST", "/v1/agents", `{"name":"a"}`, 400, "model"},
			{"agent with bad effort", "POST", "/v1/agents", `{"name":"a","model":{"id":"m","effort":"huge"}}`, 400, "model.effort"},
			{"agent with a wrong effort", "POST", "/v1/agents", `{"name":"a","model":{"id":"m","effort":7}}`, 400, "model.effort"},
			{"agent with an unknown tool", "POST", "/v1/agents", `{"name":"a","model":"m","tools":[{"type":"toolset"}]}`, 400, "tools[0].type"},
			{"agent with an unknown tool config", "POST", "/v1/agents", `{"name":"a","model":"m","tools":[{"type":"agent_toolset_20260401","configs":[{"name":"rm"}]}]}`, 400, "tools[0].configs[0].name"},
			{"agent with an unknown policy", "POST", "/v1/agents", `{"name":"a","model":"m","tools":[{"type":"agent_toolset_20260401","default_config":{"permission_policy":{"type":"never"}}}]}`, 400, "tools[0].default_config.permission_policy.type"},
			{"agent with a dropped permission", "POST", "/v1/agents", `{"name":"a","model":"m","tools":[{"type":"agent_toolset_20260401","permission":"x"}]}`, 400, "tools[0].permission"},
			{"agent with skills", "POST", "/v1/agents", `{"name":"a","model":"m","skills":[{"type":"anthropic","skill_id":"xlsx"}]}`, 400, "skills"},
			{"agent version", "POST", "/v1/agents/" + agent.ID, `{"version":7,"name":"b"}`, 409, "version"},
			{"agent version 0", "GET", "/v1/agents/" + agent.ID + "?version=0", nil, 400, "version"},
			{"no such version", "GET", "/v1/agents/" + agent.ID + "?version=9", nil, 404, ""},

			{"session without agent", "POST", "/v1/sessions", `{"environment_id":"` + env.ID + `"}`, 400, "agent.type"},
			{"session with an environment as agent", "POST", "/v1/sessions", fmt.Sprintf(`{"agent":%q,"environment_id":%q}`, env.ID, env.ID), 400, "agent"},
			{"session with an agent as environment", "POST", "/v1/sessions", fmt.Sprintf(`{"agent":%q,"environment_id":%q}`, agent.ID, agent.ID), 400, "environment_id"},
			{"session in no environment", "POST", "/v1/sessions", fmt.Sprintf(`{"agent":%q,"environment_id":"env_none"}`, agent.ID), 400, "environment_id"},
			{"session with NUL as environment", "POST", "/v1/sessions", fmt.Sprintf(`{"agent":%q,"environment_id":"\u0000"}`, agent.ID), 400, "environment_id"},
			{"session in an archived environment", "POST", "/v1/sessions", fmt.Sprintf(`{"agent":%q,"environment_id":%q}`, agent.ID, closed.ID), 400, "environment_id"},
			{"session with NUL as agent", "POST", "/v1/sessions", `{"agent":"\u0000","environment_id":"` + env.ID + `"}`, 400, "agent"},
			{"session with resources", "POST", "/v1/sessions", newSession(`,"resources":[{"type":"file","file_id":"file_01"}]`), 400, "resources[0].type"},
			{"session with a budget", "POST", "/v1/sessions", newSession(`,"budget":{"type":"limit","max_list_cost":{"amount":"1","currency":"USD"}}`), 400, "budget"},
			{"session with vaults", "POST", "/v1/sessions", newSession(`,"vault_ids":["vlt_01"]`), 400, "vault_ids"},
			{"session with a result at its start", "POST", "/v1/sessions", newSession(`,"initial_events":[{"type":"user.interrupt"}]`), 400, "initial_events[0].type"},
			{"session with NUL in its title", "POST", "/v1/sessions", newSession(`,"title":"a\u0000"`), 400, "title"},
			{"session with an unknown model", "POST", "/v1/sessions", fmt.Sprintf(`{"agent":{"type":"agent_with_overrides","id":%q,"model":"gpt"},"environment_id":%q}`, agent.ID, env.ID), 400, "agent.model"},
			{"override without its type", "POST", "/v1/sessions", fmt.Sprintf(`{"agent":{"type":"agent","id":%q,"model":"scripted"},"environment_id":%q}`, agent.ID, env.ID), 400, "agent.type"},
			{"update of vaults", "POST", "/v1/sessions/" + sess.ID, `{"vault_ids":[]}`, 400, "vault_ids"},

			{"events missing", "POST", events, `{}`, 400, "events"},
			{"unknown event type", "POST", events, `{"events":[{"type":"user.message","content":[{"type":"text","text":"a"}]},{"type":"user.dance"}]}`, 400, "events[1].type"},
			{"server's event type", "POST", events, `{"events":[{"type":"agent.message","content":[]}]}`, 400, "events[0].type"},
			{"event without type", "POST", events, `{"events":[{}]}`, 400, "events[0].type"},
			{"unknown field in an event", "POST", events, `{"events":[{"type":"user.interrupt","why":"x"}]}`, 400, "events[0].why"},
			{"empty text", "POST", events, text(`""`), 400, "events[0].content[0].text"},
			{"wrong type in an event", "POST", events, text(`7`), 400, "events[0].content[0].text"},
			{"invalid UTF-8 in an event", "POST", events, text("\"\xc3\x28\""), 400, "events[0].content[0].text"},
			{"image of another kind", "POST", events, `{"events":[{"type":"user.message","content":[{"type":"image","source":{"type":"base64","media_type":"text/html","data":"aGk="}}]}]}`, 400, "events[0].content[0].source.media_type"},
			{"image that is no base64", "POST", events, `{"events":[{"type":"user.message","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"a@k="}}]}]}`, 400, "events[0].content[0].source.data"},
			{"image at a path", "POST", events, `{"events":[{"type":"user.message","content":[{"type":"image","source":{"type":"url","url":"file:///a.png"}}]}]}`, 400, "events[0].content[0].source.url"},
			{"result for a session's id", "POST", events, `{"events":[{"type":"user.tool_result","tool_use_id":"` + sess.ID + `","content":[]}]}`, 400, "events[0].tool_use_id"},
			{"result for nobody's call", "POST", events, `{"events":[{"type":"user.tool_result","tool_use_id":"sevt_01nothing","content":[]}]}`, 400, "events[0].tool_use_id"},
			{"51 events", "POST", events, `{"events":[` + strings.Repeat(`{"type":"user.interrupt"},`, 50) + `{"type":"user.interrupt"}]}`, 400, "events"},
			{"10,000 events", "POST", events, `{"events":[` + strings.Repeat(`{"type":"user.interrupt"},`, 9999) + `{"type":"user.interrupt"}]}`, 400, "events"},
			{"a result of 11 MiB", "POST", events, `{"events":[{"type":"user.tool_result","tool_use_id":"sevt_01a","content":[{"type":"text","text":"` + strings.Repeat("x", 11<<20) + `"}]}]}`, 413, "events[0]"},
			{"33 MB, announced", "POST", events, bytes.NewReader(make([]byte, 33<<20)), 413, ""},
			{"100 MB, unannounced", "POST", events, endless(100 << 20), 413, ""},

			{"garbage cursor", "GET", "/v1/sessions?page=abc", nil, 400, "page"},
			{"cursor of another list", "GET", "/v1/agents?page=" + *page.NextPage, nil, 400, "page"},
			{"cursor of another session", "GET", "/v1/sessions/" + w.session(env.ID, agent.ID, "").ID + "/events?page=" + *page.NextPage, nil, 400, "page"},
			{"cursor of another order", "GET", events + "?order=desc&page=" + *page.NextPage, nil, 400, "page"},
			{"cursor cut short", "GET", events + "?page=" + (*page.NextPage)[:len(*page.NextPage)-3], nil, 400, "page"},
			{"limit 0", "GET", "/v1/sessions?limit=0", nil, 400, "limit"},
			{"limit too high", "GET", "/v1/sessions?limit=101", nil, 400, "limit"},
			{"limit no number", "GET", events + "?limit=ten", nil, 400, "limit"},
			{"bad order", "GET", events + "?order=up", nil, 400, "order"},
			{"bad time", "GET", events + "?created_at[gte]=yesterday", nil, 400, "created_at[gte]"},
			{"bad status", "GET", "/v1/sessions?statuses[]=busy", nil, 400, "statuses"},
			{"bad status of threads", "GET", "/v1/sessions/" + sess.ID + "/threads?statuses[]=busy", nil, 400, "statuses"},
			{"filter by another kind", "GET", "/v1/sessions?agent_id=" + env.ID, nil, 400, "agent_id"},
			{"version without agent", "GET", "/v1/sessions?agent_version=1", nil, 400, "agent_version"},
			{"bad delta", "GET", events + "/stream?event_deltas[]=agent.tool_use", nil, 400, "event_deltas"},
			{"101 deltas", "GET", events + "/stream?" + strings.Repeat("event_deltas[]=agent.message&", 101), nil, 400, "event_deltas"},

			{"block_ms 0", "GET", "/v1/environments/" + env.ID + "/work/poll?block_ms=0", nil, 400, "block_ms"},
			{"block_ms 1000", "GET", "/v1/environments/" + env.ID + "/work/poll?block_ms=1000", nil, 400, "block_ms"},
			{"work metadata missing", "POST", "/v1/environments/" + env.ID + "/work/work_01a", `{}`, 400, "metadata"},
			{"no such work", "POST", "/v1/environments/" + env.ID + "/work/work_01a/ack", nil, 404, ""},

			{"session's id as environment", "GET", "/v1/environments/" + sess.ID, nil, 404, ""},
			{"environment's id as session", "GET", "/v1/sessions/" + env.ID, nil, 404, ""},
			{"agent's id as work", "GET", "/v1/environments/" + env.ID + "/work/" + agent.ID, nil, 404, ""},
			{"work in no environment", "GET", "/v1/environments/env_01nothing/work", nil, 404, ""},
			{"poll of no environment", "GET", "/v1/environments/env_01nothing/work/poll", nil, 404, ""},
			{"stats of no environment", "GET", "/v1/environments/env_01nothing/work/stats", nil, 404, ""},
			{"NUL in an id", "GET", "/v1/sessions/sesn_%00", nil, 404, ""},
			{"slash in an id", "GET", "/v1/sessions/sesn_a%2Fb", nil, 404, ""},
			{"events of no session", "POST", "/v1/sessions/sesn_01nothing/events", map[string]any{"events": []any{message("x")}}, 404, ""},
			{"stream of no session", "GET", "/v1/sessions/sesn_01nothing/events/stream", nil, 404, ""},
			{"a thread that is another's", "GET", "/v1/sessions/" + sess.ID + "/threads/sthr_01a", nil, 404, ""},
			{"a model", "GET", "/v1/models/gpt", nil, 404, ""},
		} {
			r := w.do(w.key, tc.method, tc.path, tc.body)
			if r.status != tc.status {
				t.Errorf("%s: %d %.300s, want %d", tc.name, r.status, r.body, tc.status)
				continue
			}
			e := r.failure(t)
			if f, _ := e.Error.Details["field"].(string); f != tc.field {
				t.Errorf("%s: field %q, want %q (%s)", tc.name, f, tc.field, e.Error.Message)
			} else if !strings.Contains(e.Error.Message, tc.field) {
				t.Errorf("%s: the message %q does not name the field", tc.name, e.Error.Message)
			}
			if tc.status == 409 && r.header.Get("X-Should-Retry") != "false" {
				t.Errorf("%s: a 409 that would be repeated", tc.name)
			}
		}

		// Nothing of all that was written.
		var envs api.Page[api.Environment]
		w.ok("GET", "/v1/environments", nil, &envs)
		var agents api.Page[api.Agent]
		w.ok("GET", "/v1/agents", nil, &agents)
		w.ok("GET", "/v1/sessions", nil, &sessions)
		if len(envs.Data) != 1 || len(agents.Data) != 1 || agents.Data[0].Version != 1 || len(sessions.Data) != 2 {
			t.Errorf("left behind: %d environments, %d agents, %d sessions", len(envs.Data), len(agents.Data), len(sessions.Data))
		}
		var after api.EventPage
		w.ok("GET", events+"?types[]=user.message&types=user.interrupt&types[]=user.tool_result", nil, &after)
		if len(after.Data) != 2 {
			t.Errorf("left behind: %d client events, want 2", len(after.Data))
		}
		if strings.Contains(w.logs.String(), "level=ERROR") {
			t.Errorf("bad input made errors of ours:\n%s", w.logs)
		}
	})
}

func TestLenientServerLetsUnknownFieldsPass(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t), func(c *Config) { c.Lenient = true })
	w.ok("POST", "/v1/environments", `{"name":"a","colour":"red","config":{"type":"self_hosted","size":1}}`, nil)
	if r := w.do(w.key, "POST", "/v1/environments", `{"name":1}`); r.status != 400 {
		t.Errorf("a wrong type passed: %d", r.status)
	}
}

func TestPanicIsAnEnvelope(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t), func(c *Config) { c.Models = nil })
	r := w.do(w.key, "GET", "/v1/models", nil)
	if e := r.failure(t); r.status != http.StatusInternalServerError || e.Error.Type != api.ErrAPI || strings.Contains(e.Error.Message, "nil") {
		t.Errorf("%d %s", r.status, r.body)
	}
	if !strings.Contains(w.logs.String(), r.header.Get("Request-Id")) {
		t.Error("the log does not name the request")
	}
}
