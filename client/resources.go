package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/berthdev/berth/api"
)

// EnvironmentQuery narrows the environment list.
type EnvironmentQuery struct {
	PageQuery
	IncludeArchived bool
}

func (c *Client) CreateEnvironment(ctx context.Context, e api.CreateEnvironment) (*api.Environment, error) {
	return must[api.Environment](ctx, c, request{method: http.MethodPost, path: []string{"environments"}, body: e})
}

func (c *Client) Environment(ctx context.Context, id string) (*api.Environment, error) {
	return must[api.Environment](ctx, c, request{method: http.MethodGet, path: []string{"environments", id}})
}

func (c *Client) Environments(ctx context.Context, q EnvironmentQuery) (*api.Page[api.Environment], error) {
	v := q.values()
	if q.IncludeArchived {
		v.Set("include_archived", "true")
	}
	return must[api.Page[api.Environment]](ctx, c, request{method: http.MethodGet, path: []string{"environments"}, query: v})
}

func (c *Client) UpdateEnvironment(ctx context.Context, id string, u api.UpdateEnvironment) (*api.Environment, error) {
	return must[api.Environment](ctx, c, request{method: http.MethodPost, path: []string{"environments", id}, body: u})
}

func (c *Client) ArchiveEnvironment(ctx context.Context, id string) (*api.Environment, error) {
	return must[api.Environment](ctx, c, request{method: http.MethodPost, path: []string{"environments", id, "archive"}})
}

func (c *Client) DeleteEnvironment(ctx context.Context, id string) error {
	_, err := c.call(ctx, request{method: http.MethodDelete, path: []string{"environments", id}}, &api.Deleted{})
	return err
}

// AgentQuery narrows the agent list.
type AgentQuery struct {
	PageQuery
	IncludeArchived bool
}

func (c *Client) CreateAgent(ctx context.Context, a api.CreateAgent) (*api.Agent, error) {
	return must[api.Agent](ctx, c, request{method: http.MethodPost, path: []string{"agents"}, body: a})
}

// Agent gets a version of an agent, the latest when version is 0.
func (c *Client) Agent(ctx context.Context, id string, version int) (*api.Agent, error) {
	q := url.Values{}
	if version > 0 {
		q.Set("version", strconv.Itoa(version))
	}
	return must[api.Agent](ctx, c, request{method: http.MethodGet, path: []string{"agents", id}, query: q})
}

func (c *Client) Agents(ctx context.Context, q AgentQuery) (*api.Page[api.Agent], error) {
	v := q.values()
	if q.IncludeArchived {
		v.Set("include_archived", "true")
	}
	return must[api.Page[api.Agent]](ctx, c, request{method: http.MethodGet, path: []string{"agents"}, query: v})
}

func (c *Client) UpdateAgent(ctx context.Context, id string, u api.UpdateAgent) (*api.Agent, error) {
	return must[api.Agent](ctx, c, request{method: http.MethodPost, path: []string{"agents", id}, body: u})
}

func (c *Client) ArchiveAgent(ctx context.Context, id string) (*api.Agent, error) {
	return must[api.Agent](ctx, c, request{method: http.MethodPost, path: []string{"agents", id, "archive"}})
}

func (c *Client) AgentVersions(ctx context.Context, id string, p PageQuery) (*api.Page[api.Agent], error) {
	return must[api.Page[api.Agent]](ctx, c, request{method: http.MethodGet, path: []string{"agents", id, "versions"}, query: p.values()})
}

// SessionQuery narrows the session list; Order is "desc" (the default) or
// "asc" by creation.
type SessionQuery struct {
	PageQuery
	AgentID         string
	AgentVersion    int
	Statuses        []api.SessionStatus
	IncludeArchived bool
	Order           string
	CreatedAfter    time.Time
	CreatedBefore   time.Time
}

func (q SessionQuery) values() url.Values {
	v := q.PageQuery.values()
	if q.AgentID != "" {
		v.Set("agent_id", q.AgentID)
	}
	if q.AgentVersion > 0 {
		v.Set("agent_version", strconv.Itoa(q.AgentVersion))
	}
	for _, s := range q.Statuses {
		v.Add("statuses[]", string(s))
	}
	if q.IncludeArchived {
		v.Set("include_archived", "true")
	}
	if q.Order != "" {
		v.Set("order", q.Order)
	}
	if !q.CreatedAfter.IsZero() {
		v.Set("created_at[gte]", q.CreatedAfter.UTC().Format(time.RFC3339Nano))
	}
	if !q.CreatedBefore.IsZero() {
		v.Set("created_at[lte]", q.CreatedBefore.UTC().Format(time.RFC3339Nano))
	}
	return v
}

