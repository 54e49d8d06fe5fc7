package storetest

import (
	"encoding/json"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
)

// Environment is a plain environment.
func Environment(id, name string, at time.Time) plane.Environment {
	return plane.Environment{Environment: api.Environment{
		ID: id, Type: "environment", Name: name, Config: api.EnvironmentConfig{Type: "self_hosted"},
		Metadata: api.Metadata{"team": "one"}, Scope: "organization", CreatedAt: at, UpdatedAt: at,
	}}
}

// Agent is a version of a plain agent.
func Agent(id string, version int, at time.Time) plane.AgentVersion {
	system := "You are careful."
	return plane.AgentVersion{Agent: api.Agent{
		ID: id, Type: "agent", Version: version, Name: "worker", System: &system,
		Model:      api.ModelConfig{ID: "scripted", Effort: api.Effort{Type: "high"}},
		Tools:      []api.Tool{{Type: api.ToolAgentToolset, Configs: []api.ToolConfig{}}, {Type: api.ToolCustom, Name: "ask", InputSchema: json.RawMessage(`{"type":"object"}`)}},
		MCPServers: []api.MCPServer{}, Skills: []api.SkillRef{}, ExecutionIdentity: api.ExecutionIdentity{Type: "service_account"},
		Metadata: api.Metadata{}, CreatedAt: at, UpdatedAt: at,
	}}
}

// Session is a session at rest of a plain agent.
func Session(id, environment string, at time.Time) plane.Session {
	a := Agent("agent_plain", 1, at)
	title := "a title"
	return plane.Session{
		Session: api.Session{
			ID: id, Type: "session", EnvironmentID: environment, Title: &title, Status: api.SessionIdle,
			Agent: api.SessionAgent{ID: a.ID, Type: "agent", Version: a.Version, Name: a.Name, Model: a.Model, System: a.System,
				Tools: a.Tools, MCPServers: a.MCPServers, Skills: a.Skills, ExecutionIdentity: a.ExecutionIdentity},
			Resources: []json.RawMessage{}, Metadata: api.Metadata{"input": "a"}, VaultIDs: []string{}, OutcomeEvaluations: []json.RawMessage{},
			CreatedAt: at, UpdatedAt: at,
		},
		ThreadID: "sthr_" + id, Turn: plane.TurnRest,
	}
}
