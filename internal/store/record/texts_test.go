package record

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
)

const full = `{"title":"t","agent":{"id":"agent_1","type":"agent","version":1,"name":"n","description":"d","model":{"id":"m","effort":{"type":"high"}},
"system":"s","tools":[{"type":"agent_toolset_20260401","default_config":{"enabled":true,"permission_policy":{"type":"always_ask"}},
"configs":[{"name":"bash","enabled":false,"permission_policy":{"type":"auto"},"allowed_domains":["a"],"blocked_domains":["b"],"max_content_tokens":5,
"url_sources":{"x":1},"user_location":{"y":1}}]},{"type":"custom","name":"ask","input_schema":{"type":"object"}}],
"mcp_servers":[{"type":"url","name":"m","url":"u"}],"skills":[{"type":"custom","skill_id":"s"}],"multiagent":{"z":1},
"execution_identity":{"type":"service_account"}},"resources":[{"type":"file"}],"metadata":{"k":"v"},"vault_ids":["vlt_1"],
"outcome_evaluations":[{"o":1}],"budget":{"usd":1},"deployment_id":"depl_1"}`

const (
	fullNumbers = `{"stats":{"active_seconds":1.5,"duration_seconds":2.5},"usage":{"input_tokens":1,"output_tokens":2,"cache_read_input_tokens":3,
"cache_creation":{"ephemeral_5m_input_tokens":4,"ephemeral_1h_input_tokens":5},"active_seconds":6,"list_cost":{"a":1},"server_tool_use":{"b":2}}}`
	fullEnvironment = `{"id":"env_1","type":"environment","name":"n","description":"d","config":{"type":"self_hosted","networking":{"a":1},"packages":{"b":1}},
"metadata":{"k":"v"},"scope":"organization","created_at":"2026-01-02T03:04:05.000006Z","updated_at":"2026-01-02T03:04:05.000006Z","archived_at":"2026-01-02T03:04:05.000006Z"}`
)

// What one reader does to what it got, the next one does not see.
func TestTextsShareNothing(t *testing.T) {
	shareNothing(t, &profiles, full, (*profile).tidy)
	shareNothing(t, &numbers, fullNumbers, (*counts).tidy)
	shareNothing(t, &environments, fullEnvironment, nil)
}

func shareNothing[T any](t *testing.T, known *texts[T], full string, tidy func(*T)) {
	first, err := known.decode(full, tidy)
	if err != nil {
		t.Fatal(err)
	}
	spoil(t, reflect.ValueOf(&first).Elem(), "what was read")
	second, err := known.decode(full, tidy)
	if err != nil {
		t.Fatal(err)
	}
	text, err := text(second)
	if err != nil {
		t.Fatal(err)
	}
	if text != strings.ReplaceAll(full, "\n", "") {
		t.Errorf("the second reader got\n%s", text)
	}
}

// A profile keeps its text until something of it changes.
func TestAProfileKeepsItsText(t *testing.T) {
	stored := strings.ReplaceAll(full, `"k":"v"`, `"k": "v"`) // as an older program may have written it
	s := plane.Session{}
	read := func() {
		p, err := profiles.decode(stored, (*profile).tidy)
		if err != nil {
			t.Fatal(err)
		}
		s.Title, s.Agent, s.Resources, s.Metadata, s.VaultIDs = p.Title, p.Agent, p.Resources, p.Metadata, p.VaultIDs
		s.OutcomeEvaluations, s.Budget, s.DeploymentID = p.OutcomeEvaluations, p.Budget, p.DeploymentID
	}
	read()
	if text, err := Profile(&s, stored); err != nil || text != stored {
		t.Errorf("it was not changed, and is %v\n%s", err, text)
	}
	off := false
	for what, change := range map[string]func(){
		"title":    func() { s.Title = nil },
		"metadata": func() { s.Metadata["k"] = "w" },
		"tools":    func() { s.Agent.Tools[0].Configs[0].Enabled = nil },
		"default":  func() { s.Agent.Tools[0].DefaultConfig.Enabled = &off },
		"budget":   func() { s.Budget = nil },
	} {
		read()
		change()
		if text, err := Profile(&s, stored); err != nil || text == stored {
			t.Errorf("another %s is not noticed: %v", what, err)
		}
	}
}

// spoil changes everything that can be reached from v, and insists that the
// sample has something everywhere.
func spoil(t *testing.T, v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			t.Fatalf("%s is nil in the sample", path)
		}
		spoil(t, v.Elem(), path)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[api.Time]() {
			v.SetZero()
			return
		}
		for i := range v.NumField() {
			f, name := v.Field(i), path+"."+v.Type().Field(i).Name
			// Members of one kind of tool only, and those that are optional.
			if f.IsZero() && (strings.Contains(path, "Tools[") || f.Kind() == reflect.String) {
				continue
			}
			spoil(t, f, name)
		}
	case reflect.Slice:
		if v.Len() == 0 {
			t.Fatalf("%s is empty in the sample", path)
		}
		for i := range v.Len() {
			spoil(t, v.Index(i), fmt.Sprintf("%s[%d]", path, i))
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			v.SetMapIndex(k, reflect.Zero(v.Type().Elem()))
		}
	default:
		v.SetZero()
	}
}

func TestTextsAreBounded(t *testing.T) {
	for i := range 300 {
		if _, err := profiles.decode(fmt.Sprintf(`{"title":"%d%s"}`, i, strings.Repeat("x", 100_000)), nil); err != nil {
			t.Fatal(err)
		}
	}
	profiles.mu.Lock()
	defer profiles.mu.Unlock()
	sum := 0
	for text := range profiles.known {
		sum += len(text)
	}
	if sum != profiles.bytes || sum > textsBytes || sum < textsBytes/2 {
		t.Errorf("%d bytes are remembered, and %d counted", sum, profiles.bytes)
	}
}
