package worker

import (
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
)

// script feeds a run events, numbered by the second.
type script struct {
	*run
	n int
}

func newScript() *script {
	r := newRun(client.New("http://127.0.0.1:1", client.Bearer("x"), nil), "sesn_1", slog.New(slog.DiscardHandler))
	r.owns = func(name string, _ bool) bool { return name != "foreign" }
	r.maxIdle = time.Minute
	r.history(nil)
	return &script{run: r}
}

func (s *script) at() *time.Time {
	s.n++
	return new(time.Unix(int64(s.n), 0))
}

func (s *script) head(kind, id string) api.EventHead {
	return api.EventHead{Type: kind, ID: id, ProcessedAt: s.at()}
}

func (s *script) see(e api.Event) { s.event(digest(e)) }

func (s *script) call(id, name string, p api.Permission, thread string) {
	e := &api.AgentToolUse{EventHead: s.head(api.TypeAgentToolUse, id), Name: name, Input: json.RawMessage("{}"), EvaluatedPermission: p}
	if thread != "" {
		e.SessionThreadID = &thread
	}
	s.see(e)
}

func (s *script) idle(reason string, blocking ...string) {
	s.see(&api.SessionStatusIdle{EventHead: s.head(api.TypeSessionStatusIdle, ""), StopReason: api.StopReason{Type: reason, EventIDs: blocking}})
}

func (s *script) thread(kind, thread string) {
	s.see(&api.SessionThreadStatus{EventHead: s.head(kind, ""), SessionThreadID: thread})
}

func TestWhatBecomesOfACall(t *testing.T) {
	interrupt := func(s *script) { s.see(&api.UserInterrupt{EventHead: s.head(api.TypeUserInterrupt, "")}) }
	confirm := func(verdict string) func(*script) {
		return func(s *script) {
			s.see(&api.UserToolConfirmation{EventHead: s.head(api.TypeUserToolConfirmation, ""), ToolUseID: "c", Result: verdict})
		}
	}
	call := func(name string, p api.Permission, thread string) func(*script) {
		return func(s *script) { s.call("c", name, p, thread) }
	}
	plain := call("bash", "", "")
	steps := func(f ...func(*script)) []func(*script) { return f }
	tests := []struct {
		name  string
		steps []func(*script)
		want  callState
		queue int
	}{
		{"no policy", steps(plain), callQueued, 1},
		{"allowed", steps(call("bash", api.PermissionAllow, "")), callQueued, 1},
		{"denied", steps(call("bash", api.PermissionDeny, "")), callForeign, 0},
		{"denied for good", steps(call("bash", api.PermissionDeny, ""), confirm("allow")), callForeign, 0},
		{"asks", steps(call("bash", api.PermissionAsk, "")), callHeld, 0},
		{"asks in words newer than ours", steps(call("bash", "perhaps", "")), callHeld, 0},
		{"asked and allowed", steps(call("bash", api.PermissionAsk, ""), confirm("allow")), callQueued, 1},
		{"asked and denied", steps(call("bash", api.PermissionAsk, ""), confirm("deny")), callForeign, 0},
		{"a verdict newer than ours", steps(call("bash", api.PermissionAsk, ""), confirm("later")), callHeld, 0},
		{"allowed before it was seen", steps(confirm("allow"), call("bash", api.PermissionAsk, "")), callQueued, 1},
		{"denied before it was seen", steps(confirm("deny"), call("bash", api.PermissionAsk, "")), callForeign, 0},
		{"seen twice", steps(plain, plain), callQueued, 1},
		{"not ours", steps(call("foreign", "", "")), callForeign, 0},
		{"interrupted", steps(plain, interrupt), callVoid, 0},
		{"interrupted while it asks, then allowed", steps(call("bash", api.PermissionAsk, ""), interrupt, confirm("allow")), callVoid, 0},
		{"after an interrupt", steps(interrupt, plain), callQueued, 1},
		{"before a queued interrupt", steps(plain, func(s *script) {
			s.see(&api.UserInterrupt{EventHead: api.EventHead{Type: api.TypeUserInterrupt}})
		}), callQueued, 1},
		{"before an interrupt of a thread", steps(plain, func(s *script) {
			s.see(&api.UserInterrupt{EventHead: s.head(api.TypeUserInterrupt, ""), SessionThreadID: new("sthr_child")})
		}), callQueued, 1},
		{"answered elsewhere", steps(plain, func(s *script) {
			s.see(&api.UserToolResult{EventHead: s.head(api.TypeUserToolResult, ""), ToolUseID: "c"})
		}), callAnswered, 0},
		{"answered by the plane while it asks", steps(call("bash", api.PermissionAsk, ""), func(s *script) {
			s.see(&api.AgentToolResult{EventHead: s.head(api.TypeAgentToolResult, ""), ToolUseID: "c"})
		}), callAnswered, 0},
		{"answered before it was seen", steps(func(s *script) {
			s.see(&api.UserCustomToolResult{EventHead: s.head(api.TypeUserCustomToolResult, ""), CustomToolUseID: "c"})
		}, plain), callAnswered, 0},
		{"its thread ends", steps(
			func(s *script) { s.thread(api.TypeSessionThreadStatusRunning, "sthr_main") },
			call("bash", "", "sthr_child"),
			func(s *script) { s.thread(api.TypeSessionThreadStatusTerminated, "sthr_child") },
		), callForeign, 0},
		{"its thread had ended", steps(
			func(s *script) { s.thread(api.TypeSessionThreadStatusRunning, "sthr_main") },
			func(s *script) { s.thread(api.TypeSessionThreadStatusTerminated, "sthr_child") },
			call("bash", "", "sthr_child"),
		), callForeign, 0},
		{"another thread ends", steps(
			func(s *script) { s.thread(api.TypeSessionThreadStatusRunning, "sthr_main") },
			call("bash", "", "sthr_child"),
			func(s *script) { s.thread(api.TypeSessionThreadStatusTerminated, "sthr_other") },
		), callQueued, 1},
		{"the primary thread's end is the session's to tell", steps(
			func(s *script) { s.thread(api.TypeSessionThreadStatusRunning, "sthr_main") },
			call("bash", "", "sthr_main"),
			func(s *script) { s.thread(api.TypeSessionThreadStatusTerminated, "sthr_main") },
		), callQueued, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScript()
			for _, step := range tt.steps {
				step(s)
			}
			if c := s.calls["c"]; c == nil || c.state != tt.want || len(s.queue) != tt.queue {
				t.Errorf("state %v, %d queued; want %v, %d", c, len(s.queue), tt.want, tt.queue)
			}
		})
	}
}

