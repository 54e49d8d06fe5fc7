package turn_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
	"github.com/berthdev/berth/internal/turn"
)

const twoCalls = `{"text":"both","tools":[` + bash + `,` + bash + `]},{"text":"{{result 0}} {{result 1}}"}`

func custom(name string) api.Tool {
	return api.Tool{Type: api.ToolCustom, Name: name, Description: "d", InputSchema: json.RawMessage(`{"type":"object"}`)}
}

func toolset(policy string, off ...string) api.Tool {
	t := api.Tool{Type: api.ToolAgentToolset, DefaultConfig: &api.ToolConfig{PermissionPolicy: &api.PermissionPolicy{Type: policy}}}
	no := false
	for _, name := range off {
		t.Configs = append(t.Configs, api.ToolConfig{Name: name, Enabled: &no})
	}
	return t
}

// tail gives the types after the nth event.
func tail(l []api.Event, n int) []string { return types(l[n:]) }

func TestEachPartialAnswerNamesTheRest(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		id := w.create(agent(), script(twoCalls))
		l := w.idle(id, api.StopRequiresAction)
		calls := open(l)
		if len(calls) != 2 {
			t.Fatal(calls)
		}
		n := len(l)
		w.send(id, result(calls[1], "second"))
		l = w.list(id)
		equal(t, tail(l, n), []string{"user.tool_result", "session.thread_status_idle", "session.usage", "session.status_idle"})
		equal(t, open(l), calls[:1])
		if s := w.session(id); s.Turn != plane.TurnCalls || s.Status != api.SessionIdle {
			t.Fatalf("%s, %s", s.Turn, s.Status)
		}
		w.send(id, result(calls[0], "first"))
		equal(t, texts(w.idle(id, api.StopEndTurn)), []string{"both", "first second"})
	})
}

func TestBothAnswersInOneSend(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t))
	id := w.create(agent(), script(twoCalls))
	l := w.idle(id, api.StopRequiresAction)
	n := len(l)
	w.send(id, result(open(l)[0], "a"), result(open(l)[1], "b"))
	l = w.idle(id, api.StopEndTurn)
	equal(t, tail(l, n)[:4], []string{"user.tool_result", "user.tool_result", "session.status_running", "session.thread_status_running"})
}

func TestARepeatedResultIsTheStoredOne(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		id := w.create(agent(), script(twoCalls))
		calls := open(w.idle(id, api.StopRequiresAction))
		first := w.send(id, result(calls[0], "a"))[0].Head()
		n := len(w.list(id))
		again := w.send(id, result(calls[0], "a"))[0].Head()
		if again.ID != first.ID || !again.ProcessedAt.Equal(*first.ProcessedAt) || len(w.list(id)) != n {
			t.Fatalf("the repeat is %+v, first %+v", again, first)
		}
		// is_error false and absent say the same.
		w.send(id, `{"content":[{"text":"a","type":"text"}],"tool_use_id":`+quote(calls[0])+`,"type":"user.tool_result"}`)
		w.refused(id, plane.Invalid, calls[0], result(calls[0], "b"))
		// Twice within one request.
		twice := w.send(id, result(calls[1], "c"), result(calls[1], "c"))
		if twice[0].Head().ID != twice[1].Head().ID {
			t.Error("two events for one result")
		}
		l := w.idle(id, api.StopEndTurn)
		if got := len(slices.DeleteFunc(types(l), func(s string) bool { return s != "user.tool_result" })); got != 2 {
			t.Errorf("%d results in the log", got)
		}
		// Also after the turn, when nothing waits any more.
		if w.send(id, result(calls[1], "c"))[0].Head().ID != twice[0].Head().ID {
			t.Error("a late repeat is another event")
		}
	})
}

func TestConfirmations(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		id := w.create(agent(toolset("always_ask")), script(twoCalls))
		l := w.idle(id, api.StopRequiresAction)
		calls := open(l)
		use := l[slices.Index(types(l), "agent.tool_use")].(*api.AgentToolUse)
		if use.EvaluatedPermission != api.PermissionAsk || use.Evaluation.Type != "always_ask" {
			t.Fatalf("%+v", use)
		}
		w.refused(id, plane.Invalid, "user.tool_confirmation", result(calls[0], "too early"))
		w.send(id, confirm(calls[0], "allow"))
		equal(t, open(w.list(id)), calls)
		if w.send(id, confirm(calls[0], "allow"))[0].Head().ID == "" {
			t.Error("a repeated confirmation has no id")
		}
		w.refused(id, plane.Invalid, "already confirmed with allow", confirm(calls[0], "deny"))
		w.send(id, `{"type":"user.tool_confirmation","tool_use_id":`+quote(calls[1])+`,"result":"deny","deny_message":"not today"}`)
		l = w.list(id)
		equal(t, open(l), calls[:1])
		denial := l[slices.Index(types(l), "agent.tool_result")].(*api.AgentToolResult)
		if denial.ToolUseID != calls[1] || denial.IsError == nil || !*denial.IsError || !strings.Contains(denial.Content[0].Text, "not today") {
			t.Fatalf("%+v", denial)
		}
		w.refused(id, plane.Invalid, "denied", result(calls[1], "x"))
		w.refused(id, plane.Invalid, "already confirmed with deny", confirm(calls[1], "allow"))
		w.send(id, result(calls[0], "ran"))
		got := texts(w.idle(id, api.StopEndTurn))
		if len(got) != 2 || !strings.HasPrefix(got[1], "ran The user did not allow") {
			t.Errorf("%q", got)
		}
	})
}

