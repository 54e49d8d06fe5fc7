package plane

import (
	"bytes"
	"encoding/json"
	"maps"
	"time"

	"github.com/berthdev/berth/api"
)

// Limits of an agent, in characters and entries.
const (
	maxAgentName = 256
	maxSystem    = 100_000
)

// NewAgent is version 1 of the agent that a create request asks for, with its
// tools and model resolved.
func NewAgent(c api.CreateAgent, now time.Time) (AgentVersion, error) {
	a := api.Agent{
		ID: NewID(PrefixAgent), Type: "agent", Version: 1, Name: c.Name,
		Description: emptyIsNil(c.Description), System: emptyIsNil(c.System),
		Tools: c.Tools, MCPServers: c.MCPServers, Skills: c.Skills,
		Multiagent: c.Multiagent, Metadata: maps.Clone(c.Metadata),
		CreatedAt: now, UpdatedAt: now,
	}
	if a.Metadata == nil {
		a.Metadata = api.Metadata{}
	}
	if c.ExecutionIdentity != nil {
		a.ExecutionIdentity = *c.ExecutionIdentity
	}
	a.Model = c.Model
	if err := resolveAgent(&a); err != nil {
		return AgentVersion{}, err
	}
	return AgentVersion{a}, nil
}

// UpdatedAgent is the version after cur that an update asks for. An update
// that changes nothing gives cur itself and changed false, but a wrong
// expected version is a Conflict even then.
func UpdatedAgent(cur AgentVersion, u api.UpdateAgent, now time.Time) (next AgentVersion, changed bool, err error) {
	if cur.ArchivedAt != nil {
		return cur, false, Errorf(Invalid, "agent %s is archived and cannot be changed", cur.ID)
	}
	if u.Version.Set && !u.Version.Null {
		if u.Version.Value < 1 {
			return cur, false, Errorf(Invalid, "must be at least 1").In("version")
		}
		if u.Version.Value != cur.Version {
			return cur, false, Errorf(Conflict, "agent %s is at version %d, not %d; get it and apply the change to what is there", cur.ID, cur.Version, u.Version.Value).In("version")
		}
	}
	a := cur.Agent
	if u.Name.Set {
		if u.Name.Null {
			return cur, false, Errorf(Invalid, "cannot be cleared").In("name")
		}
		a.Name = u.Name.Value
	}
	if u.Model.Set {
		if u.Model.Null {
			return cur, false, Errorf(Invalid, "cannot be cleared").In("model")
		}
		a.Model = u.Model.Value
	}
	if u.System.Set {
		a.System = emptyIsNil(&u.System.Value)
	}
	if u.Description.Set {
		a.Description = emptyIsNil(&u.Description.Value)
	}
	if u.Tools.Set {
		a.Tools = u.Tools.Value
	}
	if u.MCPServers.Set {
		a.MCPServers = u.MCPServers.Value
	}
	if u.Skills.Set {
		a.Skills = u.Skills.Value
	}
	if u.Multiagent.Set {
		a.Multiagent = u.Multiagent.Value
	}
	if u.ExecutionIdentity.Set {
		a.ExecutionIdentity = u.ExecutionIdentity.Value
	}
	if u.Metadata.Set && !u.Metadata.Null {
		a.Metadata = PatchMetadata(cur.Metadata, u.Metadata.Value, false)
	}
	if err := resolveAgent(&a); err != nil {
		return cur, false, err
	}
	if sameJSON(a, cur.Agent) {
		return cur, false, nil
	}
	a.Version, a.UpdatedAt = cur.Version+1, now
	return AgentVersion{a}, true, nil
}

// ArchivedAgent is cur taken out of use; archiving twice changes nothing.
func ArchivedAgent(cur AgentVersion, now time.Time) AgentVersion {
	if cur.ArchivedAt == nil {
		cur.ArchivedAt, cur.UpdatedAt = &now, now
	}
	return cur
}

