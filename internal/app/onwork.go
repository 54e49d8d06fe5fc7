package app

import (
	"context"
	"errors"
	"os"

	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/onwork"
	"github.com/berthdev/berth/worker"
)

// onWork hands an environment's items to a script. It needs no state
// directory: sandboxes and journals are the script's matter.
func onWork(taking, working context.Context, c WorkerConfig) error {
	if c.Watch.MetricsAddr != "" {
		return &config.Error{Problem: "--metrics-addr shows the built-in runner and cannot go with --on-work", Cure: "leave one of them out"}
	}
	script := c.OnWork.Script()
	if c.Replace || c.Tools != "" {
		return &config.Error{Problem: "--replace and --tools belong to the built-in runner", Cure: "leave them out, or give them to the worker that the script starts"}
	}
	if err := onwork.Check(script); err != nil {
		return &config.Error{Problem: "--on-work: " + reason(err), Cure: "name an executable file"}
	}
	key := c.Remote.EnvironmentKey.Reveal()
	queue := client.New(c.Remote.BaseURL, client.Bearer(key), c.http)
	p, err := worker.NewPoller(worker.PollerConfig{
		Client: queue, EnvironmentID: c.Remote.EnvironmentID, WorkerID: c.WorkerID, Pace: worker.Pace(c.Pace), Drain: c.Drain, Wake: c.Wake, Sweep: c.Sweep, Logger: c.Log,
	})
	if err != nil {
		return err
	}
	c.Log.Info("polling for work", "environment", c.Remote.EnvironmentID, "script", script, "sessions", c.Engine.Slots())
	err = onwork.Run(taking, working, onwork.Config{
		Script: script, Env: config.ScriptEnv(), Output: os.Stderr,
		Lease: c.OnWork.OnWorkLease, Credential: c.OnWork.OnWorkCredential, Timeout: c.OnWork.OnWorkTimeout, Most: c.Engine.Slots(),
		BaseURL: c.Remote.BaseURL, EnvironmentKey: key, Client: queue, Next: p.Next, Log: c.Log,
	})
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
