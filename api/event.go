package api

import (
	"bytes"
	"encoding/json"
	"fmt"

	xjson "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Event is one entry of a session's log: a pointer to one of the types in
// this package whose names begin with User, System, Agent, Session, Span,
// WorkflowRun or Event. An event of a type this package does not know is an
// *UnknownEvent.
type Event interface {
	// Head is the part that all events share; change it through the pointer.
	Head() *EventHead
}

// EventHead is what every event starts with. ProcessedAt is null while a
// client's event waits in the queue.
type EventHead struct {
	ID          string `json:"id"`
	Type        string `json:"type"`
	ProcessedAt *Time  `json:"processed_at"`
}

// Head gives the head itself, so that embedding it makes an Event.
func (h *EventHead) Head() *EventHead { return h }

// Event types. The names on the wire are the values.
const (
	TypeUserMessage          = "user.message"
	TypeUserInterrupt        = "user.interrupt"
	TypeUserToolConfirmation = "user.tool_confirmation"
	TypeUserCustomToolResult = "user.custom_tool_result"
	TypeUserToolResult       = "user.tool_result"
	TypeUserDefineOutcome    = "user.define_outcome"
	TypeSystemMessage        = "system.message"

	TypeAgentMessage                = "agent.message"
	TypeAgentThinking               = "agent.thinking"
	TypeAgentToolUse                = "agent.tool_use"
	TypeAgentToolResult             = "agent.tool_result"
	TypeAgentMCPToolUse             = "agent.mcp_tool_use"
	TypeAgentMCPToolResult          = "agent.mcp_tool_result"
	TypeAgentCustomToolUse          = "agent.custom_tool_use"
	TypeAgentThreadMessageSent      = "agent.thread_message_sent"
	TypeAgentThreadMessageReceived  = "agent.thread_message_received"
	TypeAgentThreadContextCompacted = "agent.thread_context_compacted"

	TypeSessionStatusRunning           = "session.status_running"
	TypeSessionStatusIdle              = "session.status_idle"
	TypeSessionStatusRescheduled       = "session.status_rescheduled"
	TypeSessionStatusTerminated        = "session.status_terminated"
	TypeSessionError                   = "session.error"
	TypeSessionUpdated                 = "session.updated"
	TypeSessionUsage                   = "session.usage"
	TypeSessionDeleted                 = "session.deleted"
	TypeSessionThreadCreated           = "session.thread_created"
	TypeSessionThreadStatusRunning     = "session.thread_status_running"
	TypeSessionThreadStatusIdle        = "session.thread_status_idle"
	TypeSessionThreadStatusRescheduled = "session.thread_status_rescheduled"
	TypeSessionThreadStatusTerminated  = "session.thread_status_terminated"

	TypeSpanModelRequestStart        = "span.model_request_start"
	TypeSpanModelRequestEnd          = "span.model_request_end"
	TypeSpanOutcomeEvaluationStart   = "span.outcome_evaluation_start"
	TypeSpanOutcomeEvaluationOngoing = "span.outcome_evaluation_ongoing"
	TypeSpanOutcomeEvaluationEnd     = "span.outcome_evaluation_end"

	TypeWorkflowRunCreated       = "workflow_run.created"
	TypeWorkflowRunStatusRunning = "workflow_run.status_running"
	TypeWorkflowRunStatusIdle    = "workflow_run.status_idle"
	TypeWorkflowRunStatusEnded   = "workflow_run.status_ended"
	TypeWorkflowRunError         = "workflow_run.error"
	TypeWorkflowRunPhaseStarted  = "workflow_run.phase_started"
	TypeWorkflowRunPhaseEnded    = "workflow_run.phase_ended"

	TypeEventStart = "event_start"
	TypeEventDelta = "event_delta"
)

// events makes an empty event of each type.
var events = map[string]func() Event{
	TypeUserMessage:          func() Event { return &UserMessage{} },
	TypeUserInterrupt:        func() Event { return &UserInterrupt{} },
	TypeUserToolConfirmation: func() Event { return &UserToolConfirmation{} },
	TypeUserCustomToolResult: func() Event { return &UserCustomToolResult{} },
	TypeUserToolResult:       func() Event { return &UserToolResult{} },
	TypeUserDefineOutcome:    func() Event { return &UserDefineOutcome{} },
	TypeSystemMessage:        func() Event { return &SystemMessage{} },

	TypeAgentMessage:                func() Event { return &AgentMessage{} },
	TypeAgentThinking:               func() Event { return &AgentThinking{} },
	TypeAgentToolUse:                func() Event { return &AgentToolUse{} },
	TypeAgentToolResult:             func() Event { return &AgentToolResult{} },
	TypeAgentMCPToolUse:             func() Event { return &AgentMCPToolUse{} },
	TypeAgentMCPToolResult:          func() Event { return &AgentMCPToolResult{} },
	TypeAgentCustomToolUse:          func() Event { return &AgentCustomToolUse{} },
	TypeAgentThreadMessageSent:      func() Event { return &AgentThreadMessageSent{} },
	TypeAgentThreadMessageReceived:  func() Event { return &AgentThreadMessageReceived{} },
	TypeAgentThreadContextCompacted: func() Event { return &AgentThreadContextCompacted{} },

	TypeSessionStatusRunning:           func() Event { return &SessionStatusRunning{} },
	TypeSessionStatusIdle:              func() Event { return &SessionStatusIdle{} },
	TypeSessionStatusRescheduled:       func() Event { return &SessionStatusRescheduled{} },
	TypeSessionStatusTerminated:        func() Event { return &SessionStatusTerminated{} },
	TypeSessionError:                   func() Event { return &SessionError{} },
	TypeSessionUpdated:                 func() Event { return &SessionUpdated{} },
	TypeSessionUsage:                   func() Event { return &SessionUsageEvent{} },
	TypeSessionDeleted:                 func() Event { return &SessionDeleted{} },
	TypeSessionThreadCreated:           func() Event { return &SessionThreadCreated{} },
	TypeSessionThreadStatusRunning:     func() Event { return &SessionThreadStatus{} },
	TypeSessionThreadStatusIdle:        func() Event { return &SessionThreadStatusIdle{} },
	TypeSessionThreadStatusRescheduled: func() Event { return &SessionThreadStatus{} },
	TypeSessionThreadStatusTerminated:  func() Event { return &SessionThreadStatus{} },

	TypeSpanModelRequestStart:        func() Event { return &SpanModelRequestStart{} },
	TypeSpanModelRequestEnd:          func() Event { return &SpanModelRequestEnd{} },
	TypeSpanOutcomeEvaluationStart:   func() Event { return &SpanOutcomeEvaluation{} },
	TypeSpanOutcomeEvaluationOngoing: func() Event { return &SpanOutcomeEvaluation{} },
	TypeSpanOutcomeEvaluationEnd:     func() Event { return &SpanOutcomeEvaluationEnd{} },

	TypeWorkflowRunCreated:       func() Event { return &WorkflowRunCreated{} },
	TypeWorkflowRunStatusRunning: func() Event { return &WorkflowRunStatus{} },
	TypeWorkflowRunStatusIdle:    func() Event { return &WorkflowRunStatus{} },
	TypeWorkflowRunStatusEnded:   func() Event { return &WorkflowRunEnded{} },
	TypeWorkflowRunError:         func() Event { return &WorkflowRunError{} },
	TypeWorkflowRunPhaseStarted:  func() Event { return &WorkflowRunPhase{} },
	TypeWorkflowRunPhaseEnded:    func() Event { return &WorkflowRunPhase{} },

	TypeEventStart: func() Event { return &EventStart{} },
	TypeEventDelta: func() Event { return &EventDelta{} },
}

// KnownEventType says whether this package has a type for the name.
func KnownEventType(name string) bool { return events[name] != nil }

// DecodeEvent reads one event as a client does: unknown members pass and an
// unknown type becomes an *UnknownEvent.
func DecodeEvent(raw []byte) (Event, error) { return DecodeEventAs(raw, nil) }

// DecodeEventAs is DecodeEvent into what as gives for a type, and where that is
// nil into the type's own.
func DecodeEventAs(raw []byte, as func(kind string) Event) (Event, error) {
	empty := func(kind string) Event {
		if as != nil {
			if e := as(kind); e != nil {
				return e
			}
		}
		if newEvent := events[kind]; newEvent != nil {
			return newEvent()
		}
		return nil
	}
	// The type is found by its looks first, which mostly spares a second pass
	// over the event; what was decoded says whether that was right.
	if _, rest, ok := bytes.Cut(raw, []byte(`"type":"`)); ok {
		name, _, _ := bytes.Cut(rest, []byte{'"'})
		if e := empty(string(name)); e != nil && DecodeAnswer(raw, e) == nil && e.Head().Type == string(name) {
			return e, nil
		}
	}
	var head EventHead
	if err := DecodeAnswer(raw, &head); err != nil {
		return nil, fmt.Errorf("decode event: %w", err)
	}
	e := empty(head.Type)
	if e == nil {
		return &UnknownEvent{head, bytes.Clone(raw)}, nil
	}
	if err := DecodeAnswer(raw, e); err != nil {
		return nil, fmt.Errorf("decode %s event: %w", head.Type, err)
	}
	return e, nil
}

// UnknownEvent is an event of a type newer than this package.
type UnknownEvent struct {
	EventHead
	Raw json.RawMessage `json:"-"`
}

func (e *UnknownEvent) MarshalJSON() ([]byte, error) { return e.Raw, nil }

// EventList is a list of events of any type on the wire.
type EventList []Event

func (l *EventList) UnmarshalJSON(b []byte) error { return DecodeAnswer(b, l) }

func (l *EventList) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	return xjson.UnmarshalDecode(dec, (*[]Event)(l), anyEvent)
}