func TestWhenASessionHasWorkHere(t *testing.T) {
	running := func(s *script) { s.see(&api.SessionStatusRunning{EventHead: s.head(api.TypeSessionStatusRunning, "")}) }
	tests := []struct {
		name       string
		steps      []func(*script)
		busy, over bool
	}{
		{"empty", nil, false, true},
		{"the model's turn", []func(*script){running}, true, false},
		{"rescheduled", []func(*script){running, func(s *script) {
			s.see(&api.SessionStatusRescheduled{EventHead: s.head(api.TypeSessionStatusRescheduled, "")})
		}}, true, false},
		{"the turn's end", []func(*script){running, func(s *script) { s.idle(api.StopEndTurn) }}, false, true},
		{"an end newer than us", []func(*script){running, func(s *script) { s.idle("bored") }}, false, true},
		{"a verdict after the end", []func(*script){running, func(s *script) { s.idle(api.StopEndTurn) }, func(s *script) {
			s.see(&api.UserToolConfirmation{EventHead: s.head(api.TypeUserToolConfirmation, ""), ToolUseID: "x", Result: "allow"})
		}}, false, true},
		{"an interrupt after the end", []func(*script){func(s *script) { s.idle(api.StopEndTurn) }, func(s *script) {
			s.see(&api.UserInterrupt{EventHead: s.head(api.TypeUserInterrupt, "")})
		}}, false, true},
		{"a message after the end", []func(*script){running, func(s *script) { s.idle(api.StopEndTurn) }, func(s *script) {
			s.see(&api.UserMessage{EventHead: s.head(api.TypeUserMessage, "")})
		}}, false, false},
		{"calls of ours", []func(*script){running, func(s *script) { s.call("c", "bash", "", "") }, func(s *script) { s.idle(api.StopRequiresAction, "c") }}, true, false},
		{"a call of ours, answered", []func(*script){running, func(s *script) { s.call("c", "bash", "", "") }, func(s *script) { s.idle(api.StopRequiresAction, "c") }, func(s *script) {
			s.see(&api.UserToolResult{EventHead: s.head(api.TypeUserToolResult, ""), ToolUseID: "c"})
		}}, true, false},
		{"a person's verdict", []func(*script){running, func(s *script) { s.call("c", "bash", api.PermissionAsk, "") }, func(s *script) { s.idle(api.StopRequiresAction, "c") }}, false, false},
		{"somebody else's call", []func(*script){running, func(s *script) { s.call("c", "foreign", "", "") }, func(s *script) { s.idle(api.StopRequiresAction, "c") }}, false, false},
		{"a call we never saw", []func(*script){running, func(s *script) { s.idle(api.StopRequiresAction, "mcp") }}, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScript()
			for _, step := range tt.steps {
				step(s)
			}
			if s.busy() != tt.busy || s.over != tt.over {
				t.Errorf("busy %v, over %v; want %v, %v", s.busy(), s.over, tt.busy, tt.over)
			}
		})
	}
	r := newScript()
	r.read = false
	if !r.busy() {
		t.Error("a session whose history is not read yet has no work")
	}
}

func TestARunningCallHearsThatItsAnswerIsInTheLog(t *testing.T) {
	s := newScript()
	s.call("c", "bash", "", "")
	s.calls["c"].state = callRunning
	for range 2 {
		s.see(&api.UserToolResult{EventHead: s.head(api.TypeUserToolResult, ""), ToolUseID: "c"})
	}
	if c := s.calls["c"]; !closed(c.echoed) || c.state != callRunning {
		t.Errorf("echoed %v, state %v", closed(c.echoed), c.state)
	}
}