// SnapshotAgent is the agent as a session keeps it: a with the overrides of
// ref applied and everything resolved. Fields in errors stand under "agent".
func SnapshotAgent(a AgentVersion, ref api.AgentRef) (api.SessionAgent, error) {
	if a.ArchivedAt != nil {
		return api.SessionAgent{}, Errorf(Invalid, "agent %s is archived", a.ID).In("agent")
	}
	b := a.Agent
	overrides := ref.Model.Set || ref.System.Set || ref.Tools.Set || ref.MCPServers.Set || ref.Skills.Set
	if overrides && ref.Type != "agent_with_overrides" {
		return api.SessionAgent{}, Errorf(Invalid, `overrides need the type "agent_with_overrides"`).In("agent.type")
	}
	if ref.Model.Set {
		if ref.Model.Null {
			return api.SessionAgent{}, Errorf(Invalid, "cannot be cleared").In("agent.model")
		}
		effort := b.Model.Effort
		b.Model = ref.Model.Value
		b.Model.Effort = effort // an override does not touch the effort
	}
	if ref.System.Set {
		b.System = emptyIsNil(&ref.System.Value)
	}
	if ref.Tools.Set {
		b.Tools = ref.Tools.Value
	}
	if ref.MCPServers.Set {
		b.MCPServers = ref.MCPServers.Value
	}
	if ref.Skills.Set {
		b.Skills = ref.Skills.Value
	}
	if overrides {
		if err := resolveAgent(&b); err != nil {
			if e, ok := err.(*Error); ok && e.Field != "" {
				e.Field = "agent." + e.Field
			}
			return api.SessionAgent{}, err
		}
	}
	return api.SessionAgent{
		ID: b.ID, Type: "agent", Version: b.Version, Name: b.Name, Description: b.Description, Model: b.Model, System: b.System,
		Tools: b.Tools, MCPServers: b.MCPServers, Skills: b.Skills, Multiagent: b.Multiagent, ExecutionIdentity: b.ExecutionIdentity,
	}, nil
}

// CheckAgentRef holds a session's reference to an agent to its forms.
func CheckAgentRef(ref api.AgentRef) error {
	switch ref.Type {
	case "agent", "agent_with_overrides":
	case "":
		return Errorf(Invalid, `is required; use "agent" or "agent_with_overrides"`).In("agent.type")
	default:
		return Errorf(Invalid, `%q is not known; use "agent" or "agent_with_overrides"`, ref.Type).In("agent.type")
	}
	if ref.ID == "" {
		return Errorf(Invalid, "is required").In("agent.id")
	}
	if ref.Version != nil && *ref.Version < 1 {
		return Errorf(Invalid, "must be at least 1").In("agent.version")
	}
	return nil
}

// resolveAgent checks every part of a and fills what answers always carry.
// It changes no value that a's slices share with another agent.
func resolveAgent(a *api.Agent) error {
	if err := checkText("name", a.Name, 1, maxAgentName); err != nil {
		return err
	}
	model, err := ResolveModel("model", a.Model)
	if err != nil {
		return err
	}
	a.Model = model
	if a.System != nil {
		if err := checkText("system", *a.System, 0, maxSystem); err != nil {
			return err
		}
	}
	if a.Description != nil {
		if err := checkText("description", *a.Description, 0, maxDescription); err != nil {
			return err
		}
	}
	if err := CheckMetadata("metadata", a.Metadata); err != nil {
		return err
	}
	if a.Tools, err = ResolveTools("tools", a.Tools); err != nil {
		return err
	}
	if len(a.MCPServers) > 0 {
		return unsupported("mcp_servers", "MCP servers are")
	}
	a.MCPServers = []api.MCPServer{}
	if len(a.Skills) > 0 {
		return unsupported("skills", "skills are")
	}
	a.Skills = []api.SkillRef{}
	if present(a.Multiagent) {
		return unsupported("multiagent", "multi-agent sessions are")
	}
	a.Multiagent = nil
	switch a.ExecutionIdentity.Type {
	case "", "service_account":
		if a.ExecutionIdentity.RoleARN != "" {
			return Errorf(Invalid, "belongs to aws_role only").In("execution_identity.role_arn")
		}
		a.ExecutionIdentity = api.ExecutionIdentity{Type: "service_account"}
	case "aws_role":
		return unsupported("execution_identity.type", `"aws_role" is`)
	default:
		return Errorf(Invalid, `%q is not known; use "service_account"`, a.ExecutionIdentity.Type).In("execution_identity.type")
	}
	return nil
}

// ResolveModel checks a model config and fills its effort and speed.
func ResolveModel(field string, m api.ModelConfig) (api.ModelConfig, error) {
	if err := checkText(field, m.ID, 1, 256); err != nil {
		return m, err
	}
	switch m.Effort.Type {
	case "":
		m.Effort.Type = "high"
	case "low", "medium", "high", "xhigh", "max":
	default:
		return m, Errorf(Invalid, "%q is not known; use low, medium, high, xhigh or max", m.Effort.Type).In(field + ".effort")
	}
	switch m.Speed {
	case "":
		m.Speed = "standard"
	case "standard", "fast":
	default:
		return m, Errorf(Invalid, "%q is not known; use standard or fast", m.Speed).In(field + ".speed")
	}
	switch m.InferenceGeo {
	case "", "us", "global":
	default:
		return m, Errorf(Invalid, "%q is not known; use us or global", m.InferenceGeo).In(field + ".inference_geo")
	}
	return m, nil
}

func emptyIsNil(s *string) *string {
	if s == nil || *s == "" {
		return nil
	}
	return s
}

func sameJSON(a, b any) bool {
	ja, errA := json.Marshal(a)
	jb, errB := json.Marshal(b)
	return errA == nil && errB == nil && bytes.Equal(ja, jb)
}
