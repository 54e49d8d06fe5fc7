package workertest

import (
	"fmt"
	"strings"

	"github.com/berthdev/berth/api"
)

// History is what became of sessions: what the plane saw of them, and what the
// caller adds of their sandboxes.
type History struct {
	Sessions []SessionHistory
	// Ran is the sandboxes' own log: the id of a call for each time it ran.
	Ran []string
	// Left is every sandbox, process or mount that is still there.
	Left []string
}

// SessionHistory is a session as the plane recorded it.
type SessionHistory struct {
	ID      string
	Ended   bool // it has played all its turns, or was terminated
	Calls   []CallHistory
	Items   []api.WorkState // oldest first
	Nowhere []string        // ids named by results that answer no call of this session
}

// CallHistory is a tool call as the plane recorded it.
type CallHistory struct {
	ID      string
	Tool    string
	Want    string   // part of a healthy result's text
	Logs    bool     // its runs are in History.Ran
	Void    bool     // nobody waits for its result: interrupted, denied, or its session was terminated
	Taken   bool     // its worker could not keep the lease, so that it may be answered as interrupted
	Answers []Answer // accepted
	Refused []Answer // those that came when it waited for none
}

// Rule names what must hold of every history.
type Rule string

const (
	RuleLost     Rule = "lost"           // every session ends, every call is answered, every item is stopped
	RuleAnswered Rule = "answered twice" // no second result for a call, accepted or tried
	RuleRan      Rule = "ran twice"      // no call runs again
	RuleWrong    Rule = "wrong result"   // a call that nothing happened to has the result it must have
	RuleNowhere  Rule = "from nowhere"   // no result without a call, or of a call that never ran
	RuleLeft     Rule = "left behind"    // nothing of a sandbox is there at the end
)

// Finding is a rule that a history breaks.
type Finding struct {
	Rule    Rule
	Session string // "" where it is not known
	Call    string // "" where it is no call's
	Text    string
}

func (f Finding) String() string {
	return strings.Join(strings.Fields(fmt.Sprintf("%s: %s %s %s", f.Rule, f.Session, f.Call, f.Text)), " ")
}

// History is what the plane has seen so far. Ran and Left are the caller's to
// fill.
func (p *Plane) History() History {
	p.mu.Lock()
	defer p.mu.Unlock()
	var h History
	for _, s := range p.order {
		terminated := s.status == api.SessionTerminated
		one := SessionHistory{ID: s.ID, Nowhere: s.nowhere, Ended: terminated || s.status == api.SessionIdle && len(s.turns) == 0}
		for _, c := range s.calls {
			one.Calls = append(one.Calls, CallHistory{
				ID: c.id, Tool: c.name, Want: c.want, Logs: c.logs, Void: c.void || terminated && len(c.answers) == 0, Taken: c.taken,
				Answers: c.read(c.answers), Refused: c.read(c.refused),
			})
		}
		for _, it := range p.items {
			if it.session == s {
				one.Items = append(one.Items, it.state)
			}
		}
		h.Sessions = append(h.Sessions, one)
	}
	return h
}

// Check finds where the history breaks a rule.
func (h History) Check() []Finding {
	var found []Finding
	ran := map[string]int{}
	for _, id := range h.Ran {
		ran[id]++
	}
	known := map[string]bool{}
	for _, s := range h.Sessions {
		found = append(found, s.check(ran)...)
		for _, c := range s.Calls {
			known[c.ID] = true
		}
	}
	for id := range ran {
		if !known[id] {
			found = append(found, Finding{RuleNowhere, "", id, "ran, and is no call"})
		}
	}
	for _, l := range h.Left {
		found = append(found, Finding{RuleLeft, "", "", l})
	}
	return found
}

func (s SessionHistory) check(ran map[string]int) []Finding {
	var found []Finding
	find := func(r Rule, call, format string, args ...any) {
		found = append(found, Finding{r, s.ID, call, fmt.Sprintf(format, args...)})
	}
	if !s.Ended {
		find(RuleLost, "", "has not ended")
	}
	for _, state := range s.Items {
		if state != api.WorkStopped {
			find(RuleLost, "", "an item is %s", state)
		}
	}
	for _, id := range s.Nowhere {
		find(RuleNowhere, id, "a result for no call")
	}
	for _, c := range s.Calls {
		n := ran[c.ID]
		if n > 1 {
			find(RuleRan, c.ID, "%d times", n)
		}
		if len(c.Answers) == 0 && !c.Void {
			find(RuleLost, c.ID, "waits for its result")
		}
		if len(c.Answers) > 1 {
			find(RuleAnswered, c.ID, "%d results", len(c.Answers))
		}
		if len(c.Answers) > 0 {
			for _, a := range c.Refused {
				find(RuleAnswered, c.ID, "a second result was tried: %.80q", a.Text)
			}
		}
		for _, a := range c.Answers {
			switch healthy := !a.IsError && strings.Contains(a.Text, c.Want); {
			case healthy && c.Logs && n == 0:
				find(RuleNowhere, c.ID, "answered, and never ran")
			case !healthy && !c.Taken:
				find(RuleWrong, c.ID, "%s answered %.120q, error %v", c.Tool, a.Text, a.IsError)
			}
		}
	}
	return found
}
