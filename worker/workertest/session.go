package workertest

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/berthdev/berth/api"
)

// Turn is what a session's model answers next: calls, or with none the end
// of the turn.
type Turn struct {
	Calls []Call
}

// Call is a tool call of a Turn.
type Call struct {
	Name string
	// Input is JSON, "" is {}. {{call}} in it is the call's id and {{session}}
	// the session's; a call that is told its own shall log it, see History.
	Input string
	// Want is what the text of its result must hold, with the same names.
	Want       string
	Permission api.Permission
	Custom     bool
	Thread     string
}

// Calls is a turn of agent toolset calls by name.
func Calls(names ...string) Turn {
	var t Turn
	for _, n := range names {
		t.Calls = append(t.Calls, Call{Name: n})
	}
	return t
}

// Session plays turns.
type Session struct {
	ID string

	plane   *Plane
	status  api.SessionStatus
	turns   []Turn
	log     []entry
	calls   []*call
	nowhere []string // ids that results for no call of this session named

	resources []api.MemoryStoreResource
}

// entry is an event in its wire form.
type entry struct {
	kind   string
	id     string
	raw    json.RawMessage
	silent bool // on no stream
}

// call is a tool use and what became of it.
type call struct {
	id      string
	name    string
	want    string // part of a healthy result
	logs    bool   // it logs that it runs
	asked   bool   // waits for a confirmation
	custom  bool
	at      time.Time
	answers []json.RawMessage // accepted ones: at most one unless the plane is broken
	refused []json.RawMessage
	void    bool
	taken   bool // its holder could not keep the lease while it was open
}

// Session makes a session that plays turns, and queues its item. Without
// turns it is idle and has had no input.
func (p *Plane) Session(turns ...Turn) *Session {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &Session{ID: p.id("sesn_"), plane: p, status: api.SessionIdle, turns: turns, resources: p.resources}
	p.sessions[s.ID] = s
	p.order = append(p.order, s)
	p.offer(s, 0, nil)
	if len(turns) > 0 {
		s.add(&api.UserMessage{EventHead: head(api.TypeUserMessage), Content: []api.Block{api.Text("go")}})
		s.advance()
	}
	return s
}

// More gives an idle session further turns, as a user's message does.
func (s *Session) More(turns ...Turn) {
	s.plane.mu.Lock()
	defer s.plane.mu.Unlock()
	s.turns = append(s.turns, turns...)
	s.add(&api.UserMessage{EventHead: head(api.TypeUserMessage), Content: []api.Block{api.Text("more")}})
	s.advance()
	s.plane.offer(s, 0, nil)
}

// Interrupt voids the open calls and ends the turn. With queued, its queued
// echo (no processed_at) goes out first.
func (s *Session) Interrupt(queued bool) {
	s.plane.mu.Lock()
	defer s.plane.mu.Unlock()
	if queued {
		s.emit(&api.UserInterrupt{EventHead: api.EventHead{ID: s.plane.id("sevt_"), Type: api.TypeUserInterrupt}})
	}
	s.add(&api.UserInterrupt{EventHead: head(api.TypeUserInterrupt)})
	for _, c := range s.calls {
		if len(c.answers) == 0 {
			c.void = true
		}
	}
	s.turns = nil
	s.advance()
}

// InterruptThread is an interrupt of one thread, which voids nothing here.
func (s *Session) InterruptThread(thread string) {
	s.Add(&api.UserInterrupt{EventHead: head(api.TypeUserInterrupt), SessionThreadID: &thread})
}

// Confirm answers a call that asked: "allow" or "deny". A denied call gets
// the plane's own result.
func (s *Session) Confirm(id, verdict string) {
	s.plane.mu.Lock()
	defer s.plane.mu.Unlock()
	s.add(&api.UserToolConfirmation{EventHead: head(api.TypeUserToolConfirmation), ToolUseID: id, Result: verdict})
	for _, c := range s.calls {
		if c.id == id {
			c.asked = false
			if verdict == "deny" {
				s.deny(c)
			}
		}
	}
	s.advance()
}

// Terminate ends the session; silent keeps the event off the streams, as when
// it falls into a gap.
func (s *Session) Terminate(silent bool) {
	s.plane.mu.Lock()
	defer s.plane.mu.Unlock()
	s.status = api.SessionTerminated
	e := &api.SessionStatusTerminated{EventHead: head(api.TypeSessionStatusTerminated)}
	if silent {
		s.record(e).silent = true
		return
	}
	s.add(e)
}

