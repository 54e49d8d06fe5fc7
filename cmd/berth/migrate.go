package main

import (
	"fmt"

	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/config"
)

type migrateCmd struct {
	config.Store `embed:""`
	Check        bool `help:"Change nothing; end with status 1 when something is to be done."`
	JSON         bool `help:"Print JSON." name:"json"`
}

func (c *migrateCmd) Run(t *term) error {
	ctx, _, end := t.signals()
	defer end()
	before, after, err := app.Migrate(ctx, c.Store, c.Check)
	if err != nil {
		return err
	}
	if c.JSON {
		err = t.json(map[string]any{"from": before, "current": after.Current, "latest": after.Latest})
	} else if c.Check && after.Current != after.Latest {
		_, err = fmt.Fprintf(t.out, "the schema is at %d of %d; run berth migrate\n", after.Current, after.Latest)
	} else if before == after.Current {
		_, err = fmt.Fprintf(t.out, "the schema is up to date (%d)\n", after.Current)
	} else {
		_, err = fmt.Fprintf(t.out, "the schema went from %d to %d\n", before, after.Current)
	}
	if err == nil && after.Current != after.Latest {
		err = status(1)
	}
	return err
}
