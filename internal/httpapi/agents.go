package httpapi

import (
	"strconv"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

func createAgent(c *call) (any, error) {
	var req api.CreateAgent
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	a, err := plane.NewAgent(req, c.s.stamp())
	if err != nil {
		return nil, err
	}
	err = c.s.cfg.Store.Update(c.ctx(), func(tx store.Tx) error { return tx.InsertAgentVersion(a) })
	return a.Agent, err
}

func listAgents(c *call) (any, error) {
	q, err := c.query()
	if err != nil {
		return nil, err
	}
	var f store.AgentFilter
	if f.IncludeArchived, err = q.truth("include_archived"); err != nil {
		return nil, err
	}
	if f.CreatedGTE, err = q.at("created_at[gte]"); err != nil {
		return nil, err
	}
	if f.CreatedLTE, err = q.at("created_at[lte]"); err != nil {
		return nil, err
	}
	w, limit, err := q.pageOf("agents", "desc", 20, 100)
	if err != nil {
		return nil, err
	}
	var rows []plane.AgentVersion
	err = c.s.cfg.Store.View(c.ctx(), func(r store.Reader) (err error) {
		rows, err = r.Agents(f, w)
		return err
	})
	if err != nil {
		return nil, err
	}
	return agentPage(rows, limit, "agents", func(a plane.AgentVersion) string { return a.ID }), nil
}

func agentPage(rows []plane.AgentVersion, limit int, list string, id func(plane.AgentVersion) string) api.Page[api.Agent] {
	rows, next := cut(rows, limit, list, "desc", id)
	page := api.Page[api.Agent]{Data: []api.Agent{}, NextPage: next}
	for _, a := range rows {
		page.Data = append(page.Data, a.Agent)
	}
	return page
}

// agent reads a version, the latest for 0, and names it when there is none.
func agent(r store.Reader, id string, version int) (plane.AgentVersion, error) {
	a, err := r.Agent(id, version)
	if err != nil && plane.KindOf(err) == plane.NotFound && version > 0 {
		return a, plane.Errorf(plane.NotFound, "there is no version %d of an agent %s", version, id)
	}
	return a, noAgent(err, id)
}

func noAgent(err error, id string) error {
	if err != nil && plane.KindOf(err) == plane.NotFound {
		return plane.Errorf(plane.NotFound, "there is no agent %s", id)
	}
	return err
}

func getAgent(c *call) (any, error) {
	q, err := c.query()
	if err != nil {
		return nil, err
	}
	version, err := q.number("version", 0, 1, 1<<31-1)
	if err != nil {
		return nil, err
	}
	var a plane.AgentVersion
	err = c.s.cfg.Store.View(c.ctx(), func(r store.Reader) (err error) {
		a, err = agent(r, c.path("agent"), version)
		return err
	})
	return a.Agent, err
}

func updateAgent(c *call) (any, error) {
	var req api.UpdateAgent
	if err := c.decodeOptional(&req); err != nil {
		return nil, err
	}
	var next plane.AgentVersion
	err := c.s.cfg.Store.Update(c.ctx(), func(tx store.Tx) error {
		cur, err := tx.LockAgent(c.path("agent"))
		if err != nil {
			return noAgent(err, c.path("agent"))
		}
		var changed bool
		if next, changed, err = plane.UpdatedAgent(cur, req, c.s.stamp()); err != nil || !changed {
			return err
		}
		return tx.InsertAgentVersion(next)
	})
	return next.Agent, err
}

func archiveAgent(c *call) (any, error) {
	if err := c.decodeOptional(&struct{}{}); err != nil {
		return nil, err
	}
	var a plane.AgentVersion
	err := c.s.cfg.Store.Update(c.ctx(), func(tx store.Tx) error {
		cur, err := tx.LockAgent(c.path("agent"))
		if err != nil {
			return noAgent(err, c.path("agent"))
		}
		if a = plane.ArchivedAgent(cur, c.s.stamp()); cur.ArchivedAt != nil {
			return nil
		}
		return tx.UpdateAgent(a)
	})
	return a.Agent, err
}

func listAgentVersions(c *call) (any, error) {
	q, err := c.query()
	if err != nil {
		return nil, err
	}
	id := c.path("agent")
	list := "versions of " + id
	w, limit, err := q.pageOf(list, "desc", 20, 100)
	if err != nil {
		return nil, err
	}
	if w.After != "" {
		if n, err := strconv.Atoi(w.After); err != nil || n < 1 {
			return nil, plane.Errorf(plane.Invalid, "the cursor is not one of ours").In("page")
		}
	}
	var rows []plane.AgentVersion
	err = c.s.cfg.Store.View(c.ctx(), func(r store.Reader) error {
		if _, err := agent(r, id, 0); err != nil {
			return err
		}
		rows, err = r.AgentVersions(id, w)
		return err
	})
	if err != nil {
		return nil, err
	}
	return agentPage(rows, limit, list, func(a plane.AgentVersion) string { return strconv.Itoa(a.Version) }), nil
}
