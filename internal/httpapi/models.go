package httpapi

import (
	"slices"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
)

func listModels(c *call) (any, error) {
	q, err := c.query()
	if err != nil {
		return nil, err
	}
	limit, err := q.number("limit", 20, 1, 1000)
	if err != nil {
		return nil, err
	}
	lifecycle, err := q.list("lifecycle", 10)
	if err != nil {
		return nil, err
	}
	after, err := q.text("after_id")
	if err != nil {
		return nil, err
	}
	before, err := q.text("before_id")
	if err != nil {
		return nil, err
	}
	if after != "" && before != "" {
		return nil, plane.Errorf(plane.Invalid, "cannot stand beside after_id").In("before_id")
	}
	for _, l := range lifecycle {
		if l != "active" && l != "deprecated" && l != "retired" {
			return nil, plane.Errorf(plane.Invalid, "%q is not one of active, deprecated, retired", clip(l)).In("lifecycle")
		}
	}
	all := slices.DeleteFunc(c.s.cfg.Models.List(), func(m api.Model) bool {
		return len(lifecycle) > 0 && !slices.Contains(lifecycle, m.Lifecycle)
	})
	from, to, more, err := idWindow(all, after, before, limit)
	if err != nil {
		return nil, err
	}
	page := api.IDPage[api.Model]{Data: append([]api.Model{}, all[from:to]...), HasMore: more}
	if n := len(page.Data); n > 0 {
		page.FirstID, page.LastID = &page.Data[0].ID, &page.Data[n-1].ID
	}
	return page, nil
}

// idWindow is the part of a list behind or before an id.
func idWindow(all []api.Model, after, before string, limit int) (from, to int, more bool, err error) {
	find := func(field, id string) (int, error) {
		i := slices.IndexFunc(all, func(m api.Model) bool { return m.ID == id })
		if i < 0 {
			return 0, plane.Errorf(plane.Invalid, "%q is not in this list", clip(id)).In(field)
		}
		return i, nil
	}
	switch {
	case after != "":
		i, err := find("after_id", after)
		if err != nil {
			return 0, 0, false, err
		}
		from = i + 1
	case before != "":
		i, err := find("before_id", before)
		if err != nil {
			return 0, 0, false, err
		}
		from = max(0, i-limit)
		return from, i, from > 0, nil
	}
	to = min(len(all), from+limit)
	return from, to, to < len(all), nil
}

func getModel(c *call) (any, error) {
	id := c.path("model")
	for _, m := range c.s.cfg.Models.List() {
		if m.ID == id {
			return m, nil
		}
	}
	return nil, plane.Errorf(plane.NotFound, "there is no model %q", clip(id))
}
