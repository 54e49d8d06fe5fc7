package main

import (
	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/config"
)

type workerCmd struct {
	Poll workerPoll `cmd:"" help:"Serve an environment's queue until stopped."`
	Run  workerRun  `cmd:"" help:"Serve one claimed item, then end (a container's entrypoint)."`

	Webhook workerWebhook `cmd:"" help:"Serve an environment's queue when the control plane's webhook says that there is work."`

	Tools workerTools `cmd:"" help:"Print the custom tools of a file as an agent is told of them, those of its MCP servers too."`
}

// official are flags of the official worker that mean nothing here.
type official struct {
	UnrestrictedPaths bool `help:"Accepted for the official worker's sake; tools see their sandbox's files only." hidden:""`
}

func (o official) warn(t *term) {
	if o.UnrestrictedPaths {
		t.log.Warn("--unrestricted-paths has no effect: tools see their sandbox's files and no others")
	}
	if t.modelKeyGiven {
		t.log.Warn("ANTHROPIC_API_KEY is dropped: a worker needs no model key, and the host it runs on should not hold one")
	}
}

// queueFlags are of the verbs that serve a queue.
type queueFlags struct {
	config.Remote   `embed:""`
	config.Login    `embed:""`
	config.Engine   `embed:""`
	config.Sandbox  `embed:""`
	config.Policy   `embed:""`
	config.Warm     `embed:""`
	config.State    `embed:""`
	config.OnWork   `embed:""`
	config.Watch    `embed:""`
	config.Trace    `embed:""`
	config.Tools    `embed:""`
	config.Takeover `embed:""`
	config.Memory   `embed:""`
	official        `embed:""`

	WorkerID string `help:"This worker's name at the control plane; empty makes one up." env:"ANTHROPIC_WORKER_ID" placeholder:"NAME"`
	Replace  bool   `help:"Take the place of the worker that runs on --state-dir, with its sessions, sandboxes and running commands; start as usual when there is none."`
}

func (c *queueFlags) config(t *term) app.WorkerConfig {
	c.warn(t)
	return app.WorkerConfig{
		Remote: c.Remote, Login: c.Login, Engine: c.Engine, Sandbox: c.Sandbox, Policy: c.Policy, StateDir: c.StateDir, Warm: c.Warm.Warm, WorkerID: c.WorkerID,
		Replace: c.Replace, OnWork: c.OnWork, Watch: c.Watch, Tools: c.Tools.Tools, Takeover: c.Takeover.Takeover, Memory: c.Memory, Trace: c.Trace, Log: t.log,
	}
}

type workerPoll struct {
	queueFlags `embed:""`

	PollPace string `help:"auto: by what the control plane does; eager: always poll again at once; official: pause 1 to 3 s after an empty poll." enum:"auto,eager,official" default:"auto"`
	Drain    bool   `help:"End when the queue is empty and every session is let go."`
}

func (c *workerPoll) Run(t *term) error {
	if err := c.NeedQueue(c.Login); err != nil {
		return err
	}
	taking, working, done := t.signals()
	defer done()
	w := c.config(t)
	w.Pace, w.Drain = c.PollPace, c.Drain
	if err := app.WorkerPoll(taking, working, w); err != nil {
		return serving{err}
	}
	return nil
}

type workerWebhook struct {
	config.Webhook `embed:""`
	queueFlags     `embed:""`
}

func (c *workerWebhook) Run(t *term) error {
	if err := c.NeedQueue(c.Login); err != nil {
		return err
	}
	taking, working, done := t.signals()
	defer done()
	err := app.WorkerWebhook(taking, working, c.config(t), c.Webhook, func(url string) {
		t.log.Info("taking webhook deliveries", "url", url)
	})
	if err != nil {
		return serving{err}
	}
	return nil
}

type workerRun struct {
	config.Remote `embed:""`
	config.Login  `embed:""`
	config.Item   `embed:""`
	config.Engine `embed:""`
	config.Policy `embed:""`
	config.State  `embed:""`
	config.Tools  `embed:""`

	config.Takeover `embed:""`
	config.Memory   `embed:""`
	config.Trace    `embed:""`
	official        `embed:""`

	Sandbox  string `help:"How tools are isolated: process (the container is the sandbox), auto or namespaces." default:"process" placeholder:"WAY"`
	ToolUser string `help:"Who the tools are under --sandbox process when this process is root. auto: a user that nobody else is, without privileges; root: root, so that they can install packages; or a number." default:"auto" placeholder:"USER"`
}

func (c *workerRun) Run(t *term) error {
	if err := c.ReadSecret(); err != nil {
		return err
	}
	if err := c.NeedItem(c.Remote, c.Login); err != nil {
		return err
	}
	c.warn(t)
	taking, working, done := t.signals()
	defer done()
	end, err := app.WorkerRun(taking, working, app.WorkerConfig{
		Remote: c.Remote, Login: c.Login, Engine: c.Engine, Sandbox: config.Sandbox{Sandbox: c.Sandbox}, Policy: c.Policy, StateDir: c.StateDir, Tools: c.Tools.Tools, Takeover: c.Takeover.Takeover, Memory: c.Memory, Trace: c.Trace, ToolUser: c.ToolUser, Log: t.log,
	}, c.Item)
	if err != nil {
		return serving{err}
	}
	t.log.Info("the item is done", "work", c.WorkID, "session", c.SessionID, "end", end)
	return nil
}
