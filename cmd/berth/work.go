package main

import (
	"context"
	"strconv"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/internal/config"
)

type workCmd struct {
	List  workList  `cmd:"" help:"List work items, newest first."`
	Get   workGet   `cmd:"" help:"Show a work item."`
	Stop  workStop  `cmd:"" help:"Ask the item's worker to let go, or take the item from it."`
	Stats workStats `cmd:"" help:"Count a queue."`
}

// queue names the environment whose queue is meant.
type queue struct {
	remote
	Environment string `help:"The environment." short:"e" placeholder:"ID"`
}

func (q queue) need() error {
	if q.Environment == "" {
		return &config.Error{Problem: "the environment is not named", Cure: "give --environment or set BERTH_ENVIRONMENT"}
	}
	return nil
}

func workLines(w *api.Work) [][2]string {
	return [][2]string{{"id", w.ID}, {"environment", w.EnvironmentID}, {w.Data.Type, w.Data.ID}, {"state", string(w.State)},
		{"metadata", pairs(w.Metadata)}, {"created", when(w.CreatedAt)}, {"acknowledged", whenever(w.AcknowledgedAt)},
		{"started", whenever(w.StartedAt)}, {"last beat", whenever(w.LatestHeartbeatAt)},
		{"stop requested", whenever(w.StopRequestedAt)}, {"stopped", whenever(w.StoppedAt)}}
}

type workList struct {
	queue
	listing
}

func (c *workList) Run(t *term) error {
	if err := c.need(); err != nil {
		return err
	}
	return list(t, c.remote, c.listing, []string{"ID", "SESSION", "STATE", "CREATED", "LAST BEAT"},
		func(ctx context.Context, cl *client.Client, p client.PageQuery) ([]api.Work, *string, error) {
			return page(cl.WorkItems(ctx, c.Environment, p))
		},
		func(w api.Work) []string {
			return []string{w.ID, w.Data.ID, string(w.State), when(w.CreatedAt), whenever(w.LatestHeartbeatAt)}
		})
}

type workGet struct {
	queue
	ID string `arg:"" help:"The work item."`
}

func (c *workGet) Run(t *term) error {
	if err := c.need(); err != nil {
		return err
	}
	return answer(t, c.remote, workLines, func(ctx context.Context, cl *client.Client) (*api.Work, error) {
		return cl.Work(ctx, c.Environment, c.ID)
	})
}

type workStop struct {
	queue
	ID    string `arg:"" help:"The work item."`
	Force bool   `help:"End it at once."`
}

func (c *workStop) Run(t *term) error {
	if err := c.need(); err != nil {
		return err
	}
	return answer(t, c.remote, workLines, func(ctx context.Context, cl *client.Client) (*api.Work, error) {
		w, err := cl.Stop(ctx, c.Environment, c.ID, c.Force)
		if err == nil && w == nil { // the hosted service answers without one
			return cl.Work(ctx, c.Environment, c.ID)
		}
		return w, err
	})
}

type workStats struct {
	queue
}

func (c *workStats) Run(t *term) error {
	if err := c.need(); err != nil {
		return err
	}
	return answer(t, c.remote, func(s *api.WorkStats) [][2]string {
		return [][2]string{{"waiting", strconv.Itoa(s.Depth)}, {"delivered", strconv.Itoa(s.Delivered)}, {"held", strconv.Itoa(s.Pending)},
			{"oldest", whenever(s.OldestQueuedAt)}, {"workers polling", strconv.Itoa(s.WorkersPolling)}}
	}, func(ctx context.Context, cl *client.Client) (*api.WorkStats, error) {
		return cl.WorkStats(ctx, c.Environment)
	})
}
