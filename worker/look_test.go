package worker

import (
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/api"
)

// looked says, once, whether the history has been asked for.
func (s *script) looked() bool {
	select {
	case <-s.resync:
		return true
	default:
		return false
	}
}

func marked(kind, id string, at int) note {
	return note{kind: kind, id: id, at: time.Unix(int64(at), 0)}
}

func use(id string, at int) note {
	t := time.Unix(int64(at), 0)
	return digest(&api.AgentToolUse{EventHead: api.EventHead{Type: api.TypeAgentToolUse, ID: id, ProcessedAt: &t}, Name: "bash", Input: json.RawMessage("{}")})
}

func TestEventsThatComeAgainSayNothing(t *testing.T) {
	s := newScript()
	running := marked(api.TypeSessionStatusRunning, "r", 1)
	s.event(running)
	s.idle(api.StopEndTurn)
	s.event(running)
	if s.busy() || !s.over {
		t.Errorf("busy %v, over %v after a stale event", s.busy(), s.over)
	}
	queued := note{kind: api.TypeUserInterrupt, id: "i"}
	s.event(queued)
	if !s.cutoff.IsZero() {
		t.Error("a queued interrupt counts")
	}
	s.event(marked(api.TypeUserInterrupt, "i", 9))
	if s.cutoff.IsZero() {
		t.Error("the interrupt does not count when it has been processed")
	}
}

func TestACallThatNeverCameIsLookedFor(t *testing.T) {
	s := newScript()
	s.call("a", "bash", "", "")
	s.idle(api.StopRequiresAction, "a")
	if s.looked() {
		t.Error("nothing is missing")
	}
	s.idle(api.StopRequiresAction, "b")
	if !s.looked() {
		t.Error("the missing call is not looked for")
	}
	s.see(&api.AgentMessage{EventHead: s.head(api.TypeAgentMessage, "m")})
	s.idle(api.StopRequiresAction, "m")
	if s.looked() {
		t.Error("an event that is no call is looked for")
	}
}

// Calls that the stream brought late, or not at all, have their place in the log.
func TestCallsRunInTheLogsOrder(t *testing.T) {
	s := newScript()
	log := []note{use("a", 5), use("b", 1), use("c", 1), use("d", 9)}
	for _, id := range []string{"d", "later", "b"} {
		s.event(use(id, 2))
	}
	s.history(log)
	got := ""
	for _, c := range s.queue {
		got += c.ID + " "
	}
	if got != "a b c d later " {
		t.Errorf("calls run in the order %s", got)
	}
}

// Where times and order differ, the log's order tells what an interrupt voids.
func TestAnInterruptFollowsTheLogNotTheClock(t *testing.T) {
	t.Run("a later call with an earlier time", func(t *testing.T) {
		s := newScript()
		cut, late := marked(api.TypeUserInterrupt, "i", 100), use("c", 50)
		s.event(cut)
		s.event(late)
		if !s.looked() || s.calls["c"] != nil {
			t.Errorf("looked for %v, call %v", s.looked(), s.calls["c"])
		}
		s.history([]note{cut, late})
		if c := s.calls["c"]; c == nil || c.state != callQueued {
			t.Errorf("call %v", c)
		}
	})
	t.Run("an earlier call with a later time", func(t *testing.T) {
		s := newScript()
		early, cut := use("c", 100), marked(api.TypeUserInterrupt, "i", 50)
		s.event(early)
		s.calls["c"].state = callRunning
		var cause error
		s.cancelRun = func(err error) { cause = err }
		s.event(cut)
		if !s.looked() || cause != nil {
			t.Errorf("looked for %v, cancelled for %v", s.looked(), cause)
		}
		s.history([]note{early, cut})
		if !errors.Is(cause, errInterrupted) {
			t.Errorf("cancelled for %v", cause)
		}
	})
}

// A session is let go only when its history agrees.
func TestASessionLeavesWhenItsHistoryAgrees(t *testing.T) {
	end := note{kind: api.TypeSessionStatusIdle, id: "e", at: time.Unix(1, 0), stop: api.StopReason{Type: api.StopEndTurn}}
	begin := marked(api.TypeSessionStatusRunning, "r", 2)
	for _, tt := range []struct {
		why  End
		log  []note
		want End
	}{
		{EndIdle, []note{end}, EndIdle}, {EndIdle, []note{end, begin}, ""},
		{EndRoom, []note{end}, EndRoom}, {EndRoom, []note{end, begin}, ""},
	} {
		s := newScript()
		s.event(end)
		s.leave(tt.why)
		if !s.looked() || s.closing != "" {
			t.Errorf("%s: looked for %v, closing for %q", tt.why, s.looked(), s.closing)
		}
		s.history(tt.log)
		if s.closing != tt.want || s.leaving != "" {
			t.Errorf("%s: closing for %q, want %q", tt.why, s.closing, tt.want)
		}
	}
}

// A history that never comes holds a session for a while only.
func TestASessionLeavesWhenItsHistoryIsSilent(t *testing.T) {
	end := note{kind: api.TypeSessionStatusIdle, id: "e", at: time.Unix(1, 0), stop: api.StopReason{Type: api.StopEndTurn}}
	for _, tt := range []struct {
		name string
		then []note // on the stream
		want End
	}{{"nothing comes", nil, EndIdle}, {"a turn begins", []note{marked(api.TypeSessionStatusRunning, "r", 2)}, ""}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScript()
				s.event(end)
				s.leave(EndIdle)
				for _, n := range tt.then {
					s.event(n)
				}
				began := time.Now()
				<-s.unsaid.C
				s.depart()
				if took := time.Since(began); took != leaveMost || s.closing != tt.want || s.leaving != "" {
					t.Errorf("after %v closing for %q, want %q", took, s.closing, tt.want)
				}
			})
		})
	}
}

func TestSilenceIsBorneForAWhile(t *testing.T) {
	s := newScript()
	if d := s.patience(); d != quietOther {
		t.Errorf("of an idle session %v", d)
	}
	s.event(marked(api.TypeSessionStatusRunning, "r", 1))
	if d := s.patience(); d != quietTurn {
		t.Errorf("in a turn %v", d)
	}
	s.looks = 1
	if d := s.patience(); d != 2*quietTurn {
		t.Errorf("after a look %v", d)
	}
	s.looks = 1000
	if d := s.patience(); d != quietMost {
		t.Errorf("at most %v", d)
	}
	s.call("c", "bash", api.PermissionAsk, "")
	s.idle(api.StopRequiresAction, "c")
	if d := s.patience(); s.looks != 0 || d != quietOther {
		t.Errorf("of a session that waits for a person %v after %d looks", d, s.looks)
	}
}
