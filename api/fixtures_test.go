package api

import (
	"encoding/json"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/packages/pagination"
)

func ref[T any](v T) *T { return &v }

func raw(s string) json.RawMessage { return json.RawMessage(s) }

var (
	noon  = time.Date(2026, 4, 1, 12, 0, 0, 123456000, time.UTC)
	later = noon.Add(90 * time.Second)
)

const (
	envID     = "env_01abcdefghijklmnopqrstuv"
	workID    = "work_01abcdefghijklmnopqrstuv"
	agentID   = "agent_01abcdefghijklmnopqrstuv"
	sessionID = "sesn_01abcdefghijklmnopqrstuv"
	threadID  = "sthr_01abcdefghijklmnopqrstuv"
	eventID   = "sevt_01abcdefghijklmnopqrstuv"
	otherID   = "sevt_01zyxwvutsrqponmlkjihgfe"
)

// object is one fixture: a value of ours and the official SDK's type for it.
// nulls are the members that may be null in it, extra those that only we have.
type object struct {
	name  string
	value any
	sdk   func() any
	nulls []string
	extra []string
}

func toolset() Tool {
	return Tool{
		Type: ToolAgentToolset, DefaultConfig: &ToolConfig{Enabled: ref(true), PermissionPolicy: &PermissionPolicy{"always_allow"}},
		Configs: []ToolConfig{
			{Name: "bash", Type: "bash", Enabled: ref(true), PermissionPolicy: &PermissionPolicy{"always_ask"}},
			{Name: "edit", Type: "edit", Enabled: ref(false), PermissionPolicy: &PermissionPolicy{"auto"}},
			{
				Name: "web_fetch", Type: "web_fetch", Enabled: ref(false), PermissionPolicy: &PermissionPolicy{"always_allow"},
				AllowedDomains: []string{"docs.example.com"}, MaxContentTokens: ref(1000),
				URLSources: raw(`{"user_input":{"type":"all"},"client_tool_results":{"type":"none"},"server_tool_results":{"type":"all"}}`),
			},
			{
				Name: "web_search", Type: "web_search", Enabled: ref(false), PermissionPolicy: &PermissionPolicy{"always_allow"},
				BlockedDomains: []string{"ads.example.com"}, UserLocation: raw(`{"type":"approximate","city":"Oslo","region":"Oslo","country":"NO","timezone":"Europe/Oslo"}`),
			},
		},
	}
}

func tools() []Tool {
	return []Tool{
		toolset(),
		{
			Type: ToolMCPToolset, MCPServerName: "tracker",
			DefaultConfig: &ToolConfig{Enabled: ref(true), PermissionPolicy: &PermissionPolicy{"always_ask"}},
			Configs:       []ToolConfig{{Name: "search", Enabled: ref(true), PermissionPolicy: &PermissionPolicy{"always_allow"}}},
		},
		{Type: ToolCustom, Name: "get_weather", Description: "The weather of a place.", InputSchema: raw(`{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}`)},
	}
}

func fullAgent() Agent {
	return Agent{
		ID: agentID, Type: "agent", Version: 3, Name: "Analyst", Description: ref("Looks at data."),
		Model: ModelConfig{ID: "claude-opus-5-5", Effort: Effort{"xhigh"}, Speed: "standard", InferenceGeo: "us"}, System: ref("You are careful."),
		Tools: tools(), MCPServers: []MCPServer{{Type: "url", Name: "tracker", URL: "https://tracker.example.com/mcp"}},
		Skills:     []SkillRef{{Type: "custom", SkillID: "skill_01abc", Version: "1759178010641129"}, {Type: "anthropic", SkillID: "xlsx", Version: "latest"}},
		Multiagent: raw(`{"type":"coordinator","agents":[{"type":"agent","id":"agent_01zzz","version":1}]}`), ExecutionIdentity: ExecutionIdentity{Type: "service_account"},
		Metadata: Metadata{"team": "data"}, CreatedAt: noon, UpdatedAt: later, ArchivedAt: &later,
	}
}

