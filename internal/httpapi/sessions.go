package httpapi

import (
	"slices"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/turn"
)

func createSession(c *call) (any, error) {
	var req api.CreateSession
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if err := plane.CheckCreateSession(req); err != nil {
		return nil, err
	}
	if err := plane.CheckAgentRef(req.Agent); err != nil {
		return nil, err
	}
	if err := plane.CheckMetadata("metadata", req.Metadata); err != nil {
		return nil, err
	}
	if req.Metadata == nil {
		req.Metadata = api.Metadata{}
	}
	var snapshot api.SessionAgent
	err := c.s.cfg.Store.View(c.ctx(), func(r store.Reader) error {
		version := 0
		if req.Agent.Version != nil {
			version = *req.Agent.Version
		}
		a, err := named(func(id string) (plane.AgentVersion, error) { return r.Agent(id, version) }, "agent", req.Agent.ID)
		if err != nil {
			return err
		}
		if version > 0 { // an old version knows nothing of the archive
			latest, err := r.Agent(a.ID, 0)
			if err != nil {
				return err
			}
			a.ArchivedAt = latest.ArchivedAt
		}
		snapshot, err = plane.SnapshotAgent(a, req.Agent)
		return err
	})
	if err != nil {
		return nil, err
	}
	if _, err := c.s.cfg.Models.Resolve(snapshot.Model.ID); err != nil {
		if plane.KindOf(err) != plane.NotFound {
			return nil, err
		}
		return nil, plane.Wrap(plane.Invalid, err, "model %q is not configured on this server; GET /v1/models lists what is", clip(snapshot.Model.ID)).In("agent.model")
	}
	sess, err := named(func(environment string) (plane.Session, error) {
		return c.s.cfg.Turn.Create(c.ctx(), turn.NewSession{
			EnvironmentID: environment, Agent: snapshot, Title: req.Title, Metadata: req.Metadata, InitialEvents: req.InitialEvents,
		})
	}, "environment_id", req.EnvironmentID)
	if err != nil {
		return nil, err
	}
	return c.s.session(sess), nil
}

// named gets what a field of a request names, or what is made of it. What is
// not there is the request's fault: Invalid, not NotFound.
func named[T any](get func(id string) (T, error), field, id string) (T, error) {
	var none T
	if !idText(id) {
		return none, plane.Errorf(plane.Invalid, "%q does not exist", clip(id)).In(field)
	}
	v, err := get(id)
	if err != nil && plane.KindOf(err) == plane.NotFound {
		return none, plane.Errorf(plane.Invalid, "%q does not exist", id).In(field)
	}
	return v, err
}

// session is the wire's form of a row: its durations are as of now.
func (s *server) session(row plane.Session) api.Session {
	out := row.Session
	out.Stats = s.stats(row)
	out.Usage.ActiveSeconds = out.Stats.ActiveSeconds
	if out.Resources == nil {
		out.Resources = emptyRaw
	}
	if out.VaultIDs == nil {
		out.VaultIDs = []string{}
	}
	if out.OutcomeEvaluations == nil {
		out.OutcomeEvaluations = emptyRaw
	}
	if out.Metadata == nil {
		out.Metadata = api.Metadata{}
	}
	return out
}

func (s *server) stats(row plane.Session) api.SessionStats {
	stats := row.Stats
	now := s.now()
	if row.TurnSince != nil && row.Status == api.SessionRunning && now.After(*row.TurnSince) {
		stats.ActiveSeconds += now.Sub(*row.TurnSince).Seconds()
	}
	end := now
	if row.ArchivedAt != nil {
		end = *row.ArchivedAt
	} else if row.Status == api.SessionTerminated {
		end = row.UpdatedAt
	}
	if end.After(row.CreatedAt) {
		stats.DurationSeconds = end.Sub(row.CreatedAt).Seconds()
	}
	return stats
}

