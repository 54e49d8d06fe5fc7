package api

import (
	"encoding/json"

	xjson "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Agent is a versioned part: a model, a system prompt and tools.
type Agent struct {
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
	Metadata          Metadata          `json:"metadata"`
	CreatedAt         Time              `json:"created_at"`
	UpdatedAt         Time              `json:"updated_at"`
	ArchivedAt        *Time             `json:"archived_at"`
}

type CreateAgent struct {
	Name              string             `json:"name"`
	Model             ModelConfig        `json:"model"`
	Description       *string            `json:"description,omitempty"`
	System            *string            `json:"system,omitempty"`
	Tools             []Tool             `json:"tools,omitempty"`
	MCPServers        []MCPServer        `json:"mcp_servers,omitempty"`
	Skills            []SkillRef         `json:"skills,omitempty"`
	Multiagent        json.RawMessage    `json:"multiagent,omitempty"`
	ExecutionIdentity *ExecutionIdentity `json:"execution_identity,omitempty"`
	Metadata          Metadata           `json:"metadata,omitempty"`
}

// UpdateAgent changes the fields that are there and makes a new version when
// anything differs. Version, when there, must be the current one.
type UpdateAgent struct {
	Version           Optional[int]               `json:"version,omitzero"`
	Name              Optional[string]            `json:"name,omitzero"`
	Model             Optional[ModelConfig]       `json:"model,omitzero"`
	Description       Optional[string]            `json:"description,omitzero"`
	System            Optional[string]            `json:"system,omitzero"`
	Tools             Optional[[]Tool]            `json:"tools,omitzero"`
	MCPServers        Optional[[]MCPServer]       `json:"mcp_servers,omitzero"`
	Skills            Optional[[]SkillRef]        `json:"skills,omitzero"`
	Multiagent        Optional[json.RawMessage]   `json:"multiagent,omitzero"`
	ExecutionIdentity Optional[ExecutionIdentity] `json:"execution_identity,omitzero"`
	Metadata          Optional[MetadataPatch]     `json:"metadata,omitzero"`
}

// ModelConfig names a model. On the wire a bare string is accepted for
// {"id": string}; effort is accepted as a string or an object and always
// answered as an object.
type ModelConfig struct {
	ID           string `json:"id"`
	Effort       Effort `json:"effort"`
	Speed        string `json:"speed,omitempty"`
	InferenceGeo string `json:"inference_geo,omitempty"`
}

func (m *ModelConfig) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	if dec.PeekKind() == '"' {
		*m = ModelConfig{}
		return xjson.UnmarshalDecode(dec, &m.ID)
	}
	type plain ModelConfig
	return xjson.UnmarshalDecode(dec, (*plain)(m))
}

func (m *ModelConfig) UnmarshalJSON(b []byte) error { return xjson.Unmarshal(b, m) }

// Effort is low, medium, high, xhigh or max; the zero value is high.
type Effort struct {
	Type string `json:"type"`
}

func (e *Effort) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	if dec.PeekKind() == '"' {
		return xjson.UnmarshalDecode(dec, &e.Type)
	}
	type plain Effort
	return xjson.UnmarshalDecode(dec, (*plain)(e))
}

func (e *Effort) UnmarshalJSON(b []byte) error { return xjson.Unmarshal(b, e) }

func (e Effort) MarshalJSON() ([]byte, error) {
	if e.Type == "" {
		e.Type = "high"
	}
	type plain Effort
	return json.Marshal(plain(e))
}

// Tool kinds.
const (
	ToolAgentToolset = "agent_toolset_20260401"
	ToolMCPToolset   = "mcp_toolset"
	ToolCustom       = "custom"
)

