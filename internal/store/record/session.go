package record

import (
	"encoding/json"
	"reflect"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
)

// profile is what seldom changes about a session. It has a row of its own,
// so that the steps of a turn rewrite a small one.
type profile struct {
	Title              *string           `json:"title"`
	Agent              api.SessionAgent  `json:"agent"`
	Resources          []json.RawMessage `json:"resources"`
	Metadata           api.Metadata      `json:"metadata"`
	VaultIDs           []string          `json:"vault_ids"`
	OutcomeEvaluations []json.RawMessage `json:"outcome_evaluations"`
	Budget             json.RawMessage   `json:"budget"`
	DeploymentID       *string           `json:"deployment_id"`
}

type counts struct {
	Stats api.SessionStats `json:"stats"`
	Usage api.SessionUsage `json:"usage"`
}

// Session: id, environment_id, status, created_at, updated_at, archived_at,
// counts, thread_id, pos, emit, last_processed_at, turn, turn_owner,
// turn_fence, turn_until, turn_since, stop_reason, has_input, last_input_at,
// profile.
func Session(r Row) (s plane.Session, err error) {
	s.Type = "session"
	s.ID, s.EnvironmentID, s.Status = r.Text(), r.Text(), api.SessionStatus(r.Text())
	s.CreatedAt, s.UpdatedAt, s.ArchivedAt = r.Time(), r.Time(), r.TimePtr()
	sums := r.Text()
	s.ThreadID, s.Pos, s.Emit, s.LastProcessedAt = r.Text(), r.Int(), r.Int(), r.Time()
	s.Turn, s.TurnOwner, s.TurnFence = plane.TurnState(r.Text()), r.Text(), r.Int()
	s.TurnUntil, s.TurnSince = r.Time(), r.TimePtr()
	s.StopReason, s.HasInput, s.LastInputAt = r.Text(), r.Bool(), r.TimePtr()
	stored := r.Text()

	if sums != "" {
		c, err := numbers.decode(sums, (*counts).tidy)
		if err != nil {
			return s, err
		}
		s.Stats, s.Usage = c.Stats, c.Usage
	}
	p, err := profiles.decode(stored, (*profile).tidy)
	if err != nil {
		return s, err
	}
	s.Title, s.Agent, s.Resources, s.Metadata, s.VaultIDs = p.Title, p.Agent, p.Resources, p.Metadata, p.VaultIDs
	s.OutcomeEvaluations, s.Budget, s.DeploymentID = p.OutcomeEvaluations, p.Budget, p.DeploymentID
	return s, nil
}

func (p *profile) tidy() { p.Budget, p.Agent.Multiagent = raw(p.Budget), raw(p.Agent.Multiagent) }

func (c *counts) tidy() {
	c.Usage.ListCost, c.Usage.ServerToolUse = raw(c.Usage.ListCost), raw(c.Usage.ServerToolUse)
}

// Profile is the text of a session's profile: was, the stored one or "", if
// that says the same.
func Profile(s *plane.Session, was string) (string, error) {
	p := profile{s.Title, s.Agent, s.Resources, s.Metadata, s.VaultIDs, s.OutcomeEvaluations, s.Budget, s.DeploymentID}
	if known, ok := profiles.find(was); ok && reflect.DeepEqual(known, p) {
		return was, nil
	}
	return text(p)
}

// SessionValues: id, environment_id, status, created_at, updated_at,
// archived_at, counts, thread_id, pos, emit, last_processed_at, turn,
// turn_owner, turn_fence, turn_until, turn_since, stop_reason, has_input,
// last_input_at, agent_id, agent_version.
func SessionValues(s *plane.Session) ([]any, error) {
	sums := ""
	c := counts{s.Stats, s.Usage}
	if c.Stats != (api.SessionStats{}) || !unused(c.Usage) {
		var err error
		if sums, err = text(c); err != nil {
			return nil, err
		}
		if c.Usage.ListCost == nil && c.Usage.ServerToolUse == nil {
			numbers.note(sums, c)
		}
	}
	return []any{
		s.ID, s.EnvironmentID, string(s.Status), s.CreatedAt, s.UpdatedAt, s.ArchivedAt, sums,
		s.ThreadID, s.Pos, s.Emit, s.LastProcessedAt, string(s.Turn), s.TurnOwner, s.TurnFence, s.TurnUntil, s.TurnSince,
		s.StopReason, s.HasInput, s.LastInputAt, s.Agent.ID, int64(s.Agent.Version),
	}, nil
}

func unused(u api.SessionUsage) bool {
	return u.InputTokens == 0 && u.OutputTokens == 0 && u.CacheReadInputTokens == 0 && u.CacheCreation == (api.CacheCreation{}) &&
		u.ActiveSeconds == 0 && u.ListCost == nil && u.ServerToolUse == nil
}
