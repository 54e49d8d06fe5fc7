package turn_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

// fatal lets the world's helpers report into the present rapid check.
type fatal struct {
	testing.TB
	rt *rapid.T
}

func (f fatal) Fatalf(format string, args ...any) { f.rt.Fatalf(format, args...) }
func (f fatal) Fatal(args ...any)                 { f.rt.Fatal(args...) }
func (f fatal) Helper()                           {}

// part draws a script whose turns call tools of every policy and fail in
// every way that ends.
func part(rt *rapid.T) string {
	turns := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) string {
		var tools []string
		for range rapid.IntRange(0, 3).Draw(rt, "tools") {
			name := rapid.SampledFrom([]string{"bash", "read", "weather", "nonsense"}).Draw(rt, "tool")
			tools = append(tools, `{"name":"`+name+`"}`)
		}
		fault := rapid.SampledFrom([]string{"", "", "", `,"error":"overloaded"`, `,"error":{"type":"api_error","when":"amid","times":2}`}).Draw(rt, "error")
		return fmt.Sprintf(`{"text":"t","tools":[%s]%s}`, strings.Join(tools, ","), fault)
	}), 1, 4).Draw(rt, "turns")
	return script(strings.Join(turns, ","))
}

// TestRandomClients lets clients do what they like, restarts included, and
// holds the log to what must always be true; at the end a responsive worker
// brings the session to rest.
func TestRandomClients(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		rapid.Check(t, func(rt *rapid.T) {
			w.t = fatal{t, rt}
			ask := toolset("always_allow")
			ask.Configs = []api.ToolConfig{{Name: "read", PermissionPolicy: &api.PermissionPolicy{Type: "always_ask"}}}
			id := w.create(agent(ask, custom("weather")), rapid.SampledFrom([]string{"", "x"}).Draw(rt, "first"))
			if rapid.Bool().Draw(rt, "begin") {
				w.send(id, message(part(rt)))
			}
			for range rapid.IntRange(0, 12).Draw(rt, "steps") {
				switch rapid.SampledFrom([]string{"message", "interrupt", "answer", "answer", "answer", "nonsense", "restart", "both"}).Draw(rt, "step") {
				case "message":
					w.send(id, message(part(rt)))
				case "interrupt":
					w.send(id, interrupt)
				case "both":
					w.send(id, interrupt, message(part(rt)))
				case "answer":
					w.answer(id, rapid.SampledFrom([]string{"allow", "deny"}).Draw(rt, "verdict"), 1)
				case "nonsense":
					if _, err := w.r.Accept(ctx(t), id, raws(message("half of it"), result(plane.NewID("sevt_"), "x"))); plane.KindOf(err) != plane.Invalid {
						rt.Fatalf("nonsense was taken: %v", err)
					}
				case "restart":
					w.stop()
					w.start()
				}
				holds(rt, w, id)
			}
			// A responsive worker brings it to rest.
			w.until(id, "rest", func(l []api.Event, s plane.Session) bool {
				if s.Turn == plane.TurnCalls {
					w.answer(id, "allow", 100)
					return false
				}
				return s.Turn == plane.TurnRest && s.Status == api.SessionIdle
			})
			holds(rt, w, id)
			if s := w.session(id); s.TurnOwner != "" {
				rt.Fatalf("at rest the turn is held by %s", s.TurnOwner)
			}
			if l := w.list(id); slices.ContainsFunc(l, func(e api.Event) bool { return e.Head().ProcessedAt == nil }) {
				rt.Fatalf("at rest something is queued: %v", types(l))
			}
		})
		w.t = t
	})
}

// answer acts on up to most open calls, as workers and users do. What an
// interrupt voids meanwhile is refused, and nothing else is.
func (w *world) answer(session, verdict string, most int) {
	w.t.Helper()
	var calls []plane.Call
	must(w.t, w.st.View(ctx(w.t), func(rd store.Reader) (err error) { calls, err = rd.OpenCalls(session); return err }))
	for _, c := range calls[:min(most, len(calls))] {
		switch {
		case c.State == plane.CallAsked:
			w.send(session, confirm(c.ID, verdict))
			if verdict == "allow" {
				w.send(session, result(c.ID, "ran"))
			}
		case c.Kind == plane.CallCustom:
			w.send(session, `{"type":"user.custom_tool_result","custom_tool_use_id":`+quote(c.ID)+`}`)
		default:
			w.send(session, result(c.ID, "ran"))
		}
	}
}

