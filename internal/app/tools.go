package app

import (
	"context"

	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/tools"
	"github.com/berthdev/berth/toolset"
	"github.com/berthdev/berth/worker"
)

// customTools makes the tools of a file beside the agent toolset, nil for no
// file.
func customTools(file string) (func(toolset.Host) worker.Tools, error) {
	if file == "" {
		return nil, nil
	}
	f, err := tools.Read(file)
	if err != nil {
		return nil, err
	}
	return tools.Over(f), nil
}

// ToolDefinitions gives what an agent has to be told of the tools of a file.
// MCP servers are asked in a fresh sandbox. left are tools of theirs that no
// agent can have, each with the reason.
func ToolDefinitions(ctx context.Context, c SandboxConfig, file string) (all []toolset.Definition, left []string, err error) {
	f, err := tools.Read(file)
	if err != nil {
		return nil, nil, err
	}
	if all, err = f.Definitions(); err != nil {
		return nil, nil, err
	}
	if len(f.Servers) == 0 {
		return all, nil, nil
	}
	err = within(ctx, c, func(held *sandbox.Held) error {
		for _, s := range f.Servers {
			session := s.In(held)
			more, odd, err := session.List(ctx)
			session.Close()
			if err != nil {
				return &config.Error{Problem: err.Error(), Cure: "try its command by \"berth sandbox run\""}
			}
			all, left = append(all, more...), append(left, odd...)
		}
		return nil
	})
	return all, left, err
}