// anyEvent decodes an event of whatever type it is.
var anyEvent = xjson.WithUnmarshalers(xjson.UnmarshalFromFunc(func(dec *jsontext.Decoder, e *Event) error {
	raw, err := dec.ReadValue()
	if err == nil {
		*e, err = DecodeEvent(raw)
	}
	return err
}))

// Sent by clients.

type UserMessage struct {
	EventHead
	Content []Block `json:"content"`
}

// UserInterrupt stops the turn: of one thread, or of the whole session.
type UserInterrupt struct {
	EventHead
	SessionThreadID *string `json:"session_thread_id,omitempty"`
}

// UserToolConfirmation answers a call that asked: "allow" or "deny".
type UserToolConfirmation struct {
	EventHead
	ToolUseID       string  `json:"tool_use_id"`
	Result          string  `json:"result"`
	DenyMessage     *string `json:"deny_message,omitempty"`
	SessionThreadID *string `json:"session_thread_id,omitempty"`
}

type UserCustomToolResult struct {
	EventHead
	CustomToolUseID string  `json:"custom_tool_use_id"`
	Content         []Block `json:"content,omitempty"`
	IsError         *bool   `json:"is_error,omitempty"`
	SessionThreadID *string `json:"session_thread_id,omitempty"`
}

// UserToolResult is a worker's answer to an agent.tool_use.
type UserToolResult struct {
	EventHead
	ToolUseID       string  `json:"tool_use_id"`
	Content         []Block `json:"content,omitempty"`
	IsError         *bool   `json:"is_error,omitempty"`
	SessionThreadID *string `json:"session_thread_id,omitempty"`
}

