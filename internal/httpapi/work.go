package httpapi

import (
	"context"
	"strings"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/queue"
)

const (
	maxWorkerID    = 256  // bytes of Anthropic-Worker-ID
	defaultReclaim = 5000 // ms after which an unacked item is delivered again
)

func listWork(c *call) (any, error) {
	q, err := c.query()
	if err != nil {
		return nil, err
	}
	env := c.path("environment")
	list := "work of " + env
	w, limit, err := q.pageOf(list, "desc", 20, 100)
	if err != nil {
		return nil, err
	}
	if err := c.hasEnvironment(); err != nil {
		return nil, err
	}
	items, err := c.s.cfg.Queue.List(c.ctx(), env, w)
	if err != nil {
		return nil, err
	}
	items, next := cut(items, limit, list, "desc", func(w api.Work) string { return w.ID })
	if items == nil {
		items = []api.Work{}
	}
	return api.Page[api.Work]{Data: items, NextPage: next}, nil
}

// hasEnvironment answers an API key that names no environment; the one of an
// environment key or a sessions token is there.
func (c *call) hasEnvironment() error {
	if c.who.Kind != plane.CallerAPI {
		return nil
	}
	_, err := c.s.cfg.Store.Environment(c.ctx(), c.path("environment"))
	return noEnvironment(err, c.path("environment"))
}

func noWork(err error, id string) error {
	if err != nil && plane.KindOf(err) == plane.NotFound {
		return plane.Errorf(plane.NotFound, "there is no work item %s in this environment", id)
	}
	return err
}

// pollWork answers with an item or with null; a wait ends with the client.
func pollWork(c *call) (any, error) {
	q, err := c.query()
	if err != nil {
		return nil, err
	}
	block, err := q.number("block_ms", 0, 1, 999)
	if err != nil {
		return nil, err
	}
	reclaim, err := q.number("reclaim_older_than_ms", defaultReclaim, 0, 24*60*60*1000)
	if err != nil {
		return nil, err
	}
	worker := c.r.Header.Get("Anthropic-Worker-Id")
	if !readable(worker, maxWorkerID) {
		return nil, plane.Errorf(plane.Invalid, "must be text of at most %d bytes", maxWorkerID).In("Anthropic-Worker-ID")
	}
	if err := c.hasEnvironment(); err != nil {
		return nil, err
	}
	w, err := c.s.cfg.Queue.Poll(c.ctx(), c.path("environment"), worker, time.Duration(block)*time.Millisecond, time.Duration(reclaim)*time.Millisecond)
	if err != nil {
		return nil, err
	}
	if w == nil {
		return null, nil
	}
	return w, nil
}

func workStats(c *call) (any, error) {
	if err := c.hasEnvironment(); err != nil {
		return nil, err
	}
	return c.s.cfg.Queue.Stats(c.ctx(), c.path("environment"))
}

func getWork(c *call) (any, error) {
	w, err := c.s.cfg.Queue.Get(c.ctx(), c.path("environment"), c.path("work"))
	return w, noWork(err, c.path("work"))
}

func updateWork(c *call) (any, error) {
	var req struct {
		Metadata api.Optional[api.MetadataPatch] `json:"metadata,omitzero"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if !req.Metadata.Set || req.Metadata.Null {
		return nil, plane.Errorf(plane.Invalid, "is required").In("metadata")
	}
	w, err := c.s.cfg.Queue.Update(c.ctx(), c.path("environment"), c.path("work"), req.Metadata.Value)
	return w, noWork(err, c.path("work"))
}

func ackWork(c *call) (any, error) {
	if err := c.decodeOptional(&struct{}{}); err != nil {
		return nil, err
	}
	w, err := c.s.cfg.Queue.Ack(c.ctx(), c.who, c.path("environment"), c.path("work"))
	return w, noWork(err, c.path("work"))
}

func beatWork(c *call) (any, error) {
	if err := c.decodeOptional(&struct{}{}); err != nil {
		return nil, err
	}
	q, err := c.query()
	if err != nil {
		return nil, err
	}
	var expected *string
	if q.v.Has("expected_last_heartbeat") {
		v, err := q.text("expected_last_heartbeat")
		if err != nil {
			return nil, err
		}
		expected = &v
	}
	ttl, err := q.number("desired_ttl_seconds", 0, 1, 1<<31-1)
	if err != nil {
		return nil, err
	}
	b, err := c.s.cfg.Queue.Beat(c.ctx(), c.who, c.path("environment"), c.path("work"), expected, ttl)
	return b, noWork(err, c.path("work"))
}

func stopWork(c *call) (any, error) {
	var req api.StopWork
	if err := c.decodeOptional(&req); err != nil {
		return nil, err
	}
	begun, err := begunCalls(c.r.Header.Get(api.BegunHeader))
	if err != nil {
		return nil, err
	}
	// A worker that stops its item on its way out may hang up at once.
	w, err := c.s.cfg.Queue.StopWork(context.WithoutCancel(c.ctx()), c.who, c.path("environment"), c.path("work"), queue.Stop{Force: req.Force, Begun: begun})
	return w, noWork(err, c.path("work"))
}

// begunCalls reads BegunHeader; nil is none sent.
func begunCalls(v string) ([]string, error) {
	switch v {
	case "":
		return nil, nil
	case api.BegunNone:
		return []string{}, nil
	}
	ids := strings.Split(v, ",")
	for i, id := range ids {
		if ids[i] = strings.TrimSpace(id); i >= 1000 || !idText(ids[i]) {
			return nil, plane.Errorf(plane.Invalid, "is no list of calls with commas between their ids, nor %s", api.BegunNone).In(api.BegunHeader)
		}
	}
	return ids, nil
}
