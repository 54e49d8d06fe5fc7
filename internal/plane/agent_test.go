package plane

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/google/go-cmp/cmp"
)

func policy(kind string) *api.PermissionPolicy { return &api.PermissionPolicy{Type: kind} }

func custom(name string) api.Tool {
	return api.Tool{Type: "custom", Name: name, Description: "d", InputSchema: json.RawMessage(`{"type":"object"}`)}
}

func set(configs ...api.ToolConfig) api.Tool {
	return api.Tool{Type: api.ToolAgentToolset, Configs: configs}
}

func TestResolveTools(t *testing.T) {
	many := make([]api.Tool, 257)
	for i := range many {
		many[i] = custom("t" + strings.Repeat("x", i%120) + string(rune('a'+i/120)))
	}
	for _, tc := range []struct {
		name string
		in   []api.Tool
		want string
	}{
		{"none", nil, ""},
		{"toolset", []api.Tool{set()}, ""},
		{"custom", []api.Tool{custom("a"), custom("b-C_9")}, ""},
		{"a web tool switched off", []api.Tool{set(api.ToolConfig{Name: "web_search", Enabled: ref(false)})}, ""},
		{"a web tool off by default", []api.Tool{{Type: api.ToolAgentToolset, DefaultConfig: &api.ToolConfig{Enabled: ref(false)}, Configs: []api.ToolConfig{{Name: "web_fetch"}}}}, ""},
		{"a web tool asked for", []api.Tool{set(api.ToolConfig{Name: "web_fetch"})}, "invalid tools[0].configs[0].enabled"},
		{"both domain lists", []api.Tool{set(api.ToolConfig{Name: "web_fetch", Enabled: ref(false), AllowedDomains: []string{"a"}, BlockedDomains: []string{"b"}})}, "invalid tools[0].configs[0].allowed_domains"},
		{"empty domain list", []api.Tool{set(api.ToolConfig{Name: "web_fetch", Enabled: ref(false), AllowedDomains: []string{}})}, "invalid tools[0].configs[0].allowed_domains"},
		{"domains of bash", []api.Tool{set(api.ToolConfig{Name: "bash", AllowedDomains: []string{"a"}})}, "invalid tools[0].configs[0].allowed_domains"},
		{"location of fetch", []api.Tool{set(api.ToolConfig{Name: "web_fetch", Enabled: ref(false), UserLocation: []byte(`{}`)})}, "invalid tools[0].configs[0].user_location"},
		{"no type", []api.Tool{{}}, "invalid tools[0].type"},
		{"unknown type", []api.Tool{set(), {Type: "x"}}, "invalid tools[1].type"},
		{"mcp", []api.Tool{{Type: api.ToolMCPToolset, MCPServerName: "x"}}, "invalid tools[0].type"},
		{"two toolsets", []api.Tool{set(), set()}, "invalid tools[1]"},
		{"toolset with a name", []api.Tool{{Type: api.ToolAgentToolset, Name: "x"}}, "invalid tools[0].name"},
		{"unknown tool", []api.Tool{set(api.ToolConfig{Name: "rm"})}, "invalid tools[0].configs[0].name"},
		{"type is not the name", []api.Tool{set(api.ToolConfig{Name: "bash", Type: "read"})}, "invalid tools[0].configs[0].type"},
		{"configured twice", []api.Tool{set(api.ToolConfig{Name: "bash"}, api.ToolConfig{Name: "bash"})}, "invalid tools[0].configs[1].name"},
		{"unknown policy", []api.Tool{set(api.ToolConfig{Name: "bash", PermissionPolicy: policy("never")})}, "invalid tools[0].configs[0].permission_policy.type"},
		{"default with a name", []api.Tool{{Type: api.ToolAgentToolset, DefaultConfig: &api.ToolConfig{Name: "bash"}}}, "invalid tools[0].default_config"},
		{"custom without name", []api.Tool{custom("")}, "invalid tools[0].name"},
		{"custom with a space", []api.Tool{custom("a b")}, "invalid tools[0].name"},
		{"custom with a name of 129", []api.Tool{custom(strings.Repeat("a", 129))}, "invalid tools[0].name"},
		{"custom twice", []api.Tool{custom("a"), custom("a")}, "invalid tools[1].name"},
		{"custom named bash", []api.Tool{custom("bash")}, ""},
		{"custom named bash beside the toolset", []api.Tool{custom("bash"), set()}, "invalid tools[0].name"},
		{"custom with configs", []api.Tool{{Type: "custom", Name: "a", Description: "d", InputSchema: []byte(`{"type":"object"}`), Configs: []api.ToolConfig{}}}, "invalid tools[0].configs"},
		{"no description", []api.Tool{{Type: "custom", Name: "a", InputSchema: []byte(`{"type":"object"}`)}}, "invalid tools[0].description"},
		{"no schema", []api.Tool{{Type: "custom", Name: "a", Description: "d"}}, "invalid tools[0].input_schema"},
		{"schema is a list", []api.Tool{{Type: "custom", Name: "a", Description: "d", InputSchema: []byte(`[]`)}}, "invalid tools[0].input_schema"},
		{"schema of a string", []api.Tool{{Type: "custom", Name: "a", Description: "d", InputSchema: []byte(`{"type":"string"}`)}}, "invalid tools[0].input_schema.type"},
		{"schema without type", []api.Tool{{Type: "custom", Name: "a", Description: "d", InputSchema: []byte(`{}`)}}, "invalid tools[0].input_schema.type"},
		{"schema with listed properties", []api.Tool{{Type: "custom", Name: "a", Description: "d", InputSchema: []byte(`{"type":"object","properties":[]}`)}}, "invalid tools[0].input_schema.properties"},
		{"schema with required numbers", []api.Tool{{Type: "custom", Name: "a", Description: "d", InputSchema: []byte(`{"type":"object","required":[1]}`)}}, "invalid tools[0].input_schema.required"},
		{"256 tools", many[:256], ""},
		{"257 tools", many, "invalid tools"},
		{"249 and the toolset's 8", append([]api.Tool{set()}, many[:249]...), "invalid tools"},
	} {
		got, err := ResolveTools("tools", tc.in)
		if f := fault(t, err); f != tc.want {
			t.Errorf("%s: %q, want %q (%v)", tc.name, f, tc.want, err)
		}
		if err == nil && len(got) != len(tc.in) {
			t.Errorf("%s: %d tools became %d", tc.name, len(tc.in), len(got))
		}
	}
}