// Add appends any event to the log.
func (s *Session) Add(e api.Event) {
	s.plane.mu.Lock()
	defer s.plane.mu.Unlock()
	s.add(e)
}

// CallIDs are the ids of the calls so far, in order.
func (s *Session) CallIDs() []string {
	s.plane.mu.Lock()
	defer s.plane.mu.Unlock()
	var ids []string
	for _, c := range s.calls {
		ids = append(ids, c.id)
	}
	return ids
}

// Answer is an accepted result.
type Answer struct {
	Call    string
	Text    string // of its first block
	IsError bool
	Raw     json.RawMessage
}

// Answers are the accepted results, in the order of the calls.
func (s *Session) Answers() []Answer {
	s.plane.mu.Lock()
	defer s.plane.mu.Unlock()
	var all []Answer
	for _, c := range s.calls {
		all = append(all, c.read(c.answers)...)
	}
	return all
}

// read is results in short.
func (c *call) read(results []json.RawMessage) []Answer {
	var all []Answer
	for _, raw := range results {
		var r struct {
			Content []api.Block `json:"content"`
			IsError bool        `json:"is_error"`
		}
		if json.Unmarshal(raw, &r) != nil || len(r.Content) == 0 {
			continue
		}
		all = append(all, Answer{Call: c.id, Text: r.Content[0].Text, IsError: r.IsError, Raw: raw})
	}
	return all
}

// Refused counts results that came for calls already answered, void or
// nobody's.
func (s *Session) Refused() int {
	s.plane.mu.Lock()
	defer s.plane.mu.Unlock()
	n := 0
	for _, c := range s.calls {
		n += len(c.refused)
	}
	return n
}

// Done says whether the session has played all its turns and ended the last.
func (s *Session) Done() bool {
	s.plane.mu.Lock()
	defer s.plane.mu.Unlock()
	return s.status == api.SessionIdle && len(s.turns) == 0 && len(s.open()) == 0
}

// call finds a call of this session. It needs mu.
func (s *Session) call(id string) *call {
	i := slices.IndexFunc(s.calls, func(c *call) bool { return c.id == id })
	if i < 0 {
		return nil
	}
	return s.calls[i]
}

// open are the calls without an answer. It needs mu.
func (s *Session) open() []string {
	var ids []string
	for _, c := range s.calls {
		if len(c.answers) == 0 && !c.void {
			ids = append(ids, c.id)
		}
	}
	return ids
}

// busy says whether a worker has something to do here. It needs mu.
func (s *Session) busy() bool {
	if s.status == api.SessionTerminated {
		return false
	}
	for _, c := range s.calls {
		if len(c.answers) == 0 && !c.void && !c.asked {
			return true
		}
	}
	return s.status == api.SessionRunning
}

func head(kind string) api.EventHead { return api.EventHead{Type: kind} }

// add appends an event with its id and time. It needs mu.
func (s *Session) add(e api.Event) time.Time {
	s.record(e)
	s.plane.change()
	return *e.Head().ProcessedAt
}

func (s *Session) record(e api.Event) *entry {
	h := e.Head()
	if h.ID == "" {
		h.ID = s.plane.id("sevt_")
	}
	now := s.plane.tick()
	h.ProcessedAt = &now
	return s.emit(e)
}

func (s *Session) emit(e api.Event) *entry {
	raw, err := json.Marshal(e)
	if err != nil {
		panic(err) // the types of api marshal
	}
	s.log = append(s.log, entry{kind: e.Head().Type, id: e.Head().ID, raw: raw})
	s.plane.change()
	return &s.log[len(s.log)-1]
}

// deny gives a call the plane's own answer. It needs mu.
func (s *Session) deny(c *call) {
	yes := true
	e := &api.AgentToolResult{EventHead: head(api.TypeAgentToolResult), ToolUseID: c.id, IsError: &yes, Content: []api.Block{api.Text("denied")}}
	s.add(e)
	c.void = true
}

// advance plays turns until one waits for answers. It needs mu.
func (s *Session) advance() {
	if s.status == api.SessionTerminated {
		return
	}
	for {
		if open := s.open(); len(open) > 0 {
			s.status = api.SessionIdle
			s.add(&api.SessionStatusIdle{EventHead: head(api.TypeSessionStatusIdle), StopReason: api.StopReason{Type: api.StopRequiresAction, EventIDs: open}})
			return
		}
		if len(s.turns) == 0 {
			s.status = api.SessionIdle
			s.add(&api.SessionStatusIdle{EventHead: head(api.TypeSessionStatusIdle), StopReason: api.StopReason{Type: api.StopEndTurn}})
			return
		}
		t := s.turns[0]
		s.turns = s.turns[1:]
		s.status = api.SessionRunning
		s.add(&api.SessionStatusRunning{EventHead: head(api.TypeSessionStatusRunning)})
		for _, c := range t.Calls {
			s.play(c)
		}
		if len(t.Calls) == 0 {
			s.add(&api.AgentMessage{EventHead: head(api.TypeAgentMessage), Content: []api.Block{api.Text("done")}})
		}
	}
}

