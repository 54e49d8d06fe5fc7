package plane

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/berthdev/berth/api"
)

// MaxTools bounds an agent's tools, those of its toolsets included.
const MaxTools = 256

// ToolsetTools are the tools of agent_toolset_20260401 by name.
var ToolsetTools = []string{"bash", "edit", "read", "write", "glob", "grep", "web_fetch", "web_search"}

var toolName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// ResolveTools checks an agent's tools and gives them as answers carry them:
// every toolset with its default_config, every config with type, enabled and
// permission_policy. field is where they stand in the request. The result
// shares nothing with tools.
func ResolveTools(field string, tools []api.Tool) ([]api.Tool, error) {
	resolved := make([]api.Tool, 0, len(tools))
	count, toolset := 0, -1
	names := map[string]string{} // custom tools, to their field
	for i, t := range tools {
		at := fmt.Sprintf("%s[%d]", field, i)
		switch t.Type {
		case api.ToolAgentToolset:
			if toolset >= 0 {
				return nil, Errorf(Invalid, "is a second %s; an agent has one at most", t.Type).In(at)
			}
			toolset = i
			count += len(ToolsetTools)
			r, err := resolveToolset(at, t)
			if err != nil {
				return nil, err
			}
			resolved = append(resolved, r)
		case api.ToolCustom:
			count++
			if err := checkCustomTool(at, t); err != nil {
				return nil, err
			}
			if first, taken := names[t.Name]; taken {
				return nil, Errorf(Invalid, "%q is the name of %s, too", t.Name, first).In(at + ".name")
			}
			names[t.Name] = at
			t.InputSchema = slices.Clone(t.InputSchema)
			resolved = append(resolved, t)
		case api.ToolMCPToolset:
			return nil, unsupported(at+".type", "MCP servers and their toolsets are")
		case "":
			return nil, Errorf(Invalid, "is required; use %s or custom", api.ToolAgentToolset).In(at + ".type")
		default:
			return nil, Errorf(Invalid, "%q is not known; use %s or custom", t.Type, api.ToolAgentToolset).In(at + ".type")
		}
	}
	if count > MaxTools {
		return nil, Errorf(Invalid, "hold %d tools across all toolsets; at most %d are allowed", count, MaxTools).In(field)
	}
	if toolset >= 0 {
		for _, name := range ToolsetTools {
			if at, taken := names[name]; taken {
				return nil, Errorf(Invalid, "%q is a tool of %s; choose another name", name, api.ToolAgentToolset).In(at + ".name")
			}
		}
	}
	return resolved, nil
}

func resolveToolset(at string, t api.Tool) (api.Tool, error) {
	if err := foreign(at, t, "name", "description", "input_schema", "mcp_server_name"); err != nil {
		return t, err
	}
	def := api.ToolConfig{}
	if t.DefaultConfig != nil {
		def = *t.DefaultConfig
		if def.Name != "" || def.Type != "" || len(def.AllowedDomains)+len(def.BlockedDomains) > 0 ||
			def.MaxContentTokens != nil || present(def.URLSources) || present(def.UserLocation) {
			return t, Errorf(Invalid, "takes enabled and permission_policy only").In(at + ".default_config")
		}
	}
	def, err := resolveConfig(at+".default_config", def, true, api.PermissionPolicy{Type: "always_allow"})
	if err != nil {
		return t, err
	}
	configs := make([]api.ToolConfig, 0, len(t.Configs))
	for i, c := range t.Configs {
		at := fmt.Sprintf("%s.configs[%d]", at, i)
		if c.Name == "" {
			c.Name = c.Type
		}
		if !slices.Contains(ToolsetTools, c.Name) {
			return t, Errorf(Invalid, "%q is no tool of %s; its tools are %s", c.Name, t.Type, strings.Join(ToolsetTools, ", ")).In(at + ".name")
		}
		if c.Type != "" && c.Type != c.Name {
			return t, Errorf(Invalid, "%q is not the same as the name %q", c.Type, c.Name).In(at + ".type")
		}
		if slices.ContainsFunc(configs, func(d api.ToolConfig) bool { return d.Name == c.Name }) {
			return t, Errorf(Invalid, "%q is configured twice", c.Name).In(at + ".name")
		}
		c.Type = c.Name
		if c, err = resolveConfig(at, c, *def.Enabled, *def.PermissionPolicy); err != nil {
			return t, err
		}
		if err := checkWebConfig(at, c); err != nil {
			return t, err
		}
		configs = append(configs, c)
	}
	return api.Tool{Type: t.Type, DefaultConfig: &def, Configs: configs}, nil
}