// Tool is one entry of an agent's tools; which members count depends on Type.
type Tool struct {
	Type          string          `json:"type"`
	MCPServerName string          `json:"mcp_server_name,omitempty"` // mcp_toolset
	DefaultConfig *ToolConfig     `json:"default_config,omitempty"`  // toolsets
	Configs       []ToolConfig    `json:"configs,omitempty"`         // toolsets
	Name          string          `json:"name,omitempty"`            // custom
	Description   string          `json:"description,omitempty"`     // custom
	InputSchema   json.RawMessage `json:"input_schema,omitempty"`    // custom
}

// MarshalJSON writes the members that belong to the tool's type; a toolset
// always has its configs.
func (t Tool) MarshalJSON() ([]byte, error) {
	type plain Tool
	if t.Type != ToolAgentToolset && t.Type != ToolMCPToolset {
		return json.Marshal(plain(t))
	}
	if t.Configs == nil {
		t.Configs = []ToolConfig{}
	}
	return json.Marshal(struct {
		plain
		Configs []ToolConfig `json:"configs"`
	}{plain(t), t.Configs})
}

// ToolConfig enables one tool of a set and says who may run it.
type ToolConfig struct {
	Name             string            `json:"name,omitempty"`
	Type             string            `json:"type,omitempty"`
	Enabled          *bool             `json:"enabled,omitempty"`
	PermissionPolicy *PermissionPolicy `json:"permission_policy,omitempty"`

	AllowedDomains   []string        `json:"allowed_domains,omitempty"`
	BlockedDomains   []string        `json:"blocked_domains,omitempty"`
	MaxContentTokens *int            `json:"max_content_tokens,omitempty"`
	URLSources       json.RawMessage `json:"url_sources,omitempty"`
	UserLocation     json.RawMessage `json:"user_location,omitempty"`
}

// MarshalJSON writes url_sources for web_fetch even when there are none.
func (c ToolConfig) MarshalJSON() ([]byte, error) {
	type plain ToolConfig
	if c.Name != "web_fetch" {
		return json.Marshal(plain(c))
	}
	return json.Marshal(struct {
		plain
		URLSources json.RawMessage `json:"url_sources"`
	}{plain(c), c.URLSources})
}

// PermissionPolicy is always_allow, always_ask or auto.
type PermissionPolicy struct {
	Type string `json:"type"`
}

// MCPServer is a remote MCP server that the control plane may call.
type MCPServer struct {
	Type string `json:"type"` // "url"
	Name string `json:"name"`
	URL  string `json:"url"`
}

// SkillRef names a skill; Version is resolved in answers.
type SkillRef struct {
	Type    string `json:"type"` // "anthropic" or "custom"
	SkillID string `json:"skill_id"`
	Version string `json:"version,omitempty"`
}

// SkillVersion is one state of a skill's files. Version and Directory are in
// the answers of planes of an older shape only; there Version, and not ID,
// names it in paths.
type SkillVersion struct {
	ID          string `json:"id"`
	Type        string `json:"type"` // "skill_version"
	SkillID     string `json:"skill_id"`
	Name        string `json:"name"`
	Description string `json:"description"`
	Version     string `json:"version,omitempty"`
	Directory   string `json:"directory,omitempty"`
	CreatedAt   Time   `json:"created_at"`
}

// ExecutionIdentity is service_account (the default) or aws_role.
type ExecutionIdentity struct {
	Type    string `json:"type"`
	RoleARN string `json:"role_arn,omitempty"`
}

// Model describes a model that agents may name.
type Model struct {
	ID                    string                     `json:"id"`
	Type                  string                     `json:"type"` // "model"
	DisplayName           string                     `json:"display_name"`
	CreatedAt             Time                       `json:"created_at"`
	MaxInputTokens        int                        `json:"max_input_tokens"`
	MaxTokens             int                        `json:"max_tokens"`
	Lifecycle             string                     `json:"lifecycle"`
	DeprecatedAt          *Time                      `json:"deprecated_at"`
	RetiresAt             *Time                      `json:"retires_at"`
	Line                  *string                    `json:"line"`
	AllowedFallbackModels []string                   `json:"allowed_fallback_models"`
	Capabilities          map[string]json.RawMessage `json:"capabilities"`
}