func (s *Session) play(c Call) {
	id := s.plane.id("sevt_")
	named := strings.NewReplacer("{{call}}", id, "{{session}}", s.ID)
	input := json.RawMessage("{}")
	if c.Input != "" {
		input = json.RawMessage(named.Replace(c.Input))
	}
	head := func(kind string) api.EventHead { return api.EventHead{Type: kind, ID: id} }
	var thread *string
	if c.Thread != "" {
		thread = &c.Thread
	}
	var e api.Event
	if c.Custom {
		e = &api.AgentCustomToolUse{EventHead: head(api.TypeAgentCustomToolUse), Name: c.Name, Input: input, SessionThreadID: thread}
	} else {
		e = &api.AgentToolUse{EventHead: head(api.TypeAgentToolUse), Name: c.Name, Input: input, EvaluatedPermission: c.Permission, SessionThreadID: thread}
	}
	at := s.add(e)
	k := &call{
		id: id, name: c.Name, want: named.Replace(c.Want), logs: strings.Contains(c.Input, "{{call}}"),
		custom: c.Custom, at: at, asked: c.Permission == api.PermissionAsk,
	}
	s.calls = append(s.calls, k)
	if c.Permission == api.PermissionDeny {
		s.deny(k)
	}
}

// send takes events in as POST events does. It needs mu.
func (s *Session) send(events []json.RawMessage) (any, *failure) {
	if s.status == api.SessionTerminated {
		return nil, failf(http.StatusBadRequest, "the session is terminated")
	}
	var stored []json.RawMessage
	for _, raw := range events {
		var r struct {
			Type            string      `json:"type"`
			ToolUseID       string      `json:"tool_use_id"`
			CustomToolUseID string      `json:"custom_tool_use_id"`
			Content         []api.Block `json:"content"`
			IsError         *bool       `json:"is_error"`
		}
		if err := json.Unmarshal(raw, &r); err != nil {
			return nil, failf(http.StatusBadRequest, "no JSON: %v", err)
		}
		id := r.ToolUseID + r.CustomToolUseID
		c := s.call(id)
		if c == nil {
			s.nowhere = append(s.nowhere, id)
			return nil, failf(http.StatusBadRequest, "%s answers no call", id)
		}
		text := slices.IndexFunc(r.Content, func(b api.Block) bool { return b.Type == "text" && b.Text == "" })
		switch {
		case r.Type != api.TypeUserToolResult && !c.custom || r.Type != api.TypeUserCustomToolResult && c.custom:
			return nil, failf(http.StatusBadRequest, "%s is no answer to %s", r.Type, id)
		case r.IsError == nil || len(r.Content) == 0 || text >= 0:
			return nil, failf(http.StatusBadRequest, "is_error and a text that is not empty are wanted: %s", raw)
		case len(c.answers) > 0 && bytes.Equal(c.answers[0], raw):
			stored = append(stored, raw)
			continue
		case c.void || c.asked || len(c.answers) > 0:
			c.refused = append(c.refused, raw)
			return nil, failf(http.StatusBadRequest, "%s waits for no answer", id)
		}
		c.answers = append(c.answers, raw)
		e, err := api.DecodeEvent(raw)
		if err != nil {
			return nil, failf(http.StatusBadRequest, "%v", err)
		}
		s.add(e)
		stored = append(stored, s.log[len(s.log)-1].raw)
	}
	s.advance()
	return map[string]any{"data": stored}, nil
}

// wire needs mu.
func (s *Session) wire() *api.Session {
	resources := []json.RawMessage{}
	for _, r := range s.resources {
		raw, err := json.Marshal(r)
		if err != nil {
			panic(err) // it is made of strings
		}
		resources = append(resources, raw)
	}
	return &api.Session{
		ID: s.ID, Type: "session", EnvironmentID: EnvironmentID, Status: s.status, Metadata: api.Metadata{}, Agent: s.plane.agent,
		Resources: resources, VaultIDs: []string{}, OutcomeEvaluations: []json.RawMessage{},
	}
}
