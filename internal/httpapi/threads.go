package httpapi

import (
	"encoding/json"
	"slices"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
)

var emptyRaw = []json.RawMessage{}

// primary is a session's one thread.
func (s *server) primary(row plane.Session) api.SessionThread {
	a := row.Agent
	t := api.SessionThread{
		ID: row.ThreadID, Type: "session_thread", SessionID: row.ID, Status: row.Status,
		Agent: api.SessionThreadAgent{
			ID: a.ID, Type: "agent", Version: a.Version, Name: a.Name, Description: a.Description, Model: a.Model, System: a.System,
			Tools: a.Tools, MCPServers: a.MCPServers, Skills: a.Skills, ExecutionIdentity: a.ExecutionIdentity,
		},
		ArchivedAt: row.ArchivedAt, CreatedAt: row.CreatedAt, UpdatedAt: row.UpdatedAt,
	}
	if row.HasInput {
		stats := s.stats(row)
		t.Stats = &api.ThreadStats{ActiveSeconds: stats.ActiveSeconds, DurationSeconds: stats.DurationSeconds}
	}
	if row.StopReason != "" {
		usage := row.Usage
		usage.ActiveSeconds = s.stats(row).ActiveSeconds
		t.Usage = &usage
	}
	return t
}

func listThreads(c *call) (any, error) {
	q, err := c.query()
	if err != nil {
		return nil, err
	}
	statuses, err := q.statuses()
	if err != nil {
		return nil, err
	}
	if _, _, err := q.pageOf("threads of "+c.path("session"), "asc", 1000, 1000); err != nil {
		return nil, err
	}
	row, err := c.lookup()
	if err != nil {
		return nil, err
	}
	page := api.Page[api.SessionThread]{Data: []api.SessionThread{}}
	if len(statuses) == 0 || slices.Contains(statuses, row.Status) {
		page.Data = append(page.Data, c.s.primary(row))
	}
	return page, nil
}

// thread reads the session of the path and holds the thread to be its own.
func (c *call) thread() (plane.Session, error) {
	row, err := c.lookup()
	if err != nil {
		return row, err
	}
	if id := c.path("thread"); id != row.ThreadID {
		return row, plane.Errorf(plane.NotFound, "session %s has no thread %s", row.ID, id)
	}
	return row, nil
}

func getThread(c *call) (any, error) {
	row, err := c.thread()
	if err != nil {
		return nil, err
	}
	return c.s.primary(row), nil
}

func archiveThread(c *call) (any, error) {
	if _, err := c.thread(); err != nil {
		return nil, err
	}
	return nil, plane.Errorf(plane.Invalid, "the primary thread cannot be archived by itself; archive the session")
}

func listThreadEvents(c *call) (any, error) {
	if _, err := c.thread(); err != nil {
		return nil, err
	}
	return listEvents(c)
}

func streamThread(c *call) (any, error) {
	if _, err := c.thread(); err != nil {
		return nil, err
	}
	return streamEvents(c)
}

func listResources(c *call) (any, error) {
	q, err := c.query()
	if err != nil {
		return nil, err
	}
	if _, _, err := q.pageOf("resources of "+c.path("session"), "asc", 1000, 1000); err != nil {
		return nil, err
	}
	if _, err := c.lookup(); err != nil {
		return nil, err
	}
	return api.Page[json.RawMessage]{Data: emptyRaw}, nil
}

func addResource(c *call) (any, error) {
	if _, err := c.lookup(); err != nil {
		return nil, err
	}
	var req struct {
		Type string `json:"type"`
	}
	body, err := c.read()
	if err != nil {
		return nil, err
	}
	if err := api.DecodeLenient(body, &req); err != nil {
		return nil, err
	}
	return nil, plane.Errorf(plane.Invalid, "resources of type %q are not available on self_hosted environments", clip(req.Type)).In("type")
}

func noResource(c *call) (any, error) {
	if _, err := c.lookup(); err != nil {
		return nil, err
	}
	return nil, plane.Errorf(plane.NotFound, "session %s has no resource %s", c.path("session"), c.path("resource"))
}