type UserDefineOutcome struct {
	EventHead
	Description   string  `json:"description"`
	Rubric        *Rubric `json:"rubric"`
	MaxIterations *int    `json:"max_iterations,omitempty"`
	OutcomeID     string  `json:"outcome_id,omitempty"`
}

// Rubric is how an outcome is judged: text, or a file.
type Rubric struct {
	Type    string `json:"type"`
	Content string `json:"content,omitempty"`
	FileID  string `json:"file_id,omitempty"`
}

type SystemMessage struct {
	EventHead
	Content []Block `json:"content"`
}

// Written by the agent loop.

type AgentMessage struct {
	EventHead
	Content []Block `json:"content"`
}

// AgentThinking is a sign of progress and nothing else.
type AgentThinking struct{ EventHead }

// Permission is what became of a call's policy: allow, ask or deny.
type Permission string

const (
	PermissionAllow Permission = "allow"
	PermissionAsk   Permission = "ask"
	PermissionDeny  Permission = "deny"
)

// Evaluation says which policy decided: always_allow, always_ask, or auto
// with its verdict.
type Evaluation struct {
	Type                string       `json:"type"`
	EvaluatedPermission *AutoVerdict `json:"evaluated_permission,omitempty"`
}

type AutoVerdict struct {
	Type       Permission `json:"type"`
	ReasonCode string     `json:"reason_code,omitempty"`
}

// AgentToolUse asks for a tool of the agent toolset. Its id is the
// tool_use_id of the answer.
type AgentToolUse struct {
	EventHead
	Name                string          `json:"name"`
	Input               json.RawMessage `json:"input"`
	EvaluatedPermission Permission      `json:"evaluated_permission,omitempty"`
	Evaluation          *Evaluation     `json:"evaluation,omitempty"`
	SessionThreadID     *string         `json:"session_thread_id,omitempty"`
}

