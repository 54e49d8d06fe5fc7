package worker

import (
	"context"
	"slices"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/toolset"
)

// builtin is the agent toolset as Tools.
type builtin struct{ set *toolset.Set }

// AgentTools is what a Config without Tools gives a session: the agent toolset
// over its sandbox. It is a Rememberer, of bash commands; Tools that wrap it
// should be one, too.
func AgentTools(h toolset.Host) Tools { return ToolsOf(toolset.New(h, toolset.Options{})) }

// ToolsOf is AgentTools for a set that was made with options of its own.
func ToolsOf(s *toolset.Set) Tools { return builtin{s} }

func (b builtin) Owns(name string, custom bool) bool { return !custom && b.set.Has(name) }

func (b builtin) Run(ctx context.Context, c Call) ([]api.Block, bool) {
	return b.set.Run(ctx, c.ID, c.Name, c.Input)
}

func (b builtin) Remembers(c Call) bool { return !c.Custom && c.Name == "bash" }

// ownsBuiltin is Owns before there is a host.
func ownsBuiltin(name string, custom bool) bool {
	return !custom && slices.ContainsFunc(toolset.Definitions(), func(d toolset.Definition) bool { return d.Name == name })
}
