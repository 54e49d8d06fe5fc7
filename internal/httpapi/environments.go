package httpapi

import (
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

// stamp is now as the stores keep it.
func (s *server) stamp() time.Time { return s.now().UTC().Truncate(time.Microsecond) }

func createEnvironment(c *call) (any, error) {
	var req api.CreateEnvironment
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	env, err := plane.NewEnvironment(req, c.s.stamp())
	if err != nil {
		return nil, err
	}
	if err := c.s.cfg.Store.Update(c.ctx(), func(tx store.Tx) error { return tx.InsertEnvironment(env) }); err != nil {
		return nil, nameTaken(err)
	}
	return env.Environment, nil
}

func nameTaken(err error) error {
	if plane.KindOf(err) == plane.Conflict {
		return plane.Wrap(plane.Conflict, err, "an environment with this name exists already").In("name")
	}
	return err
}

func listEnvironments(c *call) (any, error) {
	q, err := c.query()
	if err != nil {
		return nil, err
	}
	archived, err := q.truth("include_archived")
	if err != nil {
		return nil, err
	}
	w, limit, err := q.pageOf("environments", "desc", 20, 100)
	if err != nil {
		return nil, err
	}
	var rows []plane.Environment
	err = c.s.cfg.Store.View(c.ctx(), func(r store.Reader) (err error) {
		rows, err = r.Environments(archived, w)
		return err
	})
	if err != nil {
		return nil, err
	}
	rows, next := cut(rows, limit, "environments", "desc", func(e plane.Environment) string { return e.ID })
	page := api.Page[api.Environment]{Data: []api.Environment{}, NextPage: next}
	for _, e := range rows {
		page.Data = append(page.Data, e.Environment)
	}
	return page, nil
}

func getEnvironment(c *call) (any, error) {
	env, err := c.s.cfg.Store.Environment(c.ctx(), c.path("environment"))
	return env.Environment, noEnvironment(err, c.path("environment"))
}

func noEnvironment(err error, id string) error {
	if err != nil && plane.KindOf(err) == plane.NotFound {
		return plane.Errorf(plane.NotFound, "there is no environment %s", id).WithCode("environment_not_found")
	}
	return err
}

func updateEnvironment(c *call) (any, error) {
	var req api.UpdateEnvironment
	if err := c.decodeOptional(&req); err != nil {
		return nil, err
	}
	var next plane.Environment
	err := c.s.cfg.Store.Update(c.ctx(), func(tx store.Tx) error {
		cur, err := tx.LockEnvironment(c.path("environment"))
		if err != nil {
			return noEnvironment(err, c.path("environment"))
		}
		var changed bool
		if next, changed, err = plane.UpdatedEnvironment(cur, req, c.s.stamp()); err != nil || !changed {
			return err
		}
		return tx.UpdateEnvironment(next)
	})
	return next.Environment, nameTaken(err)
}

func archiveEnvironment(c *call) (any, error) {
	if err := c.decodeOptional(&struct{}{}); err != nil {
		return nil, err
	}
	var env plane.Environment
	err := c.s.cfg.Store.Update(c.ctx(), func(tx store.Tx) error {
		cur, err := tx.LockEnvironment(c.path("environment"))
		if err != nil {
			return noEnvironment(err, c.path("environment"))
		}
		if env = plane.ArchivedEnvironment(cur, c.s.stamp()); cur.ArchivedAt != nil {
			return nil
		}
		return tx.UpdateEnvironment(env)
	})
	return env.Environment, err
}

func deleteEnvironment(c *call) (any, error) {
	id := c.path("environment")
	err := c.s.cfg.Store.Update(c.ctx(), func(tx store.Tx) error {
		if _, err := tx.Environment(id); err != nil {
			return noEnvironment(err, id)
		}
		n, err := tx.LiveSessions(id)
		if err != nil {
			return err
		}
		switch {
		case n == 1:
			return plane.Errorf(plane.Conflict, "environment %s is used by a session; archive or delete it first", id)
		case n > 1:
			return plane.Errorf(plane.Conflict, "environment %s is used by %d sessions; archive or delete them first", id, n)
		}
		return tx.DeleteEnvironment(id)
	})
	return api.Deleted{ID: id, Type: "environment_deleted"}, err
}