// AgentToolResult is an answer given by the control plane itself.
type AgentToolResult struct {
	EventHead
	ToolUseID string  `json:"tool_use_id"`
	Content   []Block `json:"content,omitempty"`
	IsError   *bool   `json:"is_error,omitempty"`
}

type AgentMCPToolUse struct {
	EventHead
	Name                string          `json:"name"`
	MCPServerName       string          `json:"mcp_server_name"`
	Input               json.RawMessage `json:"input"`
	EvaluatedPermission Permission      `json:"evaluated_permission,omitempty"`
	Evaluation          *Evaluation     `json:"evaluation,omitempty"`
	SessionThreadID     *string         `json:"session_thread_id,omitempty"`
}

type AgentMCPToolResult struct {
	EventHead
	MCPToolUseID string  `json:"mcp_tool_use_id"`
	Content      []Block `json:"content,omitempty"`
	IsError      *bool   `json:"is_error,omitempty"`
}

type AgentCustomToolUse struct {
	EventHead
	Name            string          `json:"name"`
	Input           json.RawMessage `json:"input"`
	SessionThreadID *string         `json:"session_thread_id,omitempty"`
}

type AgentThreadMessageSent struct {
	EventHead
	Content           []Block `json:"content"`
	ToSessionThreadID string  `json:"to_session_thread_id"`
	ToAgentName       *string `json:"to_agent_name,omitempty"`
}

type AgentThreadMessageReceived struct {
	EventHead
	Content             []Block `json:"content"`
	FromSessionThreadID string  `json:"from_session_thread_id"`
	FromAgentName       *string `json:"from_agent_name,omitempty"`
}

type AgentThreadContextCompacted struct{ EventHead }

// Written by the session.

type SessionStatusRunning struct{ EventHead }
type SessionStatusRescheduled struct{ EventHead }
type SessionStatusTerminated struct{ EventHead }
type SessionDeleted struct{ EventHead }

type SessionStatusIdle struct {
	EventHead
	StopReason  StopReason   `json:"stop_reason"`
	StopDetails *StopDetails `json:"stop_details"`
}

// Stop reasons.
const (
	StopEndTurn          = "end_turn"
	StopRequiresAction   = "requires_action"
	StopRetriesExhausted = "retries_exhausted"
	StopBudgetReached    = "budget_reached"
	StopRefusal          = "refusal"
)

// StopReason says why a session is idle. EventIDs are the calls that block it,
// for requires_action.
type StopReason struct {
	Type     string   `json:"type"`
	EventIDs []string `json:"event_ids,omitempty"`
}

// StopDetails explains a refusal.
type StopDetails struct {
	Type        string  `json:"type"`
	Category    *string `json:"category"`
	Explanation *string `json:"explanation"`
}

type SessionError struct {
	EventHead
	Error SessionErrorBody `json:"error"`
}

// Session error types that the loop emits; the contract lists more.
const (
	SessionErrUnknown       = "unknown_error"
	SessionErrOverloaded    = "model_overloaded_error"
	SessionErrRateLimited   = "model_rate_limited_error"
	SessionErrRequestFailed = "model_request_failed_error"
	SessionErrBilling       = "billing_error"
)

// Retry statuses: the server tries again by itself, has given up this turn,
// or has given up the session.
const (
	RetryRetrying  = "retrying"
	RetryExhausted = "exhausted"
	RetryTerminal  = "terminal"
)

type SessionErrorBody struct {
	Type          string      `json:"type"`
	Message       string      `json:"message"`
	RetryStatus   RetryStatus `json:"retry_status"`
	MCPServerName string      `json:"mcp_server_name,omitempty"`
	CredentialID  string      `json:"credential_id,omitempty"`
	VaultID       string      `json:"vault_id,omitempty"`
	RepositoryURL *string     `json:"repository_url,omitempty"`
}

type RetryStatus struct {
	Type string `json:"type"`
}

// SessionUpdated carries what changed and nothing else.
type SessionUpdated struct {
	EventHead
	Title    *string         `json:"title,omitempty"`
	Metadata Metadata        `json:"metadata,omitempty"`
	Agent    *SessionAgent   `json:"agent,omitempty"`
	Budget   json.RawMessage `json:"budget,omitempty"`
}

// SessionUsageEvent is the session's usage so far, before each idle.
type SessionUsageEvent struct {
	EventHead
	Usage  SessionUsage    `json:"usage"`
	Budget json.RawMessage `json:"budget"`
}