func bareAgent() Agent {
	return Agent{
		ID: agentID, Type: "agent", Version: 1, Name: "Bare", Model: ModelConfig{ID: "scripted", Speed: "standard"},
		Tools: []Tool{
			{Type: ToolAgentToolset, DefaultConfig: &ToolConfig{Enabled: ref(true), PermissionPolicy: &PermissionPolicy{"always_allow"}}},
			{
				Type: ToolAgentToolset, DefaultConfig: &ToolConfig{Enabled: ref(false), PermissionPolicy: &PermissionPolicy{"always_allow"}},
				Configs: []ToolConfig{{Name: "web_fetch", Type: "web_fetch", Enabled: ref(false), PermissionPolicy: &PermissionPolicy{"always_allow"}}},
			},
		},
		MCPServers: []MCPServer{}, Skills: []SkillRef{}, ExecutionIdentity: ExecutionIdentity{Type: "service_account"},
		Metadata: Metadata{}, CreatedAt: noon, UpdatedAt: noon,
	}
}

func sessionAgent(a Agent) SessionAgent {
	return SessionAgent{
		ID: a.ID, Type: "agent", Version: a.Version, Name: a.Name, Description: a.Description, Model: a.Model, System: a.System, Tools: a.Tools,
		MCPServers: a.MCPServers, Skills: a.Skills, ExecutionIdentity: a.ExecutionIdentity,
	}
}

func usage() SessionUsage {
	return SessionUsage{
		InputTokens: 1200, OutputTokens: 340, CacheReadInputTokens: 900, CacheCreation: CacheCreation{100, 20}, ActiveSeconds: 12.5,
		ListCost: raw(`{"amount":"42","currency":"USD"}`), ServerToolUse: raw(`{"web_fetch_requests":1,"web_search_requests":2}`),
	}
}

const budget = `{"type":"limit","max_list_cost":{"amount":"2500","currency":"USD"}}`

