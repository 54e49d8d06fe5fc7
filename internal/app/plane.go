package app

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/berthdev/berth/internal/auth"
	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/events"
	"github.com/berthdev/berth/internal/httpapi"
	"github.com/berthdev/berth/internal/model/scripted"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/queue"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/turn"
)

// controlPlane is the plane half: everything behind the handler.
type controlPlane struct {
	store   store.Store
	keys    *auth.Keys
	events  *events.Log
	queue   *queue.Queue
	turns   *turn.Runner
	handler http.Handler
	stops   undo // what Start did, to be undone by stop
}

// planeConfig is what a control plane is made from.
type planeConfig struct {
	config.Plane
	Script    *scripted.Script
	NoMigrate bool
	Log       *slog.Logger
}

// startPlane locks the data directory, opens the store and starts the loops.
// What stop leaves behind is what is durable.
func startPlane(ctx context.Context, c planeConfig) (_ *controlPlane, err error) {
	garbage := newCollector(planePercent)
	if err := checkProvider(ctx, c.Provider); err != nil {
		return nil, err
	}
	p := &controlPlane{}
	defer func() {
		if err != nil {
			p.stops.run()
		}
	}()
	lock, err := lockDir(c.DataDir, "--data-dir")
	if err != nil {
		return nil, err
	}
	p.stops.push(lock.Release)
	if p.store, err = openStore(ctx, c.Store, store.Options{NoMigrate: c.NoMigrate, Log: c.Log}); err != nil {
		return nil, err
	}
	p.stops.push(func() {
		if err := p.store.Close(); err != nil {
			c.Log.Error("the store did not close well", "err", err)
		}
	})

	p.keys = auth.New(p.store)
	p.events = events.New(p.store)
	p.queue = queue.New(p.store, queue.Config{
		GiveUp: func(tx store.Tx, s *plane.Session, why string) error { return p.turns.GiveUp(tx, s, why) },
	})
	registry := models(c.Provider, c.Script)
	p.turns = turn.New(turn.Config{
		Store: p.store, Log: p.events, Queue: p.queue, Models: registry, Logger: c.Log,
		NoEnvironmentNote: !c.EnvironmentNote,
	})
	p.handler = httpapi.New(httpapi.Config{
		Store: p.store, Keys: p.keys, Queue: p.queue, Events: p.events, Turn: p.turns, Models: registry,
		Log: c.Log, Version: config.Version, Lenient: c.Lenient, RatePerMinute: c.RateLimit, MaxStreams: c.MaxStreams, Streams: garbage.streams,
	})

	p.keys.Start()
	p.stops.push(p.keys.Stop)
	p.events.Start()
	p.stops.push(p.events.Stop)
	p.queue.Start()
	p.stops.push(p.queue.Stop)
	if err := p.turns.Start(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// stop takes no more turns, lets running ones end until ctx does, and closes
// everything. The turns that were cut off go on with the next start.
func (p *controlPlane) stop(ctx context.Context) error {
	err := p.turns.Stop(ctx)
	p.stops.run()
	return err
}

// drain ends what is open for long by its nature, streams and held polls, so
// that the server can come to rest.
func (p *controlPlane) drain() {
	p.events.Stop()
	p.queue.Stop()
}