func listSessions(c *call) (any, error) {
	q, err := c.query()
	if err != nil {
		return nil, err
	}
	f, nothing, err := sessionFilter(q)
	if err != nil {
		return nil, err
	}
	order, err := q.oneOf("order", "desc", "asc")
	if err != nil {
		return nil, err
	}
	w, limit, err := q.pageOf("sessions", order, 20, 100)
	if err != nil {
		return nil, err
	}
	page := api.TwoWayPage[api.Session]{Data: []api.Session{}}
	if nothing {
		return page, nil
	}
	var rows []plane.Session
	var before, after bool // whether there are rows on either side
	err = c.s.cfg.Store.View(c.ctx(), func(r store.Reader) (err error) {
		if rows, err = r.Sessions(f, w); err != nil {
			return err
		}
		more := len(rows) > limit
		rows = rows[:min(len(rows), limit)]
		if len(rows) == 0 {
			before, after = false, false
			return nil
		}
		// The far side is known; the side we came from may have changed.
		other := store.Window{After: rows[0].ID, Limit: 1, Asc: w.Asc, Backward: !w.Backward}
		came := false
		if w.After != "" {
			there, err := r.Sessions(f, other)
			if err != nil {
				return err
			}
			came = len(there) > 0
		}
		before, after = came, more
		if w.Backward {
			slices.Reverse(rows)
			before, after = more, came
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		page.Data = append(page.Data, c.s.session(row))
	}
	if after {
		next := cursor{list: "sessions", order: order, after: rows[len(rows)-1].ID}.String()
		page.NextPage = &next
	}
	if before {
		prev := cursor{list: "sessions", order: order, after: rows[0].ID, backward: true}.String()
		page.PrevPage = &prev
	}
	return page, nil
}

// sessionFilter reads the list's filters; nothing says that no session can
// match (nothing here has deployments or memory stores).
func sessionFilter(q query) (f store.SessionFilter, nothing bool, err error) {
	if f.AgentID, err = q.wanted("agent_id", plane.PrefixAgent); err != nil {
		return f, false, err
	}
	if f.AgentVersion, err = q.number("agent_version", 0, 1, 1<<31-1); err != nil {
		return f, false, err
	}
	if f.AgentVersion > 0 && f.AgentID == "" {
		return f, false, plane.Errorf(plane.Invalid, "needs agent_id beside it").In("agent_version")
	}
	if f.IncludeArchived, err = q.truth("include_archived"); err != nil {
		return f, false, err
	}
	if f.Statuses, err = q.statuses(); err != nil {
		return f, false, err
	}
	if f.Created, err = q.timeRange("created_at"); err != nil {
		return f, false, err
	}
	for name, prefix := range map[string]string{"deployment_id": "depl_", "memory_store_id": "memstore_"} {
		v, err := q.wanted(name, prefix)
		if err != nil {
			return f, false, err
		}
		nothing = nothing || v != ""
	}
	return f, nothing, nil
}

// statuses are those to filter by, none for all.
func (q query) statuses() ([]api.SessionStatus, error) {
	names, err := q.list("statuses", 100)
	if err != nil {
		return nil, err
	}
	var all []api.SessionStatus
	for _, s := range names {
		switch st := api.SessionStatus(s); st {
		case api.SessionIdle, api.SessionRunning, api.SessionRescheduling, api.SessionTerminated:
			all = append(all, st)
		default:
			return nil, plane.Errorf(plane.Invalid, "%q is not a status; use idle, running, rescheduling or terminated", clip(s)).In("statuses")
		}
	}
	return all, nil
}

func (q query) timeRange(name string) (tr store.TimeRange, err error) {
	if tr.GT, err = q.at(name + "[gt]"); err != nil {
		return tr, err
	}
	if tr.GTE, err = q.at(name + "[gte]"); err != nil {
		return tr, err
	}
	if tr.LT, err = q.at(name + "[lt]"); err != nil {
		return tr, err
	}
	tr.LTE, err = q.at(name + "[lte]")
	return tr, err
}

// lookup reads the session of the path.
func (c *call) lookup() (plane.Session, error) {
	id := c.path("session")
	row, err := c.s.cfg.Store.Session(c.ctx(), id)
	return row, noSession(err, id)
}

func noSession(err error, id string) error {
	if err != nil && plane.KindOf(err) == plane.NotFound {
		return plane.Errorf(plane.NotFound, "there is no session %s", id)
	}
	return err
}

func getSession(c *call) (any, error) {
	row, err := c.lookup()
	if err != nil {
		return nil, err
	}
	return c.s.session(row), nil
}

func updateSession(c *call) (any, error) {
	var req api.UpdateSession
	if err := c.decodeOptional(&req); err != nil {
		return nil, err
	}
	row, err := c.s.cfg.Turn.Update(c.ctx(), c.path("session"), req)
	if err != nil {
		return nil, noSession(err, c.path("session"))
	}
	return c.s.session(row), nil
}

func archiveSession(c *call) (any, error) {
	if err := c.decodeOptional(&struct{}{}); err != nil {
		return nil, err
	}
	row, err := c.s.cfg.Turn.Archive(c.ctx(), c.path("session"))
	if err != nil {
		return nil, noSession(err, c.path("session"))
	}
	return c.s.session(row), nil
}

func deleteSession(c *call) (any, error) {
	id := c.path("session")
	if err := c.s.cfg.Turn.Delete(c.ctx(), id); err != nil {
		return nil, noSession(err, id)
	}
	return api.Deleted{ID: id, Type: "session_deleted"}, nil
}
