package main

import (
	"fmt"
	"runtime"

	"github.com/berthdev/berth/internal/config"
)

type versionCmd struct {
	JSON bool `help:"Print JSON." name:"json"`
}

func (c *versionCmd) Run(t *term) error {
	if c.JSON {
		return t.json(map[string]string{"version": config.Version, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH})
	}
	_, err := fmt.Fprintf(t.out, "berth %s (%s, %s/%s)\n", config.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
