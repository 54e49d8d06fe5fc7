package worker

import (
	"strings"
	"time"

	"github.com/berthdev/berth/api"
)

// note is what a tool runner keeps of an event.
type note struct {
	kind string    // the event's type
	id   string    // the event's id; of a call, the tool-use id
	at   time.Time // processed_at, zero while the event is queued

	call    *pending       // a tool use
	ref     string         // the call a result, confirmation or synthetic answer is about
	verdict string         // of a confirmation
	thread  string         // session_thread_id, where there is one
	stop    api.StopReason // of an idle
}

// pending is a call that the session waits for.
type pending struct {
	Call
	at         time.Time
	thread     string
	permission api.Permission
	state      callState
	begun      bool          // it may have run, here or before
	result     []byte        // of a callUnsent
	takes      int64         // see keep
	echoed     chan struct{} // closed when its answer is seen in the log
}

// callState is where a call stands with this runner.
type callState int

const (
	callQueued   callState = iota // to be run, in its order
	callHeld                      // waits for a person's verdict
	callRunning                   // runs, or its result is being posted
	callUnsent                    // its result could not be sent in time; the next history pass tries again
	callSettled                   // posted, or refused for good
	callAnswered                  // the log has its answer
	callForeign                   // somebody else's to answer: denied, not owned, or its thread has ended
	callVoid                      // an interrupt came after it in the log
)

// maxWord is longer than any id, name or kind that counts.
const maxWord = maxToolName + 1

// word is as much of s as a note keeps.
func word(s string) string {
	if len(s) <= maxWord {
		return s
	}
	return strings.Clone(s[:maxWord])
}

// answer is what a runner wants of a tool's result.
type answer struct {
	api.EventHead
	ToolUseID       string `json:"tool_use_id"`
	CustomToolUseID string `json:"custom_tool_use_id"`
}

// lean gives what an event of a stream is decoded into when digest takes little
// of it.
func lean(kind string) api.Event {
	switch kind {
	case api.TypeUserToolResult, api.TypeUserCustomToolResult, api.TypeAgentToolResult:
		return &answer{}
	case api.TypeUserMessage, api.TypeAgentMessage, api.TypeAgentThinking, api.TypeSessionStatusRunning, api.TypeSessionUsage,
		api.TypeSpanModelRequestStart, api.TypeSpanModelRequestEnd:
		return &api.EventHead{}
	}
	return nil
}

// digest takes from an event what a tool runner needs.
func digest(e api.Event) note {
	head := e.Head()
	n := note{kind: word(head.Type), id: word(head.ID)}
	if head.ProcessedAt != nil {
		n.at = *head.ProcessedAt
	}
	switch e := e.(type) {
	case *api.AgentToolUse:
		n.thread = word(deref(e.SessionThreadID))
		n.call = &pending{Call: Call{ID: n.id, Name: word(e.Name), Input: e.Input}, permission: api.Permission(word(string(e.EvaluatedPermission)))}
	case *api.AgentCustomToolUse:
		n.thread = word(deref(e.SessionThreadID))
		n.call = &pending{Call: Call{ID: n.id, Name: word(e.Name), Input: e.Input, Custom: true}}
	case *answer:
		n.ref = word(e.ToolUseID)
		if n.kind == api.TypeUserCustomToolResult {
			n.ref = word(e.CustomToolUseID)
		}
	case *api.UserToolResult:
		n.ref = word(e.ToolUseID)
	case *api.UserCustomToolResult:
		n.ref = word(e.CustomToolUseID)
	case *api.AgentToolResult:
		n.ref = word(e.ToolUseID)
	case *api.UserToolConfirmation:
		n.ref, n.verdict = word(e.ToolUseID), word(e.Result)
	case *api.UserInterrupt:
		n.thread = word(deref(e.SessionThreadID))
	case *api.SessionStatusIdle:
		n.stop = e.StopReason
		n.stop.Type = word(n.stop.Type)
	case *api.SessionThreadStatus:
		n.thread = word(e.SessionThreadID)
	case *api.SessionThreadStatusIdle:
		n.thread = word(e.SessionThreadID)
	}
	if n.call != nil {
		n.call.at, n.call.thread = n.at, n.thread
		n.call.echoed = make(chan struct{})
	}
	return n
}

// answers says that the log has the answer to a call, ref.
func (n note) answers() bool {
	return n.kind == api.TypeUserToolResult || n.kind == api.TypeUserCustomToolResult || n.kind == api.TypeAgentToolResult
}

// endsTurn says that the session is idle and waits for no action.
func (n note) endsTurn() bool {
	return n.kind == api.TypeSessionStatusIdle && n.stop.Type != api.StopRequiresAction
}

// neutral events are no sign of activity: the idle clock does not mind them.
func (n note) neutral() bool {
	return n.kind == api.TypeUserToolConfirmation || n.kind == api.TypeUserInterrupt
}

// interrupts says that every call before it is void.
func (n note) interrupts() bool {
	return n.kind == api.TypeUserInterrupt && n.thread == "" && !n.at.IsZero()
}

// ends says that the session is over.
func (n note) ends() bool {
	return n.kind == api.TypeSessionStatusTerminated || n.kind == api.TypeSessionDeleted
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
