package record

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

const full = `{"title":"t","agent":{"id":"agent_1","type":"agent","version":1,"name":"n","description":"d","model":{"id":"m","effort":{"type":"high"}},
"system":"s","tools":[{"type":"agent_toolset_20260401","default_config":{"enabled":true,"permission_policy":{"type":"always_ask"}},
"configs":[{"name":"bash","enabled":false,"permission_policy":{"type":"auto"},"allowed_domains":["a"],"blocked_domains":["b"],"max_content_tokens":5,
"url_sources":{"x":1},"user_location":{"y":1}}]},{"type":"custom","name":"ask","input_schema":{"type":"object"}}],
"mcp_servers":[{"type":"url","name":"m","url":"u"}],"skills":[{"type":"custom","skill_id":"s"}],"multiagent":{"z":1},
"execution_identity":{"type":"service_account"}},"resources":[{"type":"file"}],"metadata":{"k":"v"},"vault_ids":["vlt_1"],
"outcome_evaluations":[{"o":1}],"budget":{"usd":1},"deployment_id":"depl_1"}`

// What one reader does to its profile, the next one does not see.
func TestProfilesShareNothing(t *testing.T) {
	first, err := decodeProfile([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	spoil(t, reflect.ValueOf(&first).Elem(), "profile")
	second, err := decodeProfile([]byte(full))
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

func TestProfilesAreBounded(t *testing.T) {
	for i := range 300 {
		if _, err := decodeProfile([]byte(fmt.Sprintf(`{"title":"%d%s"}`, i, strings.Repeat("x", 100_000)))); err != nil {
			t.Fatal(err)
		}
	}
	profiles.Lock()
	defer profiles.Unlock()
	sum := 0
	for text := range profiles.known {
		sum += len(text)
	}
	if sum != profiles.bytes || sum > profileBytes || sum < profileBytes/2 {
		t.Errorf("%d bytes are remembered, and %d counted", sum, profiles.bytes)
	}
}
