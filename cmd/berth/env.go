package main

import (
	"context"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
)

type envCmd struct {
	List    envList    `cmd:"" help:"List environments."`
	Create  envCreate  `cmd:"" help:"Create an environment."`
	Get     envGet     `cmd:"" help:"Show an environment."`
	Update  envUpdate  `cmd:"" help:"Change an environment."`
	Archive envArchive `cmd:"" help:"Close an environment to new sessions."`
	Delete  envDelete  `cmd:"" help:"Delete an environment that no session uses."`
}

type envList struct {
	remote
	listing
	Archived bool `help:"Also list archived ones."`
}

func (c *envList) Run(t *term) error {
	return list(t, c.remote, c.listing, []string{"ID", "NAME", "CREATED", "ARCHIVED"},
		func(ctx context.Context, cl *client.Client, p client.PageQuery) ([]api.Environment, *string, error) {
			return page(cl.Environments(ctx, client.EnvironmentQuery{PageQuery: p, IncludeArchived: c.Archived}))
		},
		func(e api.Environment) []string {
			return []string{e.ID, e.Name, when(e.CreatedAt), whenever(e.ArchivedAt)}
		})
}

type envCreate struct {
	making
	Name        string            `arg:"" help:"A name no other environment has."`
	Description string            `help:"What it is for."`
	Metadata    map[string]string `help:"A pair of metadata; may be repeated." mapsep:"none" placeholder:"KEY=VALUE"`
}

func (c *envCreate) Run(t *term) error {
	return made(t, c.making, environmentLines, func(ctx context.Context, cl *client.Client) (*api.Environment, error) {
		return cl.CreateEnvironment(ctx, api.CreateEnvironment{
			Name: c.Name, Description: optional(c.Description), Metadata: c.Metadata,
			Config: &api.EnvironmentConfig{Type: "self_hosted"},
		})
	})
}

type envGet struct {
	remote
	ID string `arg:"" help:"The environment."`
}

func (c *envGet) Run(t *term) error {
	return answer(t, c.remote, environmentLines, func(ctx context.Context, cl *client.Client) (*api.Environment, error) {
		return cl.Environment(ctx, c.ID)
	})
}

type envUpdate struct {
	remote
	ID          string            `arg:"" help:"The environment."`
	Name        string            `help:"Its new name."`
	Description *string           `help:"Its new description; empty clears it."`
	Metadata    map[string]string `help:"A pair to set; an empty value deletes the key; may be repeated." mapsep:"none" placeholder:"KEY=VALUE"`
}

func (c *envUpdate) Run(t *term) error {
	u := api.UpdateEnvironment{Metadata: patch(c.Metadata)}
	if c.Name != "" {
		u.Name = api.Some(c.Name)
	}
	u.Description = clearable(c.Description)
	return answer(t, c.remote, environmentLines, func(ctx context.Context, cl *client.Client) (*api.Environment, error) {
		return cl.UpdateEnvironment(ctx, c.ID, u)
	})
}

type envArchive struct {
	remote
	ID string `arg:"" help:"The environment."`
}

func (c *envArchive) Run(t *term) error {
	return answer(t, c.remote, environmentLines, func(ctx context.Context, cl *client.Client) (*api.Environment, error) {
		return cl.ArchiveEnvironment(ctx, c.ID)
	})
}

type envDelete struct {
	remote
	ID string `arg:"" help:"The environment."`
}

func (c *envDelete) Run(t *term) error {
	return ended(t, c.remote, c.ID, "environment_deleted", (*client.Client).DeleteEnvironment)
}

func environmentLines(e *api.Environment) [][2]string {
	return [][2]string{{"id", e.ID}, {"name", e.Name}, {"description", text(e.Description)}, {"config", e.Config.Type},
		{"metadata", pairs(e.Metadata)}, {"created", when(e.CreatedAt)}, {"archived", whenever(e.ArchivedAt)}}
}