// holds checks what is true of every log at every moment.
func holds(rt *rapid.T, w *world, session string) {
	rows := w.rows(session)
	var span string // the open model request
	open := map[string]string{}
	answered := map[string]string{}
	emits := map[int64]string{}
	for i, row := range rows {
		if other := emits[row.Emit]; other != "" {
			rt.Fatalf("frames %s and %s share the number %d", other, row.ID, row.Emit)
		}
		emits[row.Emit] = row.ID
		if row.Pos == 0 {
			continue
		}
		if row.Pos != int64(i+1) {
			rt.Fatalf("row %d has place %d", i, row.Pos)
		}
		if i > 0 && (!row.ProcessedAt.After(*rows[i-1].ProcessedAt) || row.Emit <= rows[i-1].Emit) {
			rt.Fatalf("%s does not come after %s in time or frame", row.Type, rows[i-1].Type)
		}
		e, err := api.DecodeEvent(row.Body)
		if err != nil {
			rt.Fatal(err)
		}
		reply := func(call string) {
			if before := answered[call]; before != "" {
				rt.Fatalf("call %s is answered by %s and %s", call, before, row.ID)
			}
			if open[call] == "" {
				rt.Fatalf("%s answers %s, which is not open", row.Type, call)
			}
			answered[call] = row.ID
			delete(open, call)
		}
		switch e := e.(type) {
		case *api.SpanModelRequestStart:
			if span != "" {
				rt.Fatalf("a request begins while %s is open", span)
			}
			if len(open) > 0 {
				rt.Fatalf("a request begins while %v are open", open)
			}
			span = e.ID
		case *api.SpanModelRequestEnd:
			if e.ModelRequestStartID != span {
				rt.Fatalf("the end of %s while %s is open", e.ModelRequestStartID, span)
			}
			span = ""
		case *api.AgentMessage, *api.AgentThinking:
			if span == "" {
				rt.Fatalf("%s outside a request", row.Type)
			}
		case *api.AgentToolUse:
			open[e.ID] = e.Name
		case *api.AgentCustomToolUse:
			open[e.ID] = e.Name
		case *api.UserToolResult:
			reply(e.ToolUseID)
		case *api.UserCustomToolResult:
			reply(e.CustomToolUseID)
		case *api.AgentToolResult:
			reply(e.ToolUseID)
		case *api.UserInterrupt:
			clear(open)
		case *api.SessionStatusIdle:
			if span != "" {
				rt.Fatalf("idle while %s is open", span)
			}
			if waits := e.StopReason.Type == api.StopRequiresAction; waits != (len(open) > 0) || len(e.StopReason.EventIDs) != len(open) {
				rt.Fatalf("idle with %+v while %v are open", e.StopReason, open)
			}
		}
	}
}

// Many clients at one session at once: every call has one result, whoever was
// first, and the session comes to rest.
func TestManyAnswersAtOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		id := w.create(agent(), script(strings.Repeat(`{"tools":[`+bash+`,`+bash+`,`+bash+`]},`, 5)+`{"text":"end"}`))
		for range 5 {
			l := w.until(id, "three calls", func(l []api.Event, s plane.Session) bool { return len(open(l)) == 3 && s.Turn == plane.TurnCalls })
			calls := open(l)
			var clients sync.WaitGroup
			var mu sync.Mutex
			taken := map[string]map[string]bool{}
			for c := range 4 {
				clients.Go(func() {
					for _, call := range calls {
						out, err := w.r.Accept(ctx(t), id, []json.RawMessage{json.RawMessage(result(call, fmt.Sprint("of ", c%2)))})
						if err != nil {
							if plane.KindOf(err) != plane.Invalid {
								t.Error(err)
							}
							continue
						}
						mu.Lock()
						if taken[call] == nil {
							taken[call] = map[string]bool{}
						}
						taken[call][out[0].Head().ID] = true
						mu.Unlock()
					}
				})
			}
			clients.Wait()
			for _, call := range calls {
				if len(taken[call]) != 1 {
					t.Fatalf("call %s got %d results", call, len(taken[call]))
				}
			}
		}
		l := w.idle(id, api.StopEndTurn)
		if n := len(slices.DeleteFunc(types(l), func(s string) bool { return s != "user.tool_result" })); n != 15 {
			t.Errorf("%d results", n)
		}
		inOrder(t, w.rows(id))
	})
}