type SessionThreadCreated struct {
	EventHead
	SessionThreadID string  `json:"session_thread_id"`
	AgentName       string  `json:"agent_name"`
	WorkflowRunID   *string `json:"workflow_run_id"`
}

// SessionThreadStatus is thread_status_running, _rescheduled or _terminated.
type SessionThreadStatus struct {
	EventHead
	SessionThreadID string `json:"session_thread_id"`
	AgentName       string `json:"agent_name"`
}

type SessionThreadStatusIdle struct {
	EventHead
	SessionThreadID string       `json:"session_thread_id"`
	AgentName       string       `json:"agent_name"`
	StopReason      StopReason   `json:"stop_reason"`
	StopDetails     *StopDetails `json:"stop_details"`
}

// Spans.

type SpanModelRequestStart struct{ EventHead }

type SpanModelRequestEnd struct {
	EventHead
	ModelRequestStartID string     `json:"model_request_start_id"`
	IsError             bool       `json:"is_error"`
	ModelUsage          ModelUsage `json:"model_usage"`
}

// ModelUsage is what one model request used.
type ModelUsage struct {
	InputTokens              int64  `json:"input_tokens"`
	OutputTokens             int64  `json:"output_tokens"`
	CacheCreationInputTokens int64  `json:"cache_creation_input_tokens"`
	CacheReadInputTokens     int64  `json:"cache_read_input_tokens"`
	Speed                    string `json:"speed,omitempty"`
}

// SpanOutcomeEvaluation is span.outcome_evaluation_start or _ongoing.
type SpanOutcomeEvaluation struct {
	EventHead
	OutcomeID string `json:"outcome_id"`
	Iteration int    `json:"iteration"`
}

type SpanOutcomeEvaluationEnd struct {
	EventHead
	OutcomeEvaluationStartID string     `json:"outcome_evaluation_start_id"`
	OutcomeID                string     `json:"outcome_id"`
	Iteration                int        `json:"iteration"`
	Result                   string     `json:"result"`
	Explanation              string     `json:"explanation"`
	Usage                    ModelUsage `json:"usage"`
}

// Workflow runs.

type WorkflowRunCreated struct {
	EventHead
	WorkflowRunID string          `json:"workflow_run_id"`
	Name          string          `json:"name"`
	Description   *string         `json:"description"`
	Phases        []WorkflowPhase `json:"phases"`
}

type WorkflowPhase struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description"`
}

// WorkflowRunStatus is workflow_run.status_running or .status_idle.
type WorkflowRunStatus struct {
	EventHead
	WorkflowRunID string `json:"workflow_run_id"`
}

type WorkflowRunEnded struct {
	EventHead
	WorkflowRunID string          `json:"workflow_run_id"`
	Result        json.RawMessage `json:"result"`
}

type WorkflowRunError struct {
	EventHead
	WorkflowRunID *string           `json:"workflow_run_id"`
	Error         WorkflowRunReason `json:"error"`
}

type WorkflowRunReason struct {
	Type    string `json:"type"`
	Message string `json:"message"`
}

// WorkflowRunPhase is workflow_run.phase_started or .phase_ended.
type WorkflowRunPhase struct {
	EventHead
	WorkflowRunID      string `json:"workflow_run_id"`
	WorkflowRunPhaseID string `json:"workflow_run_phase_id"`
	PhaseStartedID     string `json:"phase_started_id,omitempty"`
}

// Previews, on streams that asked for them; never stored, no id of their own.

// EventStart announces an agent.message or agent.thinking that is being
// written; the finished event will carry the same id.
type EventStart struct {
	Type  string       `json:"type"`
	Event EventPreview `json:"event"`
}

// Head gives a copy of what there is of one; changes to it go nowhere.
func (e *EventStart) Head() *EventHead { return &EventHead{Type: e.Type} }

type EventPreview struct {
	ID   string `json:"id"`
	Type string `json:"type"`
}

// EventDelta adds text to a previewed message.
type EventDelta struct {
	Type    string       `json:"type"`
	EventID string       `json:"event_id"`
	Delta   ContentDelta `json:"delta"`
}

// Head gives a copy of what there is of one; changes to it go nowhere.
func (e *EventDelta) Head() *EventHead { return &EventHead{Type: e.Type} }

// ContentDelta inserts a block at a new index and appends to a known one.
type ContentDelta struct {
	Type    string `json:"type"` // "content_delta"
	Index   int    `json:"index"`
	Content Block  `json:"content"`
}
