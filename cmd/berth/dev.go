package main

import (
	"fmt"

	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/config"
)

type devCmd struct {
	config.Plane   `embed:""`
	config.Engine  `embed:""`
	config.Sandbox `embed:""`
	config.Policy  `embed:""`
	config.Warm    `embed:""`

	NoWorker bool `help:"The control plane alone, with its default environment and keys."`
	JSON     bool `help:"Print one line of JSON when ready." name:"json"`
}

func (c *devCmd) Run(t *term) error {
	taking, working, done := t.signals()
	defer done()
	return app.Dev(taking, working, app.DevConfig{
		Plane: c.Plane, Engine: c.Engine, Warm: c.Warm.Warm, Sandbox: c.Sandbox, Policy: c.Policy, NoWorker: c.NoWorker, Log: t.log,
	}, func(r app.Ready) error {
		if c.JSON {
			return t.json(r)
		}
		_, err := fmt.Fprintf(t.out, `Berth %s is ready at %s

  export BERTH_BASE_URL=%s BERTH_API_KEY=%s
  export BERTH_ENVIRONMENT=%s
  berth run "hello"

  environment  %s
  its key      %s
  tools run    %s
  models       %s

Ctrl-C stops it; a second one cuts running work off.
`, config.Version, r.BaseURL, r.BaseURL, r.APIKey, r.EnvironmentID, r.EnvironmentID, r.EnvironmentKey, r.Tools, r.Models)
		return err
	})
}
