package main

import (
	"context"
	"strconv"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/internal/config"
)

type agentsCmd struct {
	List     agentsList     `cmd:"" help:"List agents."`
	Create   agentsCreate   `cmd:"" help:"Create an agent from flags or a file."`
	Get      agentsGet      `cmd:"" help:"Show an agent."`
	Update   agentsUpdate   `cmd:"" help:"Make a new version of an agent."`
	Archive  agentsArchive  `cmd:"" help:"Archive an agent."`
	Versions agentsVersions `cmd:"" help:"List an agent's versions."`
}

var agentHead = []string{"ID", "NAME", "VERSION", "MODEL", "UPDATED", "ARCHIVED"}

func agentRow(a api.Agent) []string {
	return []string{a.ID, a.Name, strconv.Itoa(a.Version), a.Model.ID, when(a.UpdatedAt), whenever(a.ArchivedAt)}
}

func agentLines(a *api.Agent) [][2]string {
	tools := ""
	for _, t := range a.Tools {
		name := t.Type
		if t.Type == api.ToolCustom {
			name = "custom " + t.Name
		}
		if tools != "" {
			tools += ", "
		}
		tools += name
	}
	return [][2]string{{"id", a.ID}, {"name", a.Name}, {"version", strconv.Itoa(a.Version)}, {"model", a.Model.ID},
		{"description", text(a.Description)}, {"system", text(a.System)}, {"tools", tools}, {"metadata", pairs(a.Metadata)},
		{"created", when(a.CreatedAt)}, {"updated", when(a.UpdatedAt)}, {"archived", whenever(a.ArchivedAt)}}
}

type agentsList struct {
	remote
	listing
	Archived bool `help:"Also list archived ones."`
}

func (c *agentsList) Run(t *term) error {
	return list(t, c.remote, c.listing, agentHead,
		func(ctx context.Context, cl *client.Client, p client.PageQuery) ([]api.Agent, *string, error) {
			return page(cl.Agents(ctx, client.AgentQuery{PageQuery: p, IncludeArchived: c.Archived}))
		}, agentRow)
}

type agentsCreate struct {
	making
	File        string            `help:"The agent as JSON, as the API takes it; - reads standard input. Flags win over it." short:"f" placeholder:"FILE"`
	Name        string            `help:"Its name."`
	Model       string            `help:"The model that plays it."`
	System      string            `help:"Its system prompt."`
	Description string            `help:"What it is for."`
	Metadata    map[string]string `help:"A pair of metadata; may be repeated." mapsep:"none" placeholder:"KEY=VALUE"`
	NoTools     bool              `help:"Without the agent toolset that it gets when no file says otherwise."`
}

func (c *agentsCreate) Run(t *term) error {
	var a api.CreateAgent
	if c.File != "" {
		if err := decodeInput(t, c.File, &a); err != nil {
			return err
		}
	} else if !c.NoTools {
		a.Tools = []api.Tool{{Type: api.ToolAgentToolset}}
	}
	set(&a.Name, c.Name)
	set(&a.Model.ID, c.Model)
	if c.System != "" {
		a.System = &c.System
	}
	if c.Description != "" {
		a.Description = &c.Description
	}
	if len(c.Metadata) > 0 {
		a.Metadata = c.Metadata
	}
	if a.Name == "" || a.Model.ID == "" {
		return &config.Error{Problem: "an agent needs a name and a model", Cure: "give --name and --model, or a --file that has them"}
	}
	return made(t, c.making, agentLines, func(ctx context.Context, cl *client.Client) (*api.Agent, error) {
		return cl.CreateAgent(ctx, a)
	})
}

func set(to *string, value string) {
	if value != "" {
		*to = value
	}
}

type agentsGet struct {
	remote
	ID      string `arg:"" help:"The agent."`
	Version int    `help:"Which version; 0 is the latest." default:"0" env:"BERTH_AGENT_VERSION"`
}

func (c *agentsGet) Run(t *term) error {
	return answer(t, c.remote, agentLines, func(ctx context.Context, cl *client.Client) (*api.Agent, error) {
		return cl.Agent(ctx, c.ID, c.Version)
	})
}

type agentsUpdate struct {
	remote
	ID          string            `arg:"" help:"The agent."`
	File        string            `help:"The changes as JSON, as the API takes them; - reads standard input. Flags win over it." short:"f" placeholder:"FILE"`
	Name        string            `help:"Its new name."`
	Model       string            `help:"Its new model."`
	System      *string           `help:"Its new system prompt; empty clears it."`
	Description *string           `help:"Its new description; empty clears it."`
	Metadata    map[string]string `help:"A pair to set; an empty value deletes the key; may be repeated." mapsep:"none" placeholder:"KEY=VALUE"`
	Expect      int               `help:"Fail unless this is the current version; 0 does not check." default:"0"`
}

func (c *agentsUpdate) Run(t *term) error {
	var u api.UpdateAgent
	if c.File != "" {
		if err := decodeInput(t, c.File, &u); err != nil {
			return err
		}
	}
	if c.Name != "" {
		u.Name = api.Some(c.Name)
	}
	if c.Model != "" {
		u.Model = api.Some(api.ModelConfig{ID: c.Model})
	}
	if c.System != nil {
		u.System = clearable(c.System)
	}
	if c.Description != nil {
		u.Description = clearable(c.Description)
	}
	if len(c.Metadata) > 0 {
		u.Metadata = patch(c.Metadata)
	}
	if c.Expect > 0 {
		u.Version = api.Some(c.Expect)
	}
	return answer(t, c.remote, agentLines, func(ctx context.Context, cl *client.Client) (*api.Agent, error) {
		return cl.UpdateAgent(ctx, c.ID, u)
	})
}

type agentsArchive struct {
	remote
	ID string `arg:"" help:"The agent."`
}

func (c *agentsArchive) Run(t *term) error {
	return answer(t, c.remote, agentLines, func(ctx context.Context, cl *client.Client) (*api.Agent, error) {
		return cl.ArchiveAgent(ctx, c.ID)
	})
}

type agentsVersions struct {
	remote
	listing
	ID string `arg:"" help:"The agent."`
}

func (c *agentsVersions) Run(t *term) error {
	return list(t, c.remote, c.listing, agentHead,
		func(ctx context.Context, cl *client.Client, p client.PageQuery) ([]api.Agent, *string, error) {
			return page(cl.AgentVersions(ctx, c.ID, p))
		}, agentRow)
}
