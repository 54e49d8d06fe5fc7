package main

import (
	"fmt"
	"strings"

	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/toolset"
)

type workerTools struct {
	byHand        `embed:""`
	config.Policy `embed:""`
	config.Tools  `embed:""`

	JSON bool `help:"Print a JSON array, as it may stand in an agent's tools." name:"json"`
}

// customTool is a tool in an agent.
type customTool struct {
	Type string `json:"type"`
	toolset.Definition
}

func (c *workerTools) Run(t *term) error {
	if c.Tools.Tools == "" {
		return &config.Error{Problem: "there is no file of tools to read", Cure: "name it with --tools"}
	}
	ctx, _, done := t.signals()
	defer done()
	cfg := c.config(t)
	cfg.Policy = c.Policy
	all, left, err := app.ToolDefinitions(ctx, cfg, c.Tools.Tools)
	if err != nil {
		return err
	}
	for _, l := range left {
		fmt.Fprintln(t.errs, "left out:", printable(l))
	}
	if !c.JSON {
		var rows [][]string
		for _, d := range all {
			first, _, _ := strings.Cut(d.Description, "\n")
			rows = append(rows, []string{d.Name, first})
		}
		return t.list([]string{"NAME", "DESCRIPTION"}, rows, false)
	}
	tools := []customTool{}
	for _, d := range all {
		tools = append(tools, customTool{"custom", d})
	}
	return t.json(tools)
}
