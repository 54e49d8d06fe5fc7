package workertest

import (
	"slices"
	"testing"

	"github.com/berthdev/berth/api"
)

// healthy is a session of two calls; the second ran when its lease was taken.
func healthy() History {
	return History{
		Sessions: []SessionHistory{{
			ID: "s", Ended: true, Items: []api.WorkState{api.WorkStopped, api.WorkStopped},
			Calls: []CallHistory{
				{ID: "a", Tool: "bash", Want: "ran a", Logs: true, Answers: []Answer{{Call: "a", Text: "ran a\n"}}},
				{ID: "b", Tool: "bash", Want: "ran b", Logs: true, Taken: true, Answers: []Answer{{Call: "b", Text: "interrupted", IsError: true}}},
				{ID: "c", Tool: "read", Want: "text", Answers: []Answer{{Call: "c", Text: "text"}}},
				{ID: "d", Tool: "bash", Logs: true, Void: true, Refused: []Answer{{Call: "d", Text: "late"}}},
			},
		}},
		Ran: []string{"a", "b", "d"},
	}
}

// The checker finds nothing in a healthy history, and what was doctored in
// every other.
func TestTheCheckerSeesDoctoredHistories(t *testing.T) {
	if found := healthy().Check(); len(found) > 0 {
		t.Errorf("the healthy history is refused: %v", found)
	}
	for _, tt := range []struct {
		name   string
		rule   Rule
		call   string
		doctor func(h *History, s *SessionHistory)
	}{
		{"a session that goes on", RuleLost, "", func(_ *History, s *SessionHistory) { s.Ended = false }},
		{"an item that is not stopped", RuleLost, "", func(_ *History, s *SessionHistory) { s.Items[1] = api.WorkActive }},
		{"a call without a result", RuleLost, "c", func(_ *History, s *SessionHistory) { s.Calls[2].Answers = nil }},
		{"a taken call without a result", RuleLost, "b", func(_ *History, s *SessionHistory) { s.Calls[1].Answers = nil }},
		{"two results", RuleAnswered, "a", func(_ *History, s *SessionHistory) {
			s.Calls[0].Answers = append(s.Calls[0].Answers, s.Calls[0].Answers[0])
		}},
		{"a second result, refused", RuleAnswered, "a", func(_ *History, s *SessionHistory) {
			s.Calls[0].Refused = []Answer{{Call: "a", Text: "interrupted", IsError: true}}
		}},
		{"a second run", RuleRan, "a", func(h *History, _ *SessionHistory) { h.Ran = append(h.Ran, "a") }},
		{"a second run of a taken call", RuleRan, "b", func(h *History, _ *SessionHistory) { h.Ran = append(h.Ran, "b") }},
		{"a second run of a void call", RuleRan, "d", func(h *History, _ *SessionHistory) { h.Ran = append(h.Ran, "d") }},
		{"an error of a healthy call", RuleWrong, "c", func(_ *History, s *SessionHistory) { s.Calls[2].Answers[0].IsError = true }},
		{"another call's result", RuleWrong, "a", func(_ *History, s *SessionHistory) { s.Calls[0].Answers[0].Text = "ran b\n" }},
		{"an interruption of a call that was not taken", RuleWrong, "b", func(_ *History, s *SessionHistory) { s.Calls[1].Taken = false }},
		{"a result without a run", RuleNowhere, "a", func(h *History, _ *SessionHistory) { h.Ran = h.Ran[1:] }},
		{"a result for no call", RuleNowhere, "x", func(_ *History, s *SessionHistory) { s.Nowhere = []string{"x"} }},
		{"a run of no call", RuleNowhere, "x", func(h *History, _ *SessionHistory) { h.Ran = append(h.Ran, "x") }},
		{"a sandbox that stays", RuleLeft, "", func(h *History, _ *SessionHistory) { h.Left = []string{"sandbox of s"} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := healthy()
			tt.doctor(&h, &h.Sessions[0])
			found := h.Check()
			if len(found) != 1 || found[0].Rule != tt.rule || found[0].Call != tt.call {
				t.Errorf("found %v, want %s of %q", found, tt.rule, tt.call)
			}
		})
	}
}

// Every script has a name of its own and says what it does.
func TestScriptsHaveNames(t *testing.T) {
	var names []string
	for _, s := range Scripts() {
		if s.Name == "" || s.What == "" || slices.Contains(names, s.Name) {
			t.Errorf("script %q: %q", s.Name, s.What)
		}
		names = append(names, s.Name)
		s.Begin(New(t))
	}
}