func TestToolsetAnswersCarryEverything(t *testing.T) {
	in := []api.Tool{{
		Type: api.ToolAgentToolset, DefaultConfig: &api.ToolConfig{PermissionPolicy: policy("always_ask")},
		Configs: []api.ToolConfig{{Name: "bash"}, {Type: "read", Name: "read", Enabled: ref(false), PermissionPolicy: policy("auto")}},
	}}
	got, err := ResolveTools("tools", in)
	if err != nil {
		t.Fatal(err)
	}
	want := []api.Tool{{
		Type: api.ToolAgentToolset, DefaultConfig: &api.ToolConfig{Enabled: ref(true), PermissionPolicy: policy("always_ask")},
		Configs: []api.ToolConfig{
			{Name: "bash", Type: "bash", Enabled: ref(true), PermissionPolicy: policy("always_ask")},
			{Name: "read", Type: "read", Enabled: ref(false), PermissionPolicy: policy("auto")},
		},
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if in[0].Configs[0].Enabled != nil || in[0].DefaultConfig.Enabled != nil {
		t.Error("the request was changed")
	}
	if plain, _ := ResolveTools("tools", []api.Tool{set()}); plain[0].DefaultConfig.PermissionPolicy.Type != "always_allow" || plain[0].Configs == nil {
		t.Errorf("a bare toolset became %+v", plain[0])
	}
	again, err := ResolveTools("tools", got)
	if d := cmp.Diff(got, again); d != "" || err != nil {
		t.Errorf("resolving twice changes it: %v\n%s", err, d)
	}
}

func createAgent() api.CreateAgent {
	return api.CreateAgent{
		Name: "A", Model: api.ModelConfig{ID: "m"}, System: ref("be good"), Description: ref("d"),
		Tools: []api.Tool{set()}, Metadata: api.Metadata{"x": "1"},
	}
}

func TestNewAgent(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*api.CreateAgent)
		want   string
	}{
		{"plain", func(c *api.CreateAgent) {}, ""},
		{"no name", func(c *api.CreateAgent) { c.Name = "" }, "invalid name"},
		{"long name", func(c *api.CreateAgent) { c.Name = strings.Repeat("x", 257) }, "invalid name"},
		{"long system", func(c *api.CreateAgent) { c.System = ref(strings.Repeat("x", 100_001)) }, "invalid system"},
		{"system of 100,000", func(c *api.CreateAgent) { c.System = ref(strings.Repeat("ä", 100_000)) }, ""},
		{"long description", func(c *api.CreateAgent) { c.Description = ref(strings.Repeat("x", 2049)) }, "invalid description"},
		{"no model", func(c *api.CreateAgent) { c.Model.ID = "" }, "invalid model"},
		{"effort", func(c *api.CreateAgent) { c.Model.Effort.Type = "max" }, ""},
		{"unknown effort", func(c *api.CreateAgent) { c.Model.Effort.Type = "most" }, "invalid model.effort"},
		{"unknown speed", func(c *api.CreateAgent) { c.Model.Speed = "ludicrous" }, "invalid model.speed"},
		{"unknown geo", func(c *api.CreateAgent) { c.Model.InferenceGeo = "mars" }, "invalid model.inference_geo"},
		{"metadata", func(c *api.CreateAgent) { c.Metadata = bag(17) }, "invalid metadata invalid_metadata"},
		{"mcp servers", func(c *api.CreateAgent) { c.MCPServers = []api.MCPServer{{Type: "url"}} }, "invalid mcp_servers"},
		{"skills", func(c *api.CreateAgent) { c.Skills = []api.SkillRef{{}} }, "invalid skills"},
		{"multiagent", func(c *api.CreateAgent) { c.Multiagent = []byte(`{"type":"coordinator"}`) }, "invalid multiagent"},
		{"multiagent null", func(c *api.CreateAgent) { c.Multiagent = []byte(`null`) }, ""},
		{"service account", func(c *api.CreateAgent) { c.ExecutionIdentity = &api.ExecutionIdentity{Type: "service_account"} }, ""},
		{"role", func(c *api.CreateAgent) {
			c.ExecutionIdentity = &api.ExecutionIdentity{Type: "aws_role", RoleARN: "arn"}
		}, "invalid execution_identity.type"},
	} {
		c := createAgent()
		tc.change(&c)
		a, err := NewAgent(c, noon)
		if got := fault(t, err); got != tc.want {
			t.Errorf("%s: %q, want %q (%v)", tc.name, got, tc.want, err)
		}
		if err == nil && (a.Version != 1 || a.Model.Effort.Type == "" || a.MCPServers == nil || a.Skills == nil || a.ExecutionIdentity.Type != "service_account") {
			t.Errorf("%s: made %+v", tc.name, a)
		}
	}
}