// However far away the confirmation is from its call, and from now.
func TestAConfirmationIsFoundAmongThousands(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		id := w.create(agent(toolset("always_ask")), script(twoCalls))
		calls := open(w.idle(id, api.StopRequiresAction))
		others := func() {
			must(t, st.Update(ctx(t), func(tx store.Tx) error {
				s, err := tx.LockSession(id)
				if err != nil {
					return err
				}
				for range 1001 {
					c := &api.UserToolConfirmation{EventHead: api.EventHead{Type: api.TypeUserToolConfirmation}, ToolUseID: "sevt_other", Result: "deny"}
					if _, err := w.log.Append(tx, &s, c); err != nil {
						return err
					}
				}
				return tx.UpdateSession(s)
			}))
		}
		others()
		first := w.send(id, confirm(calls[0], "allow"))[0].Head().ID
		others()
		if again := w.send(id, confirm(calls[0], "allow"))[0].Head().ID; again != first {
			t.Errorf("the repeat is %s, the confirmation %s", again, first)
		}
		w.refused(id, plane.Invalid, "already confirmed with allow", confirm(calls[0], "deny"))
	})
}

func TestDenyOfTheLastCallGoesOn(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t))
	id := w.create(agent(toolset("auto")), script(`{"tools":[`+bash+`]},{"text":"well"}`))
	l := w.idle(id, api.StopRequiresAction)
	use := l[slices.Index(types(l), "agent.tool_use")].(*api.AgentToolUse)
	if v := use.Evaluation; use.EvaluatedPermission != api.PermissionAsk || v.Type != "auto" || v.EvaluatedPermission.ReasonCode != "indeterminate" {
		t.Fatalf("%+v", use)
	}
	w.send(id, confirm(open(l)[0], "deny"))
	equal(t, texts(w.idle(id, api.StopEndTurn)), []string{"well"})
}

func TestToolsThatMayNotRunAreRefusedAndTheTurnGoesOn(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t))
	id := w.create(agent(toolset("always_allow", "bash")), script(`{"tools":[`+bash+`,{"name":"teleport"},{"name":"web_search","input":{"query":"x"}}]},{"text":"{{result 0}}|{{result 1}}|{{result 2}}"}`))
	l := w.idle(id, api.StopEndTurn)
	got := types(l)
	i := slices.Index(got, "agent.tool_use")
	equal(t, got[i:i+8], []string{"agent.tool_use", "agent.tool_result", "agent.tool_use", "agent.tool_result", "agent.tool_use", "agent.tool_result", "span.model_request_end", "span.model_request_start"})
	use := l[i].(*api.AgentToolUse)
	if use.EvaluatedPermission != api.PermissionDeny || use.Evaluation != nil {
		t.Errorf("%+v", use)
	}
	if said := texts(l)[0]; !strings.Contains(said, "bash is not enabled") || !strings.Contains(said, "no tool named teleport") || !strings.Contains(said, "web_search") {
		t.Error(said)
	}
	w.refused(id, plane.Invalid, "denied", result(use.ID, "x"))
}

func TestCustomTools(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t))
	id := w.create(agent(custom("weather"), toolset("always_allow")), script(`{"tools":[{"name":"weather","input":{"city":"Köln"}},`+bash+`]},{"text":"{{result 0}}, {{result 1}}"}`))
	l := w.idle(id, api.StopRequiresAction)
	calls := open(l)
	use := l[slices.Index(types(l), "agent.custom_tool_use")].(*api.AgentCustomToolUse)
	if use.ID != calls[0] || string(use.Input) != `{"city":"Köln"}` {
		t.Fatalf("%+v", use)
	}
	answer := func(id string) string {
		return `{"type":"user.custom_tool_result","custom_tool_use_id":` + quote(id) + `,"content":[{"type":"text","text":"rain"}]}`
	}
	w.refused(id, plane.Invalid, "events[0].tool_use_id", result(calls[0], "x"))
	w.refused(id, plane.Invalid, "events[0].custom_tool_use_id", answer(calls[1]))
	w.refused(id, plane.Invalid, "custom tool use", confirm(calls[0], "allow"))
	w.send(id, answer(calls[0]), result(calls[1], "files"))
	equal(t, texts(w.idle(id, api.StopEndTurn)), []string{"rain, files"})
}

