package model

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
)

// Registry knows which Model answers for which model id. Fill it before use;
// then it is safe for concurrent use.
type Registry struct {
	entries []entry
}

type entry struct {
	id     string // exact id, or a prefix when prefix is set
	prefix bool
	model  Model
	listed []api.Model
}

// Add makes m answer for the model id of info, and lists it.
func (r *Registry) Add(info api.Model, m Model) {
	r.entries = append(r.entries, entry{id: info.ID, model: m, listed: []api.Model{Fill(info)}})
}

// AddPrefix makes m answer for every id that begins with prefix ("" for all)
// and has no entry of its own, and lists infos.
func (r *Registry) AddPrefix(prefix string, m Model, infos ...api.Model) {
	e := entry{id: prefix, prefix: true, model: m}
	for _, i := range infos {
		e.listed = append(e.listed, Fill(i))
	}
	r.entries = append(r.entries, e)
}

// Resolve gives the Model for an id: an exact entry, else the longest prefix.
// NotFound when there is none.
func (r *Registry) Resolve(id string) (Model, error) {
	var best *entry
	for i := range r.entries {
		e := &r.entries[i]
		if !e.prefix && e.id == id {
			return e.model, nil
		}
		if e.prefix && strings.HasPrefix(id, e.id) && (best == nil || len(e.id) > len(best.id)) {
			best = e
		}
	}
	if best == nil {
		return nil, plane.Errorf(plane.NotFound, "model %q is not configured on this server; GET /v1/models lists what is", id)
	}
	return best.model, nil
}

// List gives every listed model, newest first.
func (r *Registry) List() []api.Model {
	list := []api.Model{}
	for _, e := range r.entries {
		list = append(list, e.listed...)
	}
	slices.SortStableFunc(list, func(a, b api.Model) int {
		if c := b.CreatedAt.Compare(a.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list
}

// Fill gives a model's description the members that are always there.
func Fill(m api.Model) api.Model {
	m.Type = "model"
	if m.DisplayName == "" {
		m.DisplayName = m.ID
	}
	if m.Lifecycle == "" {
		m.Lifecycle = "active"
	}
	if m.CreatedAt.IsZero() {
		m.CreatedAt = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if m.AllowedFallbackModels == nil {
		m.AllowedFallbackModels = []string{}
	}
	if m.Capabilities == nil {
		m.Capabilities = map[string]json.RawMessage{}
	}
	return m
}
