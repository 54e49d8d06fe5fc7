package record

import (
	"encoding/json"
	"maps"
	"slices"
	"sync"

	"github.com/berthdev/berth/api"
)

// profileBytes bounds the texts that are remembered.
const profileBytes = 2 << 20

// profiles remembers what stored profiles say: each step of a turn reads the
// same one again, and to decode it costs more than all else of the read.
// What it gives is the caller's own. Safe for concurrent use.
var profiles struct {
	sync.Mutex
	known map[string]profile
	bytes int
}

func decodeProfile(text []byte) (profile, error) {
	profiles.Lock()
	p, ok := profiles.known[string(text)]
	profiles.Unlock()
	if ok {
		return p.clone(), nil
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return p, err
	}
	profiles.Lock()
	defer profiles.Unlock()
	if profiles.known == nil {
		profiles.known = make(map[string]profile)
	}
	for old := range profiles.known { // any of them
		if profiles.bytes+len(text) <= profileBytes {
			break
		}
		delete(profiles.known, old)
		profiles.bytes -= len(old)
	}
	if _, raced := profiles.known[string(text)]; !raced && len(text) <= profileBytes {
		profiles.known[string(text)] = p
		profiles.bytes += len(text)
	}
	return p.clone(), nil
}

// clone shares nothing that can be changed.
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