func objects() []object {
	session := Session{
		ID: sessionID, Type: "session", EnvironmentID: envID, Title: ref("Report"), Status: SessionRunning, Agent: sessionAgent(fullAgent()),
		Resources: []json.RawMessage{raw(`{"type":"memory_store","memory_store_id":"memstore_01a","access":"read_write","instructions":"be brief","name":"notes","description":"d","mount_path":"/mnt/memory/notes"}`)},
		Metadata:  Metadata{"input_file": "/data/a.csv"}, VaultIDs: []string{"vlt_01a"}, Stats: SessionStats{12.5, 90}, Usage: usage(),
		OutcomeEvaluations: []json.RawMessage{raw(`{"type":"outcome_evaluation","outcome_id":"outc_01a","description":"done well","result":"satisfied","iteration":1,"explanation":"yes","completed_at":"2026-04-01T12:00:00Z"}`)},
		Budget:             raw(budget), DeploymentID: ref("depl_01a"), CreatedAt: noon, UpdatedAt: later, ArchivedAt: &later,
	}
	bare := Session{
		ID: sessionID, Type: "session", EnvironmentID: envID, Status: SessionIdle, Agent: sessionAgent(bareAgent()), Resources: []json.RawMessage{},
		Metadata: Metadata{}, VaultIDs: []string{}, OutcomeEvaluations: []json.RawMessage{}, CreatedAt: noon, UpdatedAt: noon,
	}
	work := Work{
		ID: workID, Type: "work", EnvironmentID: envID, Data: WorkData{"session", sessionID}, State: WorkActive, Metadata: Metadata{"a": "b"},
		Secret: ref("eyJzZXNzaW9uc190b2tlbiI6IngifQ"), CreatedAt: noon, AcknowledgedAt: &noon, StartedAt: &noon, LatestHeartbeatAt: &later, StopRequestedAt: &later, StoppedAt: &later,
	}
	queued := Work{ID: workID, Type: "work", EnvironmentID: envID, Data: WorkData{"session", sessionID}, State: WorkQueued, Metadata: Metadata{}, CreatedAt: noon}
	threadAgent := func(a SessionAgent) SessionThreadAgent {
		return SessionThreadAgent{
			ID: a.ID, Type: a.Type, Version: a.Version, Name: a.Name, Description: a.Description, Model: a.Model, System: a.System, Tools: a.Tools,
			MCPServers: a.MCPServers, Skills: a.Skills, ExecutionIdentity: a.ExecutionIdentity,
		}
	}
	capability := func(more string) json.RawMessage { return raw(`{"supported":true` + more + `}`) }
	yes := `{"supported":true}`
	agentNulls := []string{"multiagent", "url_sources", "description", "system"}
	return []object{
		{
			name: "environment", sdk: func() any { return &anthropic.BetaEnvironment{} },
			value: Environment{ID: envID, Type: "environment", Name: "lab", Description: ref("A lab."), Config: EnvironmentConfig{Type: "self_hosted"}, Metadata: Metadata{"berth.queue": "first_input"}, Scope: "organization", CreatedAt: noon, UpdatedAt: later, ArchivedAt: &later},
		},
		{
			name: "environment_bare", sdk: func() any { return &anthropic.BetaEnvironment{} }, nulls: []string{"archived_at", "description"},
			value: Environment{ID: envID, Type: "environment", Name: "lab", Config: EnvironmentConfig{Type: "self_hosted"}, Metadata: Metadata{}, Scope: "organization", CreatedAt: noon, UpdatedAt: noon},
		},
		{
			name: "environment_cloud", sdk: func() any { return &anthropic.BetaEnvironment{} }, nulls: []string{"archived_at", "description"},
			value: Environment{
				ID: envID, Type: "environment", Name: "cloud", Metadata: Metadata{}, CreatedAt: noon, UpdatedAt: noon,
				Config: EnvironmentConfig{Type: "cloud", Networking: raw(`{"type":"unrestricted"}`), Packages: raw(`{"type":"packages","apt":[],"cargo":[],"gem":[],"go":[],"npm":[],"pip":[]}`)},
			},
		},
		{name: "environment_deleted", value: Deleted{envID, "environment_deleted"}, sdk: func() any { return &anthropic.BetaEnvironmentDeleteResponse{} }},
		{name: "work", value: work, sdk: func() any { return &anthropic.BetaSelfHostedWork{} }},
		{
			name: "work_queued", value: queued, sdk: func() any { return &anthropic.BetaSelfHostedWork{} },
			nulls: []string{"secret", "acknowledged_at", "started_at", "latest_heartbeat_at", "stop_requested_at", "stopped_at"},
		},
		{
			name: "heartbeat", value: Heartbeat{"work_heartbeat", "2026-04-01T12:00:01.123456Z", true, WorkActive, 60},
			sdk: func() any { return &anthropic.BetaSelfHostedWorkHeartbeatResponse{} },
		},
		{
			name: "work_stats", value: WorkStats{"work_queue_stats", 2, 1, 1, &noon, 3}, extra: []string{"delivered"},
			sdk: func() any { return &anthropic.BetaSelfHostedWorkQueueStats{} },
		},
		{name: "agent", value: fullAgent(), sdk: func() any { return &anthropic.BetaManagedAgentsAgent{} }},
		{name: "agent_bare", value: bareAgent(), sdk: func() any { return &anthropic.BetaManagedAgentsAgent{} }, nulls: append(agentNulls, "archived_at")},
		{name: "session", value: session, sdk: func() any { return &anthropic.BetaManagedAgentsSession{} }, nulls: []string{"multiagent"}},
		{
			name: "session_bare", value: bare, sdk: func() any { return &anthropic.BetaManagedAgentsSession{} },
			nulls: append(agentNulls, "title", "archived_at", "budget", "deployment_id"),
		},
		{name: "session_deleted", value: Deleted{sessionID, "session_deleted"}, sdk: func() any { return &anthropic.BetaManagedAgentsDeletedSession{} }},
		{
			name: "session_thread", sdk: func() any { return &anthropic.BetaManagedAgentsSessionThread{} },
			value: SessionThread{
				ID: threadID, Type: "session_thread", SessionID: sessionID, ParentThreadID: ref("sthr_01parent"), Agent: threadAgent(sessionAgent(fullAgent())), Status: SessionIdle,
				Stats: &ThreadStats{1, 2, 0.5}, Usage: ref(usage()), WorkflowRunID: ref("wfr_01a"), ArchivedAt: &later, CreatedAt: noon, UpdatedAt: later,
			},
		},
		{
			name: "session_thread_primary", sdk: func() any { return &anthropic.BetaManagedAgentsSessionThread{} },
			nulls: append(agentNulls, "parent_thread_id", "stats", "usage", "workflow_run_id", "archived_at"),
			value: SessionThread{ID: threadID, Type: "session_thread", SessionID: sessionID, Agent: threadAgent(sessionAgent(bareAgent())), Status: SessionIdle, CreatedAt: noon, UpdatedAt: noon},
		},
		{
			name: "memory", sdk: func() any { return &anthropic.BetaManagedAgentsMemory{} },
			value: Memory{ID: "mem_01a", Type: "memory", MemoryStoreID: "memstore_01a", MemoryVersionID: "memver_01a", Path: "/notes/a.md", Content: ref("hello"),
				ContentSHA256: "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", ContentSizeBytes: 5, CreatedAt: noon, UpdatedAt: noon},
		},
		{
			name: "memory_prefix", sdk: func() any { return &anthropic.BetaManagedAgentsMemoryPrefix{} },
			value: MemoryPrefix{Type: "memory_prefix", Path: "/notes/"},
		},
		{
			name: "memory_store_resource", sdk: func() any { return &anthropic.BetaManagedAgentsMemoryStoreResource{} },
			value: MemoryStoreResource{Type: "memory_store", MemoryStoreID: "memstore_01a", Access: MemoryReadOnly, Instructions: "be brief", Name: "notes", Description: "d", MountPath: "/mnt/memory/notes"},
		},
		{
			name: "skill_version", sdk: func() any { return &anthropic.BetaSkillVersion{} },
			value: SkillVersion{ID: "1759178010641129", Type: "skill_version", SkillID: "skill_01a", Name: "pdf-forms", Description: "Fills forms.", CreatedAt: noon},
		},
		{
			name: "model", sdk: func() any { return &anthropic.BetaModelInfo{} },
			value: Model{
				ID: "claude-opus-5-5", Type: "model", DisplayName: "Claude Opus 5.5", CreatedAt: noon, MaxInputTokens: 200000, MaxTokens: 64000, Lifecycle: "active",
				DeprecatedAt: &noon, RetiresAt: &later, Line: ref("opus"), AllowedFallbackModels: []string{"claude-sonnet-5-5"},
				Capabilities: map[string]json.RawMessage{
					"batch": capability(""), "citations": capability(""), "code_execution": capability(""), "compaction": capability(`,"summarize":` + yes),
					"context_management": capability(`,"clear_thinking_20251015":` + yes + `,"clear_tool_uses_20250919":` + yes + `,"compact_20260112":` + yes),
					"effort":             capability(`,"low":` + yes + `,"medium":` + yes + `,"high":` + yes + `,"xhigh":` + yes + `,"max":` + yes),
					"image_input":        capability(""), "pdf_input": capability(""), "structured_outputs": capability(""),
				},
			},
		},
	}
}

