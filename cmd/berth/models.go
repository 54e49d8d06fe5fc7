package main

import (
	"context"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
)

type modelsCmd struct {
	List modelsList `cmd:"" help:"List models."`
	Get  modelsGet  `cmd:"" help:"Show a model."`
}

type modelsList struct {
	remote
	listing
}

func (c *modelsList) Run(t *term) error {
	return list(t, c.remote, c.listing, []string{"ID", "NAME", "LIFECYCLE"},
		func(ctx context.Context, cl *client.Client, p client.PageQuery) ([]api.Model, *string, error) {
			got, err := cl.Models(ctx, p.Page, p.Limit)
			if err != nil {
				return nil, nil, err
			}
			if !got.HasMore {
				got.LastID = nil
			}
			return got.Data, got.LastID, nil
		},
		func(m api.Model) []string { return []string{m.ID, m.DisplayName, m.Lifecycle} })
}

type modelsGet struct {
	remote
	ID string `arg:"" help:"The model."`
}

func (c *modelsGet) Run(t *term) error {
	return answer(t, c.remote, func(m *api.Model) [][2]string {
		return [][2]string{{"id", m.ID}, {"name", m.DisplayName}, {"lifecycle", m.Lifecycle}}
	}, func(ctx context.Context, cl *client.Client) (*api.Model, error) { return cl.Model(ctx, c.ID) })
}
