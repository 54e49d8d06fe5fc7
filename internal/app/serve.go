package app

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/berthdev/berth/internal/config"
)

// ServeConfig is what `berth serve` needs.
type ServeConfig struct {
	Plane     config.Plane
	NoMigrate bool
	Log       *slog.Logger
}

// Ready says how a control plane is reached. The keys are given by Dev alone.
type Ready struct {
	BaseURL        string `json:"base_url"`
	APIKey         string `json:"api_key"`
	EnvironmentID  string `json:"environment_id"`
	EnvironmentKey string `json:"environment_key"`
	ConsoleURL     string `json:"console_url"` // "" while there is no console

	Tools   string `json:"-"` // how tools are run, for people
	Models  string `json:"-"` // which models answer, for people
	Keyless bool   `json:"-"` // nobody has a key yet
}

// Serve runs the control plane alone until taking ends. ready is called once,
// when it can be reached.
func Serve(taking, working context.Context, c ServeConfig, ready func(Ready) error) error {
	l, err := listen(c.Plane.Addr)
	if err != nil {
		return err
	}
	p, err := startPlane(taking, planeConfig{Plane: c.Plane, NoMigrate: c.NoMigrate, Log: c.Log})
	if err != nil {
		l.Close()
		return err
	}
	s := serve(p.handler, c.Log, l)
	keys, err := p.keys.List(taking, "")
	if err == nil {
		err = ready(Ready{BaseURL: publicURL(c.Plane, l), Models: modelNames(c.Plane.Provider), Keyless: len(keys) == 0})
	}
	if err == nil {
		<-taking.Done()
		c.Log.Info("stopping", "cause", context.Cause(taking))
	}
	stopPlane(working, c.Plane.Grace, p, s)
	return err
}

func publicURL(c config.Plane, l net.Listener) string {
	if c.PublicURL != "" {
		return c.PublicURL
	}
	return baseURL(l)
}

func modelNames(c config.Provider) string {
	switch {
	case c.ModelBaseURL != "":
		return "scripted, and those of " + c.ModelBaseURL
	case c.ModelKey != "":
		return "scripted, and Anthropic's"
	}
	return "scripted alone (set ANTHROPIC_API_KEY for real ones)"
}

// stopPlane ends a control plane and what serves it: no more requests, turns
// and streams end, the rest is cut off when grace is over or working ends.
func stopPlane(working context.Context, grace time.Duration, p *controlPlane, servers ...*server) {
	ctx, cancel := context.WithTimeout(working, grace)
	defer cancel()
	p.drain()
	for _, s := range servers {
		s.stop(ctx)
	}
	p.stop(ctx)
}
