package main

import (
	"fmt"

	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/config"
)

type serveCmd struct {
	config.Plane `embed:""`

	NoMigrate bool `help:"Leave the database's schema alone; an old one is then an error."`
	JSON      bool `help:"Print one line of JSON when ready." name:"json"`
}

// firstKey is the command that makes a key in this server's database.
func (c *serveCmd) firstKey() string {
	if c.Database != "" {
		return "berth keys create --api, with the same database"
	}
	return "berth keys create --api --data-dir " + c.DataDir
}

func (c *serveCmd) Run(t *term) error {
	taking, working, done := t.signals()
	defer done()
	return app.Serve(taking, working, app.ServeConfig{Plane: c.Plane, NoMigrate: c.NoMigrate, Log: t.log}, func(r app.Ready) error {
		if c.JSON {
			return t.json(map[string]string{"base_url": r.BaseURL})
		}
		_, err := fmt.Fprintf(t.out, "Berth %s serves at %s\n", config.Version, r.BaseURL)
		if r.Keyless {
			fmt.Fprintln(t.out, "It has no API key yet; make one: "+c.firstKey())
		}
		return err
	})
}
