package plane

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/google/go-cmp/cmp"
)

var noon = time.Date(2026, 4, 1, 12, 0, 0, 0, time.UTC)

func ref[T any](v T) *T { return &v }

// fault is an error as "kind field code", "" for none.
func fault(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("%v is no *Error", err)
	}
	if e.Message == "" {
		t.Errorf("an error without a message: %+v", e)
	}
	kind := map[Kind]string{Invalid: "invalid", Conflict: "conflict"}[e.Kind]
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", kind, e.Field, e.Code))
}

func selfHosted() *api.EnvironmentConfig { return &api.EnvironmentConfig{Type: "self_hosted"} }

func bag(n int) api.Metadata {
	m := api.Metadata{}
	for i := range n {
		m[fmt.Sprintf("k%d", i)] = "v"
	}
	return m
}

func TestNewEnvironment(t *testing.T) {
	for _, tc := range []struct {
		name string
		c    api.CreateEnvironment
		want string
	}{
		{"plain", api.CreateEnvironment{Name: "a", Config: selfHosted()}, ""},
		{"everything", api.CreateEnvironment{Name: "a", Config: selfHosted(), Description: ref(""), Scope: "organization", Metadata: bag(16)}, ""},
		{"settings", api.CreateEnvironment{Name: "a", Config: selfHosted(), Metadata: api.Metadata{
			"berth.queue": "first_input", "berth.lease_ttl_seconds": "10", "berth.startup_seconds": "600", "berth.resources": "off",
		}}, ""},
		{"no name", api.CreateEnvironment{Config: selfHosted()}, "invalid name"},
		{"long name", api.CreateEnvironment{Name: strings.Repeat("ä", 257), Config: selfHosted()}, "invalid name"},
		{"name of 256 characters", api.CreateEnvironment{Name: strings.Repeat("ä", 256), Config: selfHosted()}, ""},
		{"no config", api.CreateEnvironment{Name: "a"}, "invalid config"},
		{"config without type", api.CreateEnvironment{Name: "a", Config: &api.EnvironmentConfig{}}, "invalid config.type"},
		{"cloud", api.CreateEnvironment{Name: "a", Config: &api.EnvironmentConfig{Type: "cloud"}}, "invalid config.type"},
		{"unknown config", api.CreateEnvironment{Name: "a", Config: &api.EnvironmentConfig{Type: "moon"}}, "invalid config.type"},
		{"packages", api.CreateEnvironment{Name: "a", Config: &api.EnvironmentConfig{Type: "self_hosted", Packages: []byte(`{}`)}}, "invalid config.packages"},
		{"null packages", api.CreateEnvironment{Name: "a", Config: &api.EnvironmentConfig{Type: "self_hosted", Packages: []byte(`null`)}}, ""},
		{"account", api.CreateEnvironment{Name: "a", Config: selfHosted(), Scope: "account"}, "invalid scope"},
		{"17 pairs", api.CreateEnvironment{Name: "a", Config: selfHosted(), Metadata: bag(17)}, "invalid metadata invalid_metadata"},
		{"empty key", api.CreateEnvironment{Name: "a", Config: selfHosted(), Metadata: api.Metadata{"": "x"}}, "invalid metadata invalid_metadata"},
		{"key of 65", api.CreateEnvironment{Name: "a", Config: selfHosted(), Metadata: api.Metadata{strings.Repeat("k", 65): "x"}}, "invalid metadata invalid_metadata"},
		{"value of 512", api.CreateEnvironment{Name: "a", Config: selfHosted(), Metadata: api.Metadata{"k": strings.Repeat("ä", 512)}}, ""},
		{"value of 513", api.CreateEnvironment{Name: "a", Config: selfHosted(), Metadata: api.Metadata{"k": strings.Repeat("v", 513)}}, "invalid metadata.k invalid_metadata"},
		{"ttl too short", api.CreateEnvironment{Name: "a", Config: selfHosted(), Metadata: api.Metadata{"berth.lease_ttl_seconds": "9"}}, "invalid metadata.berth.lease_ttl_seconds invalid_metadata"},
		{"ttl with a sign", api.CreateEnvironment{Name: "a", Config: selfHosted(), Metadata: api.Metadata{"berth.lease_ttl_seconds": "+60"}}, "invalid metadata.berth.lease_ttl_seconds invalid_metadata"},
		{"queue", api.CreateEnvironment{Name: "a", Config: selfHosted(), Metadata: api.Metadata{"berth.queue": "never"}}, "invalid metadata.berth.queue invalid_metadata"},
		{"resources on", api.CreateEnvironment{Name: "a", Config: selfHosted(), Metadata: api.Metadata{"berth.resources": "on"}}, "invalid metadata.berth.resources invalid_metadata"},
		{"unknown setting", api.CreateEnvironment{Name: "a", Config: selfHosted(), Metadata: api.Metadata{"berth.x": "1"}}, "invalid metadata.berth.x invalid_metadata"},
	} {
		env, err := NewEnvironment(tc.c, noon)
		if got := fault(t, err); got != tc.want {
			t.Errorf("%s: %q, want %q (%v)", tc.name, got, tc.want, err)
		}
		if err == nil && (env.Metadata == nil || env.Config.Type != "self_hosted" || env.Type != "environment" || !strings.HasPrefix(env.ID, PrefixEnvironment)) {
			t.Errorf("%s: made %+v", tc.name, env)
		}
	}
}

