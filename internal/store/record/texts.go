package record

import (
	"encoding/json"
	"maps"
	"slices"
	"sync"

	"github.com/berthdev/berth/api"
)

// textsBytes bounds the texts of one kind that are remembered.
const textsBytes = 2 << 20

// texts remembers what JSON texts say: each step of a turn reads the same ones
// again, and to decode them costs more than all else of the read. What it
// gives is the caller's own. Safe for concurrent use.
type texts[T any] struct {
	clone func(T) T // shares nothing that can be changed

	mu    sync.Mutex
	known map[string]T
	bytes int
}

var (
	profiles     = texts[profile]{clone: profile.clone}
	numbers      = texts[counts]{clone: counts.clone}
	environments = texts[api.Environment]{clone: cloneEnvironment}
)

// find gives what is remembered itself: it is not to be changed.
func (t *texts[T]) find(text string) (v T, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok = t.known[text]
	return v, ok
}

// decode says what a text says. tidy, if any, is done once to what it says.
func (t *texts[T]) decode(text string, tidy func(*T)) (v T, err error) {
	v, ok := t.find(text)
	if !ok {
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			return v, err
		}
		if tidy != nil {
			tidy(&v)
		}
		t.note(text, v)
	}
	return t.clone(v), nil
}

// note remembers what a text says, which is not changed from now on.
func (t *texts[T]) note(text string, says T) {
	if len(text) > textsBytes {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, there := t.known[text]; there {
		return
	}
	if t.known == nil {
		t.known = make(map[string]T)
	}
	for old := range t.known { // any of them
		if t.bytes+len(text) <= textsBytes {
			break
		}
		delete(t.known, old)
		t.bytes -= len(old)
	}
	t.known[text] = says
	t.bytes += len(text)
}

func cloneEnvironment(e api.Environment) api.Environment {
	e.Description, e.ArchivedAt, e.Metadata = clonePtr(e.Description), clonePtr(e.ArchivedAt), maps.Clone(e.Metadata)
	e.Config.Networking, e.Config.Packages = slices.Clone(e.Config.Networking), slices.Clone(e.Config.Packages)
	return e
}

func (c counts) clone() counts {
	c.Usage.ListCost, c.Usage.ServerToolUse = slices.Clone(c.Usage.ListCost), slices.Clone(c.Usage.ServerToolUse)
	return c
}

func (p profile) clone() profile {
	p.Title, p.DeploymentID = clonePtr(p.Title), clonePtr(p.DeploymentID)
	p.Resources, p.OutcomeEvaluations = cloneRaws(p.Resources), cloneRaws(p.OutcomeEvaluations)
	p.Metadata, p.VaultIDs, p.Budget = maps.Clone(p.Metadata), slices.Clone(p.VaultIDs), slices.Clone(p.Budget)
	a := &p.Agent
	a.Description, a.System, a.Multiagent = clonePtr(a.Description), clonePtr(a.System), slices.Clone(a.Multiagent)
	a.MCPServers, a.Skills, a.Tools = slices.Clone(a.MCPServers), slices.Clone(a.Skills), slices.Clone(a.Tools)
	for i := range a.Tools {
		t := &a.Tools[i]
		t.InputSchema, t.Configs = slices.Clone(t.InputSchema), slices.Clone(t.Configs)
		for j := range t.Configs {
			t.Configs[j] = cloneConfig(t.Configs[j])
		}
		if t.DefaultConfig != nil {
			c := cloneConfig(*t.DefaultConfig)
			t.DefaultConfig = &c
		}
	}
	return p
}

func cloneConfig(c api.ToolConfig) api.ToolConfig {
	c.Enabled, c.PermissionPolicy, c.MaxContentTokens = clonePtr(c.Enabled), clonePtr(c.PermissionPolicy), clonePtr(c.MaxContentTokens)
	c.AllowedDomains, c.BlockedDomains = slices.Clone(c.AllowedDomains), slices.Clone(c.BlockedDomains)
	c.URLSources, c.UserLocation = slices.Clone(c.URLSources), slices.Clone(c.UserLocation)
	return c
}

func clonePtr[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

func cloneRaws(rs []json.RawMessage) []json.RawMessage {
	rs = slices.Clone(rs)
	for i := range rs {
		rs[i] = slices.Clone(rs[i])
	}
	return rs
}