func (c *Client) CreateSession(ctx context.Context, s api.CreateSession) (*api.Session, error) {
	return must[api.Session](ctx, c, request{method: http.MethodPost, path: []string{"sessions"}, body: s})
}

func (c *Client) Session(ctx context.Context, id string) (*api.Session, error) {
	return must[api.Session](ctx, c, request{method: http.MethodGet, path: []string{"sessions", id}})
}

func (c *Client) Sessions(ctx context.Context, q SessionQuery) (*api.TwoWayPage[api.Session], error) {
	return must[api.TwoWayPage[api.Session]](ctx, c, request{method: http.MethodGet, path: []string{"sessions"}, query: q.values()})
}

func (c *Client) UpdateSession(ctx context.Context, id string, u api.UpdateSession) (*api.Session, error) {
	return must[api.Session](ctx, c, request{method: http.MethodPost, path: []string{"sessions", id}, body: u})
}

func (c *Client) ArchiveSession(ctx context.Context, id string) (*api.Session, error) {
	return must[api.Session](ctx, c, request{method: http.MethodPost, path: []string{"sessions", id, "archive"}})
}

func (c *Client) DeleteSession(ctx context.Context, id string) error {
	_, err := c.call(ctx, request{method: http.MethodDelete, path: []string{"sessions", id}}, &api.Deleted{})
	return err
}

// SessionThreads lists a session's threads; the first is the primary one.
func (c *Client) SessionThreads(ctx context.Context, id string, p PageQuery) (*api.Page[api.SessionThread], error) {
	return must[api.Page[api.SessionThread]](ctx, c, request{method: http.MethodGet, path: []string{"sessions", id, "threads"}, query: p.values()})
}

// Models lists the models that agents may name; after is the last id of the
// page before.
func (c *Client) Models(ctx context.Context, after string, limit int) (*api.IDPage[api.Model], error) {
	q := url.Values{}
	if after != "" {
		q.Set("after_id", after)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return must[api.IDPage[api.Model]](ctx, c, request{method: http.MethodGet, path: []string{"models"}, query: q})
}

func (c *Client) Model(ctx context.Context, id string) (*api.Model, error) {
	return must[api.Model](ctx, c, request{method: http.MethodGet, path: []string{"models", id}})
}

// SkillVersion gets a version of a skill by its id, or "latest".
func (c *Client) SkillVersion(ctx context.Context, skill, version string) (*api.SkillVersion, error) {
	return must[api.SkillVersion](ctx, c, request{method: http.MethodGet, path: []string{"skills", skill, "versions", version}})
}

// SkillVersions lists a skill's versions.
func (c *Client) SkillVersions(ctx context.Context, skill string, p PageQuery) (*api.Page[api.SkillVersion], error) {
	return must[api.Page[api.SkillVersion]](ctx, c, request{method: http.MethodGet, path: []string{"skills", skill, "versions"}, query: p.values()})
}

// SkillContent opens the archive (zip or tar) of a skill's version. The
// context ends the reading, too; it is not retried, and as long as the server
// makes it. Close it.
func (c *Client) SkillContent(ctx context.Context, skill, version string) (io.ReadCloser, error) {
	req, err := c.newRequest(ctx, request{
		method: http.MethodGet, path: []string{"skills", skill, "versions", version, "content"}, header: http.Header{"Accept": {"application/octet-stream"}},
	}, nil)
	if err != nil {
		return nil, err
	}
	res, err := c.send(req)
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// CreateKey makes an API key or an environment key. The answer's Key is shown
// this once. Berth only.
func (c *Client) CreateKey(ctx context.Context, k api.CreateKey) (*api.Key, error) {
	return must[api.Key](ctx, c, request{method: http.MethodPost, path: []string{"berth", "keys"}, body: k})
}

// Keys lists the keys of an environment, or the API keys when it is "".
// Berth only.
func (c *Client) Keys(ctx context.Context, environment string) (*api.Page[api.Key], error) {
	q := url.Values{}
	if environment != "" {
		q.Set("environment_id", environment)
	}
	return must[api.Page[api.Key]](ctx, c, request{method: http.MethodGet, path: []string{"berth", "keys"}, query: q})
}

// RevokeKey ends a key at once. Berth only.
func (c *Client) RevokeKey(ctx context.Context, id string) error {
	_, err := c.call(ctx, request{method: http.MethodDelete, path: []string{"berth", "keys", id}}, &api.Deleted{})
	return err
}