func TestUpdatedEnvironment(t *testing.T) {
	later := noon.Add(time.Hour)
	cur, err := NewEnvironment(api.CreateEnvironment{Name: "a", Config: selfHosted(), Description: ref("d"), Metadata: api.Metadata{"x": "1", "y": "2"}}, noon)
	if err != nil {
		t.Fatal(err)
	}
	archived := ArchivedEnvironment(cur, noon)
	for _, tc := range []struct {
		name string
		cur  Environment
		u    api.UpdateEnvironment
		want func(*Environment) // nil: nothing changes
		err  string
	}{
		{"nothing", cur, api.UpdateEnvironment{}, nil, ""},
		{"the same", cur, api.UpdateEnvironment{Name: api.Some("a"), Description: api.Some("d"), Config: api.Some(*selfHosted())}, nil, ""},
		{"name", cur, api.UpdateEnvironment{Name: api.Some("b")}, func(e *Environment) { e.Name = "b" }, ""},
		{"name null", cur, api.UpdateEnvironment{Name: api.Null[string]()}, nil, "invalid name"},
		{"description null", cur, api.UpdateEnvironment{Description: api.Null[string]()}, func(e *Environment) { e.Description = nil }, ""},
		{"description empty", cur, api.UpdateEnvironment{Description: api.Some("")}, func(e *Environment) { e.Description = ref("") }, ""},
		{"metadata", cur, api.UpdateEnvironment{Metadata: api.Some(api.MetadataPatch{"x": nil, "y": ref(""), "z": ref("3")})}, func(e *Environment) { e.Metadata = api.Metadata{"z": "3"} }, ""},
		{"metadata setting", cur, api.UpdateEnvironment{Metadata: api.Some(api.MetadataPatch{"berth.queue": ref("x")})}, nil, "invalid metadata.berth.queue invalid_metadata"},
		{"config type", cur, api.UpdateEnvironment{Config: api.Some(api.EnvironmentConfig{Type: "cloud"})}, nil, "invalid config.type invalid_config_type_change"},
		{"config null", cur, api.UpdateEnvironment{Config: api.Null[api.EnvironmentConfig]()}, nil, "invalid config"},
		{"scope", cur, api.UpdateEnvironment{Scope: api.Some("account")}, nil, "invalid scope"},
		{"archived", archived, api.UpdateEnvironment{Name: api.Some("b")}, nil, "invalid  environment_archived"},
	} {
		next, changed, err := UpdatedEnvironment(tc.cur, tc.u, later)
		if got := fault(t, err); got != tc.err {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.err)
		}
		want := tc.cur
		if tc.want != nil {
			tc.want(&want)
			want.UpdatedAt = later
		}
		if d := cmp.Diff(want, next); d != "" || changed != (tc.want != nil) {
			t.Errorf("%s: changed %v (-want +got):\n%s", tc.name, changed, d)
		}
	}
	if cur.Metadata["x"] != "1" || len(cur.Metadata) != 2 {
		t.Error("an update changed the row it was given")
	}
	if again := ArchivedEnvironment(archived, later); !again.ArchivedAt.Equal(noon) {
		t.Error("archived twice, the time moved")
	}
}
