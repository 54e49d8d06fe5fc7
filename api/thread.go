package api

// SessionThread is one line of work inside a session. Every session has a
// primary thread, whose ParentThreadID is null.
type SessionThread struct {
	ID             string             `json:"id"`
	Type           string             `json:"type"` // "session_thread"
	SessionID      string             `json:"session_id"`
	ParentThreadID *string            `json:"parent_thread_id"`
	Agent          SessionThreadAgent `json:"agent"`
	Status         SessionStatus      `json:"status"`
	Stats          *ThreadStats       `json:"stats"`
	Usage          *SessionUsage      `json:"usage"`
	WorkflowRunID  *string            `json:"workflow_run_id"`
	ArchivedAt     *Time              `json:"archived_at"`
	CreatedAt      Time               `json:"created_at"`
	UpdatedAt      Time               `json:"updated_at"`
}

// SessionThreadAgent is a SessionAgent without its multiagent part.
type SessionThreadAgent struct {
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
	ExecutionIdentity ExecutionIdentity `json:"execution_identity"`
}

// ThreadStats are in seconds.
type ThreadStats struct {
	ActiveSeconds   float64 `json:"active_seconds"`
	DurationSeconds float64 `json:"duration_seconds"`
	StartupSeconds  float64 `json:"startup_seconds"`
}
