package workertest

import (
	"net/http"
	"time"

	"github.com/berthdev/berth/api"
)

// Skill is a version of a skill that the plane serves.
type Skill struct {
	ID      string
	Version string // a decimal number is best: every client takes it
	Name    string
	Archive []byte
	// Older serves it as planes of the older shape do: by its number only, which
	// is not its id.
	Older bool
}

// Skill makes the plane serve a skill to whoever holds an item.
func (p *Plane) Skill(s Skill) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.skills = append(p.skills, s)
}

// Agent is what the sessions' agent is from now on.
func (p *Plane) Agent(a api.SessionAgent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.agent = a
}

func (p *Plane) onSkill(do func(Skill) any) answer {
	return func(r *http.Request, _ []byte) (any, *failure) {
		allowed := false
		for _, it := range p.items {
			allowed = allowed || it.may(bearer(r))
		}
		if !allowed {
			return nil, failf(http.StatusUnauthorized, "no good credential")
		}
		var found *Skill
		for _, s := range p.skills {
			if v := r.PathValue("v"); s.ID == r.PathValue("k") && (s.Version == v || v == "latest" && !s.Older) {
				found = &s
			}
		}
		if found == nil {
			return nil, failf(http.StatusNotFound, "no such version of a skill")
		}
		return do(*found), nil
	}
}

func (s Skill) wire() any {
	v := api.SkillVersion{ID: s.Version, Type: "skill_version", SkillID: s.ID, Name: s.Name, CreatedAt: time.Unix(1e9, 0).UTC()}
	if s.Older {
		v.ID, v.Version, v.Directory = "skillver_"+s.Version, s.Version, s.Name
	}
	return v
}

func (p *Plane) skillVersions(r *http.Request, _ []byte) (any, *failure) {
	page := api.Page[any]{Data: []any{}}
	for _, s := range p.skills {
		if s.ID == r.PathValue("k") {
			page.Data = append(page.Data, s.wire())
		}
	}
	return page, nil
}
