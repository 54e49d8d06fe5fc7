package turn_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/events"
	"github.com/berthdev/berth/internal/model"
	"github.com/berthdev/berth/internal/model/scripted"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/queue"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
	"github.com/berthdev/berth/internal/turn"
)

// patience is far more than anything here takes.
const patience = time.Minute

// Whoever starts a goroutine waits for it: none is left when the worlds stop.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a control plane without HTTP: a store, its rooms, and a runner.
type world struct {
	t   testing.TB
	st  store.Store
	log *events.Log
	q   *queue.Queue
	r   *turn.Runner
	cfg turn.Config
	env string
}

func newWorld(t testing.TB, st store.Store, adjust ...func(*turn.Config)) *world {
	t.Helper()
	w := &world{t: t, st: st, log: events.New(st)}
	w.log.Start()
	t.Cleanup(w.log.Stop)
	w.q = queue.New(st, queue.Config{GiveUp: func(tx store.Tx, s *plane.Session, reason string) error { return w.r.GiveUp(tx, s, reason) }})
	reg := &model.Registry{}
	reg.Add(scripted.Info(), scripted.New(scripted.Config{}))
	w.cfg = turn.Config{Store: st, Log: w.log, Queue: w.q, Models: reg, RetryFirst: time.Millisecond,
		Logger: slog.New(slog.DiscardHandler)}
	for _, a := range adjust {
		a(&w.cfg)
	}
	env := plane.Environment{}
	env.ID, env.Type, env.Name = plane.NewID(plane.PrefixEnvironment), "environment", plane.NewID("e")
	env.Config.Type, env.Metadata = "self_hosted", api.Metadata{}
	env.CreatedAt = time.Now().UTC()
	env.UpdatedAt = env.CreatedAt
	must(t, st.Update(ctx(t), func(tx store.Tx) error { return tx.InsertEnvironment(env) }))
	w.env = env.ID
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

// start starts a runner over the world's store, as a new process would.
func (w *world) start() {
	w.t.Helper()
	w.r = turn.New(w.cfg)
	must(w.t, w.r.Start(ctx(w.t)))
}

// stop stops the present runner, cutting off what it does.
func (w *world) stop() {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	must(w.t, w.r.Stop(now))
}

func ctx(t testing.TB) context.Context { return t.Context() }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func agent(tools ...api.Tool) api.SessionAgent {
	if tools == nil {
		tools = []api.Tool{{Type: api.ToolAgentToolset}}
	}
	resolved, err := plane.ResolveTools("tools", tools)
	if err != nil {
		panic(err)
	}
	return api.SessionAgent{ID: plane.NewID(plane.PrefixAgent), Type: "agent", Version: 1, Name: "tester",
		Model: api.ModelConfig{ID: scripted.ID}, Tools: resolved, MCPServers: []api.MCPServer{}, Skills: []api.SkillRef{},
		ExecutionIdentity: api.ExecutionIdentity{Type: "service_account"}}
}

// create makes a session whose first message is text; none without text.
func (w *world) create(a api.SessionAgent, text string) string {
	w.t.Helper()
	n := turn.NewSession{EnvironmentID: w.env, Agent: a}
	if text != "" {
		n.InitialEvents = raws(message(text))
	}
	s, err := w.r.Create(ctx(w.t), n)
	must(w.t, err)
	return s.ID
}

func script(turns string) string { return "Play.\n```script\n{\"turns\":[" + turns + "]}\n```\n" }

func raws(events ...string) []json.RawMessage {
	out := make([]json.RawMessage, len(events))
	for i, e := range events {
		out[i] = json.RawMessage(e)
	}
	return out
}

func quote(s string) string { b, _ := json.Marshal(s); return string(b) }

func message(text string) string {
	return `{"type":"user.message","content":[{"type":"text","text":` + quote(text) + `}]}`
}

func result(id, text string) string {
	return `{"type":"user.tool_result","tool_use_id":` + quote(id) + `,"content":[{"type":"text","text":` + quote(text) + `}],"is_error":false}`
}

func confirm(id, verdict string) string {
	return `{"type":"user.tool_confirmation","tool_use_id":` + quote(id) + `,"result":` + quote(verdict) + `}`
}

const interrupt = `{"type":"user.interrupt"}`

func (w *world) send(session string, events ...string) api.EventList {
	w.t.Helper()
	out, err := w.r.Accept(ctx(w.t), session, raws(events...))
	if err != nil {
		w.t.Fatalf("send %v: %v", events, err)
	}
	return out
}

// refused sends what must be refused with a kind, and the words in its text.
func (w *world) refused(session string, kind plane.Kind, words string, events ...string) {
	w.t.Helper()
	before := len(w.list(session))
	_, err := w.r.Accept(ctx(w.t), session, raws(events...))
	if err == nil || plane.KindOf(err) != kind || !strings.Contains(err.Error(), words) {
		w.t.Fatalf("send %v: got %v, want kind %d with %q", events, err, kind, words)
	}
	if after := len(w.list(session)); after != before {
		w.t.Fatalf("a refused send left %d events behind", after-before)
	}
}

func (w *world) session(id string) (s plane.Session) {
	w.t.Helper()
	must(w.t, w.st.View(ctx(w.t), func(rd store.Reader) (err error) { s, err = rd.Session(id); return err }))
	return s
}

func (w *world) rows(session string) (rows []plane.StoredEvent) {
	w.t.Helper()
	must(w.t, w.st.View(ctx(w.t), func(rd store.Reader) (err error) {
		rows, err = rd.Events(session, store.EventQuery{Limit: 100_000})
		return err
	}))
	return rows
}

func (w *world) list(session string) []api.Event {
	w.t.Helper()
	var out []api.Event
	for _, row := range w.rows(session) {
		e, err := api.DecodeEvent(row.Body)
		must(w.t, err)
		out = append(out, e)
	}
	return out
}

// until waits for the session's log to satisfy done, looking at each commit.
func (w *world) until(session string, what string, done func([]api.Event, plane.Session) bool) []api.Event {
	w.t.Helper()
	bell := make(chan struct{}, 1)
	cancel := w.st.Listen(func(n store.Note) {
		if n.Session == session {
			select {
			case bell <- struct{}{}:
			default:
			}
		}
	})
	defer cancel()
	limit := time.After(patience)
	for {
		// A log is never older than the session read before it.
		s := w.session(session)
		if l := w.list(session); done(l, s) && w.session(session).Emit == s.Emit {
			return l
		}
		select {
		case <-bell:
		case <-limit:
			w.t.Fatalf("%s: not in time; the log is\n%s", what, strings.Join(types(w.list(session)), "\n"))
		}
	}
}

// idle waits until the session rests or waits for calls.
func (w *world) idle(session, reason string) []api.Event {
	w.t.Helper()
	l := w.until(session, "idle with "+reason, func(l []api.Event, s plane.Session) bool {
		return s.Status == api.SessionIdle && s.StopReason != "" && len(l) > 0 && l[len(l)-1].Head().ProcessedAt != nil &&
			!slices.ContainsFunc(l, func(e api.Event) bool { return e.Head().ProcessedAt == nil && s.StopReason != api.StopRequiresAction })
	})
	if got := w.session(session).StopReason; got != reason {
		w.t.Fatalf("idle with %s, want %s; the log is\n%s", got, reason, strings.Join(types(l), "\n"))
	}
	return l
}

func types(l []api.Event) []string {
	out := make([]string, len(l))
	for i, e := range l {
		out[i] = e.Head().Type
	}
	return out
}

// open are the calls that the last idle waits for.
func open(l []api.Event) []string {
	for _, e := range slices.Backward(l) {
		if e, ok := e.(*api.SessionStatusIdle); ok {
			return e.StopReason.EventIDs
		}
	}
	return nil
}

func texts(l []api.Event) []string {
	var out []string
	for _, e := range l {
		if m, ok := e.(*api.AgentMessage); ok {
			for _, b := range m.Content {
				out = append(out, b.Text)
			}
		}
	}
	return out
}

func equal(t testing.TB, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

const bash = `{"name":"bash","input":{"command":"ls"}}`

func TestASessionFromMessageToEndTurn(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		id := w.create(agent(), script(`{"thinking":"hm","text":"Let me look.","tools":[`+bash+`],"usage":{"input_tokens":10,"output_tokens":5}},{"text":"I found: {{result 0}}","usage":{"input_tokens":20,"output_tokens":7}}`))
		if s := w.session(id); s.Status != api.SessionRunning && s.Status != api.SessionIdle {
			t.Fatalf("status %s", s.Status)
		}
		l := w.idle(id, api.StopRequiresAction)
		calls := open(l)
		if len(calls) != 1 {
			t.Fatalf("open calls %v", calls)
		}
		out := w.send(id, result(calls[0], "a.txt\n"))
		if h := out[0].Head(); h.ID == "" || h.ProcessedAt == nil || h.Type != api.TypeUserToolResult {
			t.Fatalf("answer %+v", h)
		}
		l = w.idle(id, api.StopEndTurn)
		equal(t, types(l), []string{
			"user.message", "session.status_running", "session.thread_status_running",
			"span.model_request_start", "agent.thinking", "agent.message", "agent.tool_use", "span.model_request_end",
			"session.thread_status_idle", "session.usage", "session.status_idle",
			"user.tool_result", "session.status_running", "session.thread_status_running",
			"span.model_request_start", "agent.message", "span.model_request_end",
			"session.thread_status_idle", "session.usage", "session.status_idle",
		})
		equal(t, texts(l), []string{"Let me look.", "I found: a.txt"})
		s := w.session(id)
		if s.Usage.InputTokens != 30 || s.Usage.OutputTokens != 12 {
			t.Errorf("usage %+v", s.Usage)
		}
		if s.TurnOwner != "" || s.Turn != plane.TurnRest {
			t.Errorf("the turn was not given up: %q %s", s.TurnOwner, s.Turn)
		}
		use := l[6].(*api.AgentToolUse)
		if use.EvaluatedPermission != api.PermissionAllow || use.Evaluation == nil || use.Evaluation.Type != "always_allow" {
			t.Errorf("tool use %+v", use)
		}
		if end := l[7].(*api.SpanModelRequestEnd); end.ModelRequestStartID != l[3].Head().ID || end.IsError || end.ModelUsage.InputTokens != 10 {
			t.Errorf("span end %+v", end)
		}
		inOrder(t, w.rows(id))
	})
}

// inOrder checks what holds for every log: places and frames rise, times too.
func inOrder(t testing.TB, rows []plane.StoredEvent) {
	t.Helper()
	for i, row := range rows {
		if row.Pos == 0 {
			continue
		}
		if row.Pos != int64(i+1) {
			t.Fatalf("row %d has place %d", i, row.Pos)
		}
		if i > 0 && !row.ProcessedAt.After(*rows[i-1].ProcessedAt) {
			t.Fatalf("time of row %d is not after the one before", i)
		}
	}
}