func TestAMessageAmidCallsWaitsForThem(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		id := w.create(agent(), script(`{"tools":[`+bash+`]},{"text":"after {{result 0}}"}`))
		calls := open(w.idle(id, api.StopRequiresAction))
		sent := w.send(id, message("also this"))[0]
		if sent.Head().ProcessedAt != nil {
			t.Fatal("taken up at once")
		}
		l := w.list(id)
		if last := l[len(l)-1]; last.Head().ID != sent.Head().ID {
			t.Fatal("a queued message is not last")
		}
		w.send(id, result(calls[0], "ls"))
		l = w.idle(id, api.StopEndTurn)
		got := types(l)
		i := slices.Index(got, "user.tool_result")
		equal(t, got[i:], []string{"user.tool_result", "session.status_running", "session.thread_status_running", "user.message",
			"span.model_request_start", "agent.message", "span.model_request_end", "session.thread_status_idle", "session.usage", "session.status_idle"})
		inOrder(t, w.rows(id))
	})
}

func TestInterruptVoidsOpenCalls(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		id := w.create(agent(), script(twoCalls))
		l := w.idle(id, api.StopRequiresAction)
		calls, n := open(l), len(l)
		w.send(id, result(calls[0], "a"))
		n += 4
		w.send(id, interrupt)
		l = w.list(id)
		equal(t, tail(l, n), []string{"user.interrupt", "session.thread_status_idle", "session.usage", "session.status_idle"})
		if s := w.session(id); s.StopReason != api.StopEndTurn || s.Turn != plane.TurnRest {
			t.Fatalf("%+v", s.StopReason)
		}
		if l[n].Head().ProcessedAt == nil {
			t.Error("the interrupt has no time")
		}
		w.refused(id, plane.Invalid, "interrupt", result(calls[1], "late"))
		w.send(id, result(calls[0], "a")) // what was accepted stays so
		w.send(id, message("go on"))
		equal(t, texts(w.idle(id, api.StopEndTurn)), []string{"both", "a The call was interrupted before it had a result."})
	})
}

func TestInterruptAndMessageInOneSend(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t))
	id := w.create(agent(), script(`{"tools":[`+bash+`]},{"text":"next"}`))
	l := w.idle(id, api.StopRequiresAction)
	n := len(l)
	w.send(id, interrupt, message("instead"))
	l = w.until(id, "the next turn's end", func(l []api.Event, s plane.Session) bool { return len(texts(l)) == 1 && s.Status == api.SessionIdle })
	equal(t, tail(l, n)[:8], []string{"user.interrupt", "session.thread_status_idle", "session.usage", "session.status_idle",
		"user.message", "session.status_running", "session.thread_status_running", "span.model_request_start"})
}

func TestInterruptOnRestChangesNothingElse(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t))
	id := w.create(agent(), "")
	w.send(id, interrupt)
	equal(t, types(w.list(id)), []string{"user.interrupt"})
	w.refused(id, plane.Invalid, "session_thread_id", `{"type":"user.interrupt","session_thread_id":"sthr_other"}`)
	w.send(id, `{"type":"user.interrupt","session_thread_id":`+quote(w.session(id).ThreadID)+`}`)
}