func TestUpdatedAgent(t *testing.T) {
	later := noon.Add(time.Hour)
	cur, err := NewAgent(createAgent(), noon)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		cur  AgentVersion
		u    api.UpdateAgent
		want func(*AgentVersion)
		err  string
	}{
		{"nothing", cur, api.UpdateAgent{}, nil, ""},
		{"the same", cur, api.UpdateAgent{Version: api.Some(1), Name: api.Some("A"), Model: api.Some(api.ModelConfig{ID: "m"}), Tools: api.Some([]api.Tool{set()})}, nil, ""},
		{"wrong version, nothing else", cur, api.UpdateAgent{Version: api.Some(2)}, nil, "conflict version"},
		{"version 0", cur, api.UpdateAgent{Version: api.Some(0)}, nil, "invalid version"},
		{"name", cur, api.UpdateAgent{Version: api.Some(1), Name: api.Some("B")}, func(a *AgentVersion) { a.Name = "B" }, ""},
		{"name empty", cur, api.UpdateAgent{Name: api.Some("")}, nil, "invalid name"},
		{"name null", cur, api.UpdateAgent{Name: api.Null[string]()}, nil, "invalid name"},
		{"model null", cur, api.UpdateAgent{Model: api.Null[api.ModelConfig]()}, nil, "invalid model"},
		{"model replaced as a whole", cur, api.UpdateAgent{Model: api.Some(api.ModelConfig{ID: "n"})}, func(a *AgentVersion) { a.Model.ID = "n" }, ""},
		{"system empty", cur, api.UpdateAgent{System: api.Some("")}, func(a *AgentVersion) { a.System = nil }, ""},
		{"description null", cur, api.UpdateAgent{Description: api.Null[string]()}, func(a *AgentVersion) { a.Description = nil }, ""},
		{"tools null", cur, api.UpdateAgent{Tools: api.Null[[]api.Tool]()}, func(a *AgentVersion) { a.Tools = []api.Tool{} }, ""},
		{"tools", cur, api.UpdateAgent{Tools: api.Some([]api.Tool{{}})}, nil, "invalid tools[0].type"},
		{"mcp servers", cur, api.UpdateAgent{MCPServers: api.Some([]api.MCPServer{{Type: "url"}})}, nil, "invalid mcp_servers"},
		{"skills", cur, api.UpdateAgent{Skills: api.Some([]api.SkillRef{{}})}, nil, "invalid skills"},
		{"multiagent", cur, api.UpdateAgent{Multiagent: api.Some(json.RawMessage(`{"type":"coordinator"}`))}, nil, "invalid multiagent"},
		{"role", cur, api.UpdateAgent{ExecutionIdentity: api.Some(api.ExecutionIdentity{Type: "aws_role"})}, nil, "invalid execution_identity.type"},
		{"metadata", cur, api.UpdateAgent{Metadata: api.Some(api.MetadataPatch{"x": ref(""), "y": ref("2")})}, func(a *AgentVersion) { a.Metadata = api.Metadata{"x": "", "y": "2"} }, ""},
		{"metadata deleted", cur, api.UpdateAgent{Metadata: api.Some(api.MetadataPatch{"x": nil, "z": nil})}, func(a *AgentVersion) { a.Metadata = api.Metadata{} }, ""},
		{"archived", ArchivedAgent(cur, noon), api.UpdateAgent{}, nil, "invalid"},
	} {
		next, changed, err := UpdatedAgent(tc.cur, tc.u, later)
		if got := fault(t, err); got != tc.err {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.err)
		}
		want := tc.cur
		if tc.want != nil {
			tc.want(&want)
			want.Version, want.UpdatedAt = 2, later
		}
		if d := cmp.Diff(want, next); d != "" || changed != (tc.want != nil) {
			t.Errorf("%s: changed %v (-want +got):\n%s", tc.name, changed, d)
		}
	}
}