// pages are lists in each of their styles, first and last ones.
func pages() []object {
	fixtures := map[string]object{}
	for _, o := range objects() {
		fixtures[o.name] = o
	}
	environment, session, model := fixtures["environment"], fixtures["session"], fixtures["model"]
	next, prev := ref("bmV4dA"), ref("cHJldg")
	return []object{
		{
			name: "page", nulls: environment.nulls, sdk: func() any { return &pagination.PageCursor[anthropic.BetaEnvironment]{} },
			value: Page[Environment]{Data: []Environment{environment.value.(Environment)}, NextPage: next},
		},
		{
			name: "page_last", nulls: []string{"next_page"}, sdk: func() any { return &pagination.PageCursor[anthropic.BetaEnvironment]{} },
			value: Page[Environment]{Data: []Environment{}},
		},
		{
			name: "page_two_way", nulls: session.nulls, sdk: func() any { return &pagination.BidirectionalPageCursor[anthropic.BetaManagedAgentsSession]{} },
			value: TwoWayPage[Session]{Data: []Session{session.value.(Session)}, NextPage: next, PrevPage: prev},
		},
		{
			name: "page_two_way_only", nulls: []string{"next_page", "prev_page"}, sdk: func() any { return &pagination.BidirectionalPageCursor[anthropic.BetaManagedAgentsSession]{} },
			value: TwoWayPage[Session]{Data: []Session{}},
		},
		{
			name: "page_ids", nulls: model.nulls, sdk: func() any { return &pagination.Page[anthropic.BetaModelInfo]{} },
			value: IDPage[Model]{Data: []Model{model.value.(Model)}, HasMore: true, FirstID: ref("claude-opus-5-5"), LastID: ref("claude-opus-5-5")},
		},
		{
			name: "page_ids_empty", nulls: []string{"first_id", "last_id"}, sdk: func() any { return &pagination.Page[anthropic.BetaModelInfo]{} },
			value: IDPage[Model]{Data: []Model{}},
		},
		{
			name: "page_events", sdk: func() any { return &pagination.PageCursor[anthropic.BetaManagedAgentsSessionEventUnion]{} },
			value: EventPage{NextPage: next, Data: EventList{
				&UserMessage{head(TypeUserMessage), []Block{Text("hi")}}, &AgentToolUse{head(TypeAgentToolUse), "bash", raw(`{"command":"ls"}`), PermissionAllow, nil, nil}, &SessionStatusRunning{head(TypeSessionStatusRunning)},
			}},
		},
	}
}