func TestWhatIsRefused(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		id := w.create(agent(), script(`{"tools":[`+bash+`]}`))
		l := w.idle(id, api.StopRequiresAction)
		call := open(l)[0]
		thinking := l[0].Head().ID
		many := make([]string, 51)
		for i := range many {
			many[i] = message("x")
		}
		for _, tc := range []struct {
			words  string
			events []string
		}{
			{"events: needs at least one event", nil},
			{"events: 51 events", many},
			{"events[0]: ", []string{`[]`}},
			{"events[0].type: is required", []string{`{}`}},
			{`unknown event type "user.massage"`, []string{`{"type":"user.massage"}`}},
			{"written by the server", []string{`{"type":"session.status_idle"}`}},
			{"events[1].type", []string{message("fine"), `{"type":7}`}},
			{"events[0].content: ", []string{`{"type":"user.message"}`}},
			{"events[0].content: ", []string{`{"type":"user.message","content":[]}`}},
			{"events[0].content: wrong type", []string{`{"type":"user.message","content":"hi"}`}},
			{"events[0].content[0].text: must not be empty", []string{`{"type":"user.message","content":[{"type":"text","text":""}]}`}},
			{"events[0].content[1].type", []string{`{"type":"user.message","content":[{"type":"text","text":"a"},{"type":"video"}]}`}},
			{"events[0].content[0].source", []string{`{"type":"user.message","content":[{"type":"image"}]}`}},
			{"file sources are not supported", []string{`{"type":"user.message","content":[{"type":"image","source":{"type":"file","file_id":"file_1"}}]}`}},
			{"events[0].content[0].title: does not belong", []string{`{"type":"user.message","content":[{"type":"text","text":"a","title":"b"}]}`}},
			{"events[0].content[0].txt: unknown field", []string{`{"type":"user.message","content":[{"type":"text","txt":"a"}]}`}},
			{"events[0].id: unknown field", []string{`{"type":"user.message","id":"sevt_1","content":[{"type":"text","text":"a"}]}`}},
			{"events[0].processed_at: unknown field", []string{`{"type":"user.interrupt","processed_at":"2026-01-01T00:00:00Z"}`}},
			{"events[0].session_thread_id: unknown field", []string{strings.Replace(result(call, "x"), "{", `{"session_thread_id":"sthr_1",`, 1)}},
			{"events[0].tool_use_id: is required", []string{`{"type":"user.tool_result"}`}},
			{"not the id of an event", []string{result("toolu_1", "x")}},
			{"not a tool use of this session", []string{result("sevt_01nope", "x")}},
			{"not a tool use of this session", []string{result(thinking, "x")}},
			{"events[0].content[0].text: must not be empty", []string{result(call, "")}},
			{"events[0].result: must be allow or deny", []string{confirm(call, "maybe")}},
			{"only allowed with result deny", []string{strings.Replace(confirm(call, "allow"), "{", `{"deny_message":"x",`, 1)}},
			{"did not ask", []string{confirm(call, "allow")}},
			{"not supported by this server yet", []string{`{"type":"user.define_outcome","description":"d","rubric":{"type":"text","content":"c"}}`}},
			{"not supported by this server yet", []string{message("a"), `{"type":"system.message","content":[{"type":"text","text":"s"}]}`}},
			{"valid UTF-8", []string{"{\"type\":\"user.message\",\"content\":[{\"type\":\"text\",\"text\":\"\xff\"}]}"}},
			{"events[1]", []string{result(call, "fine"), result(call, "not fine")}}, // all or none
		} {
			w.refused(id, plane.Invalid, tc.words, tc.events...)
		}
		w.refused(id, plane.TooLarge, "events[0]", result(call, strings.Repeat("x", plane.MaxToolResult)))
		w.refused("sesn_01nope", plane.NotFound, "", message("x"))
		// A call of another session.
		other := w.create(agent(), script(`{"tools":[`+bash+`]}`))
		w.refused(id, plane.Invalid, "not a tool use of this session", result(open(w.idle(other, api.StopRequiresAction))[0], "x"))

		archived := w.create(agent(), "")
		if _, err := w.r.Archive(ctx(t), archived); err != nil {
			t.Fatal(err)
		}
		w.refused(archived, plane.Conflict, "archived", message("x"))
		ended := w.create(agent(), "")
		if _, err := w.r.Terminate(ctx(t), ended); err != nil {
			t.Fatal(err)
		}
		w.refused(ended, plane.Invalid, "terminated", message("x"))
	})
}

func TestCreate(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		s, err := w.r.Create(ctx(t), turn.NewSession{EnvironmentID: w.env, Agent: agent()})
		must(t, err)
		if s.Status != api.SessionIdle || len(w.list(s.ID)) != 0 || s.ThreadID == "" || s.Metadata == nil {
			t.Fatalf("%+v", s.Session)
		}
		for words, n := range map[string]turn.NewSession{
			"initial_events[0].type":           {EnvironmentID: w.env, InitialEvents: raws(interrupt)},
			"initial_events[1].content":        {EnvironmentID: w.env, InitialEvents: raws(message("x"), `{"type":"user.message","content":[]}`)},
			"environment":                      {EnvironmentID: "env_01nope"},
			"not supported by this server yet": {EnvironmentID: w.env, InitialEvents: raws(`{"type":"user.define_outcome","description":"d","rubric":{"type":"text","content":"c"}}`)},
		} {
			n.Agent = agent()
			if _, err := w.r.Create(ctx(t), n); err == nil || !strings.Contains(err.Error(), words) {
				t.Errorf("%v: %v", words, err)
			}
		}
		must(t, st.Update(ctx(t), func(tx store.Tx) error {
			e, err := tx.Environment(w.env)
			if err != nil {
				return err
			}
			now := e.CreatedAt
			e.ArchivedAt = &now
			return tx.UpdateEnvironment(e)
		}))
		_, err = w.r.Create(ctx(t), turn.NewSession{EnvironmentID: w.env, Agent: agent()})
		if plane.KindOf(err) != plane.Invalid || !strings.Contains(err.Error(), "environment_id") {
			t.Error(err)
		}
	})
}
