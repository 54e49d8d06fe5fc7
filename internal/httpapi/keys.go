package httpapi

import (
	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
)

// keyKinds are the words of the wire for the kinds of key.
var keyKinds = map[string]plane.KeyKind{"api": plane.KeyAPI, "environment": plane.KeyEnvironment}

func createKey(c *call) (any, error) {
	var req api.CreateKey
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	kind, ok := keyKinds[req.Type]
	if !ok {
		return nil, plane.Errorf(plane.Invalid, `%q is neither "api" nor "environment"`, clip(req.Type)).In("type")
	}
	if hasNUL(req.Name) {
		return nil, plane.Errorf(plane.Invalid, "must not hold NUL").In("name")
	}
	if req.EnvironmentID != "" && !idText(req.EnvironmentID) {
		return nil, plane.Errorf(plane.Invalid, "%q does not exist", clip(req.EnvironmentID)).In("environment_id")
	}
	secret, key, err := c.s.cfg.Keys.Create(c.ctx(), kind, req.EnvironmentID, req.Name)
	if err != nil {
		if plane.KindOf(err) == plane.NotFound {
			err = plane.Wrap(plane.Invalid, err, "%q does not exist", req.EnvironmentID).In("environment_id")
		}
		return nil, err
	}
	out := key.Wire()
	out.Key = secret
	return out, nil
}

// listKeys lists them all: keys are few.
func listKeys(c *call) (any, error) {
	q, err := c.query()
	if err != nil {
		return nil, err
	}
	env, err := q.wanted("environment_id", plane.PrefixEnvironment)
	if err != nil {
		return nil, err
	}
	keys, err := c.s.cfg.Keys.List(c.ctx(), env)
	if err != nil {
		return nil, err
	}
	page := api.Page[api.Key]{Data: []api.Key{}}
	for _, k := range keys {
		page.Data = append(page.Data, k.Wire())
	}
	return page, nil
}

func revokeKey(c *call) (any, error) {
	id := c.path("key")
	if _, err := c.s.cfg.Keys.Revoke(c.ctx(), id); err != nil {
		if plane.KindOf(err) == plane.NotFound {
			err = plane.Errorf(plane.NotFound, "there is no key %s", id)
		}
		return nil, err
	}
	return api.Deleted{ID: id, Type: "key_deleted"}, nil
}