// requests are what our clients send, and the official SDK's type for each.
func requests() []object {
	return []object{
		{
			name: "create_environment", sdk: func() any { return &anthropic.BetaEnvironmentNewParams{} },
			value: CreateEnvironment{Name: "lab", Description: ref("A lab."), Config: &EnvironmentConfig{Type: "self_hosted"}, Metadata: Metadata{"a": "b"}, Scope: "organization"},
		},
		{
			name: "create_agent", sdk: func() any { return &anthropic.BetaAgentNewParams{} },
			value: CreateAgent{Name: "Analyst", Model: ModelConfig{ID: "claude-opus-5-5", Effort: Effort{"low"}, Speed: "fast"}, System: ref("s"), Tools: tools()[2:], Metadata: Metadata{"a": "b"}},
		},
		{
			name: "create_session", sdk: func() any { return &anthropic.BetaSessionNewParams{} },
			value: CreateSession{
				Agent: AgentRef{Type: "agent", ID: agentID, Version: ref(2)}, EnvironmentID: envID, Title: ref("t"), Metadata: Metadata{"a": "b"},
				InitialEvents: []json.RawMessage{raw(`{"type":"user.message","content":[{"type":"text","text":"hi"}]}`)},
			},
		},
		{
			name: "update_work", sdk: func() any { return &anthropic.BetaSelfHostedWorkUpdateRequestParam{} },
			value: UpdateWork{Metadata: MetadataPatch{"a": ref("b")}},
		},
		{
			name: "create_memory", sdk: func() any { return &anthropic.BetaMemoryStoreMemoryNewParams{} },
			value: CreateMemory{Path: "/a.md", Content: "hi"},
		},
		{
			name: "update_memory", sdk: func() any { return &anthropic.BetaMemoryStoreMemoryUpdateParams{} },
			value: UpdateMemory{Content: ref("hi"), Precondition: &MemoryPrecondition{Type: "content_sha256", ContentSHA256: "00"}},
		},
		{name: "stop_work", sdk: func() any { return &anthropic.BetaSelfHostedWorkStopRequestParam{} }, value: StopWork{Force: true}},
	}
}

func head(kind string) EventHead { return EventHead{ID: eventID, Type: kind, ProcessedAt: &noon} }

// eventFixture is one event; streamOnly ones are in no list.
type eventFixture struct {
	name       string
	event      Event
	nulls      []string
	streamOnly bool
}

func blocks() []Block {
	return []Block{
		Text("hello"),
		{Type: "image", Source: &Source{Type: "base64", MediaType: "image/png", Data: "aGk="}},
		{Type: "document", Source: &Source{Type: "text", MediaType: "text/plain", Data: "hi"}, Title: ref("T"), Context: ref("C")},
		{Type: "document", Source: &Source{Type: "base64", MediaType: "application/pdf", Data: "aGk="}},
	}
}

func resultBlocks() []Block {
	return append(blocks(), Block{Type: "search_result", Source: &Source{Plain: "https://example.com"}, Title: ref("T"), Content: []Block{Text("x")}, Citations: &Citations{true}})
}

