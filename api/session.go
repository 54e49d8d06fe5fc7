package api

import (
	"encoding/json"

	xjson "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// SessionStatus is what a session is doing. Waiting for a tool result is
// idle; the last session.status_idle event says for what.
type SessionStatus string

const (
	SessionIdle         SessionStatus = "idle"
	SessionRunning      SessionStatus = "running"
	SessionRescheduling SessionStatus = "rescheduling"
	SessionTerminated   SessionStatus = "terminated"
)

// Session is one conversation with an agent and the log of its events.
type Session struct {
	ID                 string            `json:"id"`
	Type               string            `json:"type"` // "session"
	EnvironmentID      string            `json:"environment_id"`
	Title              *string           `json:"title"`
	Status             SessionStatus     `json:"status"`
	Agent              SessionAgent      `json:"agent"`
	Resources          []json.RawMessage `json:"resources"`
	Metadata           Metadata          `json:"metadata"`
	VaultIDs           []string          `json:"vault_ids"`
	Stats              SessionStats      `json:"stats"`
	Usage              SessionUsage      `json:"usage"`
	OutcomeEvaluations []json.RawMessage `json:"outcome_evaluations"`
	Budget             json.RawMessage   `json:"budget"`
	DeploymentID       *string           `json:"deployment_id"`
	CreatedAt          Time              `json:"created_at"`
	UpdatedAt          Time              `json:"updated_at"`
	ArchivedAt         *Time             `json:"archived_at"`
}

// SessionAgent is the agent as it was when the session began.
type SessionAgent struct {
	ID                string            `json:"id"`
	Type              string            `json:"type"` // "agent"
	Version           int               `json:"version"`
	Name              string            `json:"name"`
	Description       *string           `json:"description"`
	Model             ModelConfig       `json:"model"`
	System            *string           `json:"system"`
	Tools             []Tool            `json:"tools"`
	MCPServers        []MCPServer       `json:"mcp_servers"`
	Skills            []SkillRef        `json:"skills"`
	Multiagent        json.RawMessage   `json:"multiagent"`
	ExecutionIdentity ExecutionIdentity `json:"execution_identity"`
}

// SessionStats are in seconds. Active is time spent in turns.
type SessionStats struct {
	ActiveSeconds   float64 `json:"active_seconds"`
	DurationSeconds float64 `json:"duration_seconds"`
}

// SessionUsage sums what the session's model requests used.
type SessionUsage struct {
	InputTokens          int64           `json:"input_tokens"`
	OutputTokens         int64           `json:"output_tokens"`
	CacheReadInputTokens int64           `json:"cache_read_input_tokens"`
	CacheCreation        CacheCreation   `json:"cache_creation"`
	ActiveSeconds        float64         `json:"active_seconds"`
	ListCost             json.RawMessage `json:"list_cost,omitempty"`
	ServerToolUse        json.RawMessage `json:"server_tool_use,omitempty"`
}

type CacheCreation struct {
	Ephemeral5mInputTokens int64 `json:"ephemeral_5m_input_tokens"`
	Ephemeral1hInputTokens int64 `json:"ephemeral_1h_input_tokens"`
}

// CreateSession starts a session. InitialEvents hold user.message and
// user.define_outcome only, at most 50.
type CreateSession struct {
	Agent         AgentRef          `json:"agent"`
	EnvironmentID string            `json:"environment_id"`
	Title         *string           `json:"title,omitempty"`
	Metadata      Metadata          `json:"metadata,omitempty"`
	InitialEvents []json.RawMessage `json:"initial_events,omitempty"`
	Resources     []json.RawMessage `json:"resources,omitempty"`
	VaultIDs      []string          `json:"vault_ids,omitempty"`
	Budget        json.RawMessage   `json:"budget,omitempty"`
}

// AgentRef names the agent of a session: a bare id pins its latest version;
// type "agent_with_overrides" replaces some of its parts for this session.
type AgentRef struct {
	Type       string                `json:"type"`
	ID         string                `json:"id"`
	Version    *int                  `json:"version,omitempty"`
	Model      Optional[ModelConfig] `json:"model,omitzero"`
	System     Optional[string]      `json:"system,omitzero"`
	Tools      Optional[[]Tool]      `json:"tools,omitzero"`
	MCPServers Optional[[]MCPServer] `json:"mcp_servers,omitzero"`
	Skills     Optional[[]SkillRef]  `json:"skills,omitzero"`
}

func (r *AgentRef) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	if dec.PeekKind() == '"' {
		*r = AgentRef{Type: "agent"}
		return xjson.UnmarshalDecode(dec, &r.ID)
	}
	type plain AgentRef
	return xjson.UnmarshalDecode(dec, (*plain)(r))
}

func (r *AgentRef) UnmarshalJSON(b []byte) error { return xjson.Unmarshal(b, r) }

type UpdateSession struct {
	Title    Optional[string]             `json:"title,omitzero"`
	Metadata Optional[MetadataPatch]      `json:"metadata,omitzero"`
	Agent    Optional[UpdateSessionAgent] `json:"agent,omitzero"`
	Budget   Optional[json.RawMessage]    `json:"budget,omitzero"`
	VaultIDs Optional[[]string]           `json:"vault_ids,omitzero"`
}

type UpdateSessionAgent struct {
	Tools      Optional[[]Tool]      `json:"tools,omitzero"`
	MCPServers Optional[[]MCPServer] `json:"mcp_servers,omitzero"`
}

// SendEvents appends events to a session, all or none.
type SendEvents struct {
	Events []json.RawMessage `json:"events"`
}

// SentEvents answers SendEvents: the stored events with their ids, in order.
type SentEvents struct {
	Data EventList `json:"data"`
}