func resolveConfig(at string, c api.ToolConfig, enabled bool, policy api.PermissionPolicy) (api.ToolConfig, error) {
	if c.Enabled != nil {
		enabled = *c.Enabled
	}
	if c.PermissionPolicy != nil {
		policy = *c.PermissionPolicy
	}
	switch policy.Type {
	case "always_allow", "always_ask", "auto":
	case "":
		return c, Errorf(Invalid, "is required").In(at + ".permission_policy.type")
	default:
		return c, Errorf(Invalid, "%q is not known; use always_allow, always_ask or auto", policy.Type).In(at + ".permission_policy.type")
	}
	c.Enabled, c.PermissionPolicy = &enabled, &policy
	return c, nil
}

// checkWebConfig looks at the members that only the web tools have. The tools
// themselves run on the control plane, which has none yet: a config may switch
// them off, and may not ask for them.
func checkWebConfig(at string, c api.ToolConfig) error {
	fetch, search := c.Name == "web_fetch", c.Name == "web_search"
	for _, m := range []struct {
		name    string
		present bool
		ok      bool
	}{
		{"allowed_domains", c.AllowedDomains != nil, fetch || search},
		{"blocked_domains", c.BlockedDomains != nil, fetch || search},
		{"max_content_tokens", c.MaxContentTokens != nil, fetch},
		{"url_sources", present(c.URLSources), fetch},
		{"user_location", present(c.UserLocation), search},
	} {
		if m.present && !m.ok {
			return Errorf(Invalid, "does not belong to %s", c.Name).In(at + "." + m.name)
		}
	}
	if !fetch && !search {
		return nil
	}
	if c.AllowedDomains != nil && c.BlockedDomains != nil {
		return Errorf(Invalid, "cannot stand beside blocked_domains").In(at + ".allowed_domains")
	}
	for field, list := range map[string][]string{"allowed_domains": c.AllowedDomains, "blocked_domains": c.BlockedDomains} {
		if list != nil && (len(list) == 0 || len(list) > 64) {
			return Errorf(Invalid, "has %d entries; 1 to 64 are allowed", len(list)).In(at + "." + field)
		}
	}
	if *c.Enabled {
		return Errorf(Invalid, "%s is not supported by this server yet; set enabled to false or leave the entry out", c.Name).In(at + ".enabled")
	}
	return nil
}

func checkCustomTool(at string, t api.Tool) error {
	if err := foreign(at, t, "mcp_server_name", "default_config", "configs"); err != nil {
		return err
	}
	if !toolName.MatchString(t.Name) {
		return Errorf(Invalid, "%q is no tool name; use 1 to 128 letters, digits, _ and -", t.Name).In(at + ".name")
	}
	if t.Description == "" {
		return Errorf(Invalid, "is required").In(at + ".description")
	}
	if !present(t.InputSchema) {
		return Errorf(Invalid, "is required").In(at + ".input_schema")
	}
	var schema map[string]json.RawMessage
	if err := json.Unmarshal(t.InputSchema, &schema); err != nil {
		return Errorf(Invalid, "must be a JSON Schema object").In(at + ".input_schema")
	}
	var kind string
	if json.Unmarshal(schema["type"], &kind) != nil || kind != "object" {
		return Errorf(Invalid, `must be "object"`).In(at + ".input_schema.type")
	}
	if p := schema["properties"]; present(p) {
		var properties map[string]json.RawMessage
		if json.Unmarshal(p, &properties) != nil {
			return Errorf(Invalid, "must be an object").In(at + ".input_schema.properties")
		}
	}
	if r := schema["required"]; present(r) {
		var required []string
		if json.Unmarshal(r, &required) != nil {
			return Errorf(Invalid, "must be an array of strings").In(at + ".input_schema.required")
		}
	}
	return nil
}

// foreign refuses members that belong to another kind of tool.
func foreign(at string, t api.Tool, members ...string) error {
	there := map[string]bool{
		"name": t.Name != "", "description": t.Description != "", "input_schema": present(t.InputSchema),
		"mcp_server_name": t.MCPServerName != "", "default_config": t.DefaultConfig != nil, "configs": t.Configs != nil,
	}
	for _, m := range members {
		if there[m] {
			return Errorf(Invalid, "does not belong to a tool of type %s", t.Type).In(at + "." + m)
		}
	}
	return nil
}