func eventFixtures() []eventFixture {
	modelUsage := ModelUsage{10, 20, 30, 40, "fast"}
	auto := &Evaluation{Type: "auto", EvaluatedPermission: &AutoVerdict{Type: PermissionAsk, ReasonCode: "indeterminate"}}
	f := []eventFixture{
		{name: TypeUserMessage, event: &UserMessage{head(TypeUserMessage), append(blocks(), Block{Type: "redacted"})}},
		{name: TypeUserMessage + ".queued", nulls: []string{"processed_at"}, event: &UserMessage{EventHead{ID: eventID, Type: TypeUserMessage}, []Block{
			Text("hi"), {Type: "image", Source: &Source{Type: "url", URL: "https://example.com/a.png"}}, {Type: "document", Source: &Source{Type: "file", FileID: "file_01a"}},
			{Type: "image", Source: &Source{Type: "file", FileID: "file_01a"}}, {Type: "document", Source: &Source{Type: "url", URL: "https://example.com/a.pdf"}},
		}}},
		{name: TypeUserInterrupt, event: &UserInterrupt{head(TypeUserInterrupt), ref(threadID)}},
		{name: TypeUserToolConfirmation, event: &UserToolConfirmation{head(TypeUserToolConfirmation), otherID, "deny", ref("no"), ref(threadID)}},
		{name: TypeUserCustomToolResult, event: &UserCustomToolResult{head(TypeUserCustomToolResult), otherID, resultBlocks(), ref(false), ref(threadID)}},
		{name: TypeUserToolResult, event: &UserToolResult{head(TypeUserToolResult), otherID, resultBlocks(), ref(true), ref(threadID)}},
		{name: TypeUserDefineOutcome, event: &UserDefineOutcome{head(TypeUserDefineOutcome), "A report.", &Rubric{Type: "text", Content: "Good."}, ref(3), "outc_01a"}},
		{name: TypeUserDefineOutcome + ".file", event: &UserDefineOutcome{head(TypeUserDefineOutcome), "A report.", &Rubric{Type: "file", FileID: "file_01a"}, ref(3), "outc_01a"}},
		{name: TypeSystemMessage, event: &SystemMessage{head(TypeSystemMessage), []Block{Text("be brief")}}},

		{name: TypeAgentMessage, event: &AgentMessage{head(TypeAgentMessage), []Block{Text("done"), {Type: "redacted"}}}},
		{name: TypeAgentThinking, event: &AgentThinking{head(TypeAgentThinking)}},
		{name: TypeAgentToolUse, event: &AgentToolUse{head(TypeAgentToolUse), "bash", raw(`{"command":"ls"}`), PermissionAllow, &Evaluation{Type: "always_allow"}, ref(threadID)}},
		{name: TypeAgentToolUse + ".ask", event: &AgentToolUse{head(TypeAgentToolUse), "bash", raw(`{"command":"ls"}`), PermissionAsk, &Evaluation{Type: "always_ask"}, nil}},
		{name: TypeAgentToolUse + ".auto", event: &AgentToolUse{head(TypeAgentToolUse), "bash", raw(`{}`), PermissionAsk, auto, nil}},
		{name: TypeAgentToolUse + ".auto_allow", event: &AgentToolUse{head(TypeAgentToolUse), "bash", raw(`{}`), PermissionAllow, &Evaluation{Type: "auto", EvaluatedPermission: &AutoVerdict{Type: PermissionAllow}}, nil}},
		{name: TypeAgentToolResult, event: &AgentToolResult{head(TypeAgentToolResult), otherID, resultBlocks(), ref(true)}},
		{name: TypeAgentMCPToolUse, event: &AgentMCPToolUse{head(TypeAgentMCPToolUse), "search", "tracker", raw(`{"q":"x"}`), PermissionDeny, &Evaluation{Type: "auto", EvaluatedPermission: &AutoVerdict{Type: PermissionDeny, ReasonCode: "high_risk"}}, ref(threadID)}},
		{name: TypeAgentMCPToolResult, event: &AgentMCPToolResult{head(TypeAgentMCPToolResult), otherID, resultBlocks(), ref(false)}},
		{name: TypeAgentCustomToolUse, event: &AgentCustomToolUse{head(TypeAgentCustomToolUse), "get_weather", raw(`{"city":"Oslo"}`), ref(threadID)}},
		{name: TypeAgentThreadMessageSent, event: &AgentThreadMessageSent{head(TypeAgentThreadMessageSent), append(blocks(), Block{Type: "redacted"}), threadID, ref("helper")}},
		{name: TypeAgentThreadMessageReceived, event: &AgentThreadMessageReceived{head(TypeAgentThreadMessageReceived), append(blocks(), Block{Type: "redacted"}), threadID, ref("helper")}},
		{name: TypeAgentThreadContextCompacted, event: &AgentThreadContextCompacted{head(TypeAgentThreadContextCompacted)}},

		{name: TypeSessionStatusRunning, event: &SessionStatusRunning{head(TypeSessionStatusRunning)}},
		{name: TypeSessionStatusRescheduled, event: &SessionStatusRescheduled{head(TypeSessionStatusRescheduled)}},
		{name: TypeSessionStatusTerminated, event: &SessionStatusTerminated{head(TypeSessionStatusTerminated)}},
		{name: TypeSessionDeleted, event: &SessionDeleted{head(TypeSessionDeleted)}},
		{name: TypeSessionUpdated, nulls: []string{"multiagent"}, event: &SessionUpdated{head(TypeSessionUpdated), ref("new"), Metadata{"a": "b"}, ref(sessionAgent(fullAgent())), raw(budget)}},
		{name: TypeSessionUpdated + ".title", event: &SessionUpdated{EventHead: head(TypeSessionUpdated), Title: ref("new")}},
		{name: TypeSessionUsage, event: &SessionUsageEvent{head(TypeSessionUsage), usage(), raw(budget)}},
		{name: TypeSessionUsage + ".no_budget", nulls: []string{"budget"}, event: &SessionUsageEvent{EventHead: head(TypeSessionUsage), Usage: usage()}},
		{name: TypeSessionThreadCreated, event: &SessionThreadCreated{head(TypeSessionThreadCreated), threadID, "helper", ref("wfr_01a")}},
		{name: TypeSessionThreadStatusRunning, event: &SessionThreadStatus{head(TypeSessionThreadStatusRunning), threadID, "helper"}},
		{name: TypeSessionThreadStatusRescheduled, event: &SessionThreadStatus{head(TypeSessionThreadStatusRescheduled), threadID, "helper"}},
		{name: TypeSessionThreadStatusTerminated, event: &SessionThreadStatus{head(TypeSessionThreadStatusTerminated), threadID, "helper"}},

		{name: TypeSpanModelRequestStart, event: &SpanModelRequestStart{head(TypeSpanModelRequestStart)}},
		{name: TypeSpanModelRequestEnd, event: &SpanModelRequestEnd{head(TypeSpanModelRequestEnd), otherID, true, modelUsage}},
		{name: TypeSpanOutcomeEvaluationStart, event: &SpanOutcomeEvaluation{head(TypeSpanOutcomeEvaluationStart), "outc_01a", 1}},
		{name: TypeSpanOutcomeEvaluationOngoing, event: &SpanOutcomeEvaluation{head(TypeSpanOutcomeEvaluationOngoing), "outc_01a", 1}},
		{name: TypeSpanOutcomeEvaluationEnd, event: &SpanOutcomeEvaluationEnd{head(TypeSpanOutcomeEvaluationEnd), otherID, "outc_01a", 1, "satisfied", "well done", modelUsage}},

		{name: TypeWorkflowRunCreated, event: &WorkflowRunCreated{head(TypeWorkflowRunCreated), "wfr_01a", "plan", ref("d"), []WorkflowPhase{{"wfp_01a", "one", "first"}}}},
		{name: TypeWorkflowRunStatusRunning, event: &WorkflowRunStatus{head(TypeWorkflowRunStatusRunning), "wfr_01a"}},
		{name: TypeWorkflowRunStatusIdle, event: &WorkflowRunStatus{head(TypeWorkflowRunStatusIdle), "wfr_01a"}},
		{name: TypeWorkflowRunStatusEnded, event: &WorkflowRunEnded{head(TypeWorkflowRunStatusEnded), "wfr_01a", raw(`{"type":"completed"}`)}},
		{name: TypeWorkflowRunStatusEnded + ".stopped", event: &WorkflowRunEnded{head(TypeWorkflowRunStatusEnded), "wfr_01a", raw(`{"type":"stopped"}`)}},
		{name: TypeWorkflowRunStatusEnded + ".error", event: &WorkflowRunEnded{head(TypeWorkflowRunStatusEnded), "wfr_01a", raw(`{"type":"error","error":{"type":"program_error","message":"no"}}`)}},
		{name: TypeWorkflowRunError, event: &WorkflowRunError{head(TypeWorkflowRunError), ref("wfr_01a"), WorkflowRunReason{"timeout_error", "too long"}}},
		{name: TypeWorkflowRunPhaseStarted, event: &WorkflowRunPhase{head(TypeWorkflowRunPhaseStarted), "wfr_01a", "wfp_01a", ""}},
		{name: TypeWorkflowRunPhaseEnded, event: &WorkflowRunPhase{head(TypeWorkflowRunPhaseEnded), "wfr_01a", "wfp_01a", otherID}},

		{name: TypeEventStart, streamOnly: true, event: &EventStart{TypeEventStart, EventPreview{eventID, TypeAgentMessage}}},
		{name: TypeEventStart + ".thinking", streamOnly: true, event: &EventStart{TypeEventStart, EventPreview{eventID, TypeAgentThinking}}},
		{name: TypeEventDelta, streamOnly: true, event: &EventDelta{TypeEventDelta, eventID, ContentDelta{"content_delta", 1, Text("he")}}},
	}
	for _, kind := range []string{"program_error", "unknown_error", "thread_limit_error", "max_workflow_runs_error"} {
		f = append(f, eventFixture{name: TypeWorkflowRunError + "." + kind, nulls: []string{"workflow_run_id"}, event: &WorkflowRunError{head(TypeWorkflowRunError), nil, WorkflowRunReason{kind, "m"}}})
	}
	for reason, ids := range map[string][]string{StopEndTurn: nil, StopRequiresAction: {otherID}, StopRetriesExhausted: nil, StopBudgetReached: nil} {
		f = append(f,
			eventFixture{name: TypeSessionStatusIdle + "." + reason, nulls: []string{"stop_details"}, event: &SessionStatusIdle{head(TypeSessionStatusIdle), StopReason{reason, ids}, nil}},
			eventFixture{name: TypeSessionThreadStatusIdle + "." + reason, nulls: []string{"stop_details"}, event: &SessionThreadStatusIdle{head(TypeSessionThreadStatusIdle), threadID, "helper", StopReason{reason, ids}, nil}})
	}
	refusal := &StopDetails{"refusal", ref("cyber"), ref("not allowed")}
	f = append(f,
		eventFixture{name: TypeSessionStatusIdle + "." + StopRefusal, event: &SessionStatusIdle{head(TypeSessionStatusIdle), StopReason{Type: StopRefusal}, refusal}},
		eventFixture{name: TypeSessionThreadStatusIdle + "." + StopRefusal, event: &SessionThreadStatusIdle{head(TypeSessionThreadStatusIdle), threadID, "helper", StopReason{Type: StopRefusal}, refusal}})
	retry := map[string]string{SessionErrUnknown: RetryTerminal, SessionErrOverloaded: RetryRetrying}
	for _, kind := range []string{SessionErrUnknown, SessionErrOverloaded, SessionErrRateLimited, SessionErrRequestFailed, SessionErrBilling} {
		status := retry[kind]
		if status == "" {
			status = RetryExhausted
		}
		f = append(f, eventFixture{name: TypeSessionError + "." + kind, event: &SessionError{head(TypeSessionError), SessionErrorBody{Type: kind, Message: "m", RetryStatus: RetryStatus{status}}}})
	}
	for _, b := range []SessionErrorBody{
		{Type: "mcp_connection_failed_error", MCPServerName: "tracker"}, {Type: "mcp_authentication_failed_error", MCPServerName: "tracker"},
		{Type: "credential_host_unreachable_error", CredentialID: "vcrd_01a", VaultID: "vlt_01a"},
		{Type: "repository_authentication_error", RepositoryURL: ref("https://example.com/r.git")}, {Type: "repository_forbidden_error", RepositoryURL: ref("u")},
		{Type: "repository_not_found_error", RepositoryURL: ref("u")}, {Type: "repository_checkout_error", RepositoryURL: ref("u")}, {Type: "repository_clone_error", RepositoryURL: ref("u")},
	} {
		b.Message, b.RetryStatus = "m", RetryStatus{RetryRetrying}
		f = append(f, eventFixture{name: TypeSessionError + "." + b.Type, event: &SessionError{head(TypeSessionError), b}})
	}
	return f
}