func TestSnapshotAgent(t *testing.T) {
	c := createAgent()
	c.Model.Effort.Type = "low"
	cur, err := NewAgent(c, noon)
	if err != nil {
		t.Fatal(err)
	}
	ref := func(change func(*api.AgentRef)) api.AgentRef {
		r := api.AgentRef{Type: "agent_with_overrides", ID: cur.ID}
		change(&r)
		return r
	}
	for _, tc := range []struct {
		name string
		cur  AgentVersion
		ref  api.AgentRef
		want func(*api.SessionAgent)
		err  string
	}{
		{"as it is", cur, api.AgentRef{Type: "agent", ID: cur.ID}, func(a *api.SessionAgent) {}, ""},
		{"override without its type", cur, ref(func(r *api.AgentRef) { r.Type = "agent"; r.System = api.Some("x") }), nil, "invalid agent.type"},
		{"model keeps the effort", cur, ref(func(r *api.AgentRef) {
			r.Model = api.Some(api.ModelConfig{ID: "n", Effort: api.Effort{Type: "max"}, InferenceGeo: "us"})
		}), func(a *api.SessionAgent) { a.Model.ID, a.Model.InferenceGeo = "n", "us" }, ""},
		{"system null", cur, ref(func(r *api.AgentRef) { r.System = api.Null[string]() }), func(a *api.SessionAgent) { a.System = nil }, ""},
		{"tools", cur, ref(func(r *api.AgentRef) { r.Tools = api.Some([]api.Tool{custom("x")}) }), func(a *api.SessionAgent) { a.Tools = []api.Tool{custom("x")} }, ""},
		{"bad tools", cur, ref(func(r *api.AgentRef) { r.Tools = api.Some([]api.Tool{{}}) }), nil, "invalid agent.tools[0].type"},
		{"skills", cur, ref(func(r *api.AgentRef) { r.Skills = api.Some([]api.SkillRef{{}}) }), nil, "invalid agent.skills"},
		{"archived", ArchivedAgent(cur, noon), api.AgentRef{Type: "agent", ID: cur.ID}, nil, "invalid agent"},
	} {
		got, err := SnapshotAgent(tc.cur, tc.ref)
		if f := fault(t, err); f != tc.err {
			t.Errorf("%s: %q, want %q", tc.name, f, tc.err)
		}
		if tc.want == nil {
			continue
		}
		want := api.SessionAgent{
			ID: cur.ID, Type: "agent", Version: 1, Name: cur.Name, Description: cur.Description, Model: cur.Model, System: cur.System,
			Tools: cur.Tools, MCPServers: cur.MCPServers, Skills: cur.Skills, ExecutionIdentity: cur.ExecutionIdentity,
		}
		tc.want(&want)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, d)
		}
	}
	if d := cmp.Diff(cur.Agent.Model.Effort.Type, "low"); d != "" {
		t.Error("a snapshot changed the agent")
	}
}

func TestCheckAgentRef(t *testing.T) {
	for _, tc := range []struct {
		ref  api.AgentRef
		want string
	}{
		{api.AgentRef{Type: "agent", ID: "agent_01"}, ""},
		{api.AgentRef{Type: "agent_with_overrides", ID: "agent_01", Version: ref(1)}, ""},
		{api.AgentRef{ID: "agent_01"}, "invalid agent.type"},
		{api.AgentRef{Type: "x", ID: "agent_01"}, "invalid agent.type"},
		{api.AgentRef{Type: "agent"}, "invalid agent.id"},
		{api.AgentRef{Type: "agent", ID: "agent_01", Version: ref(0)}, "invalid agent.version"},
	} {
		if got := fault(t, CheckAgentRef(tc.ref)); got != tc.want {
			t.Errorf("%+v: %q, want %q", tc.ref, got, tc.want)
		}
	}
}
