package app

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/crash"
	"github.com/berthdev/berth/internal/egress"
	"github.com/berthdev/berth/internal/journal"
	"github.com/berthdev/berth/internal/metrics"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/command"
	"github.com/berthdev/berth/internal/skills"
	"github.com/berthdev/berth/internal/tools"
	"github.com/berthdev/berth/toolset"
	"github.com/berthdev/berth/worker"
)

// WorkerConfig is what `berth worker` needs. It holds nothing of the plane
// half.
type WorkerConfig struct {
	Remote   config.Remote
	Login    config.Login
	Engine   config.Engine
	Sandbox  config.Sandbox
	Policy   config.Policy
	StateDir string
	Images   string // where unpacked images are; "" is in StateDir
	Skills   string // where skills are kept; "" is in StateDir
	WorkerID string
	Pace     string
	Warm     int // sandboxes kept ready for new sessions
	Drain    bool
	OnWork   config.OnWork
	Watch    config.Watch
	Tools    string          // file with custom tools, "" for none
	Replace  bool            // take the place of the worker that runs on StateDir
	Wake     <-chan struct{} // polls only when told to; nil polls all the time
	Log      *slog.Logger

	http *http.Client // nil for TCP
}

// enter makes the configuration one whose requests are let in.
func (c *WorkerConfig) enter(ctx context.Context) error {
	hc, base, err := login(ctx, c.Login, c.Remote.BaseURL)
	if hc != nil {
		c.http, c.Remote.BaseURL = hc, base
	}
	return err
}

// workerHalf is a worker with its sandboxes.
type workerHalf struct {
	worker  *worker.Worker
	keeper  *sandbox.Keeper
	egress  *egress.Proxy // nil where no host is allowed
	driver  string
	journal *journal.File
	counts  *metrics.Worker // nil when nobody looks
	seen    *metrics.Server // likewise
	release func()          // lets go of the sandboxes' image
	lock    *dirLock
	log     *slog.Logger
}

// startWorker locks the state directory and takes over the sandboxes in it.
func startWorker(ctx context.Context, c WorkerConfig) (_ *workerHalf, err error) {
	pol, err := readPolicy(c.Policy)
	if err != nil {
		return nil, err
	}
	with, err := customTools(c.Tools)
	if err != nil {
		return nil, err
	}
	driver, version, err := chooseDriver(ctx, c.Sandbox.Sandbox, drivers(c.Sandbox, pol.Image, c.StateDir, c.Log))
	if err != nil {
		return nil, err
	}
	switch {
	case driver.Name() == command.Name:
		c.Log.Warn("tools are isolated by what --sandbox-command leads to, and by nothing else", "sandbox", driver.Name())
	case !driver.Capabilities().Files:
		c.Log.Warn("tools are not isolated: they run as this user and see this machine", "sandbox", driver.Name())
	}
	h := &workerHalf{driver: driver.Name(), log: c.Log}
	// What can fail by a setting fails before a running worker is asked to leave.
	stager, err := newStager(c.Engine.Inputs, c.Log.With("part", "inputs"))
	if err != nil {
		return nil, err
	}
	if err := makeDir(c.StateDir, "--state-dir"); err != nil {
		return nil, err
	}
	if c.Images == "" {
		c.Images = imagesIn(c.StateDir)
	}
	var spec sandbox.Spec
	if spec, h.release, err = policySpec(ctx, pol, driver, c.Images, c.Log); err != nil {
		return nil, err
	}
	if c.Replace {
		h.lock, err = takeOver(ctx, c.StateDir, c.Log)
	} else {
		h.lock, err = lockDir(c.StateDir, "--state-dir")
	}
	if err != nil {
		h.release()
		return nil, err
	}
	defer func() {
		if err != nil {
			if h.journal != nil {
				h.journal.Close()
			}
			if h.egress != nil {
				h.egress.Close()
			}
			h.release()
			h.hide()
			h.lock.Release()
		}
	}()
	if h.journal, err = journal.Open(filepath.Join(c.StateDir, "journal.db"), c.Remote.EnvironmentKey.Reveal()); err != nil {
		return nil, err
	}
	var ways sandbox.Ways
	if h.egress, ways, err = openEgress(pol, c.StateDir, c.Log); err != nil {
		return nil, err
	}
	var copied string
	if h.keeper, copied, err = newKeeper(ctx, c.Engine, spec, ways, driver, version, c.StateDir, c.Warm, c.Log); err != nil {
		return nil, err
	}
	if c.Skills == "" {
		c.Skills = skillsHere(c.StateDir)
	}
	preparer, err := skills.New(c.Skills)
	if err != nil {
		return nil, err
	}
	var counters worker.Counters
	if c.Watch.MetricsAddr != "" {
		h.counts = metrics.NewWorker(config.Version)
		counters = h.counts
	}
	h.worker, err = worker.New(worker.Config{
		BaseURL: c.Remote.BaseURL, HTTPClient: c.http,
		EnvironmentID: c.Remote.EnvironmentID, EnvironmentKey: c.Remote.EnvironmentKey.Reveal(), WorkerID: c.WorkerID,
		Sandboxes: hosts{h.keeper, stager, copied, driver.Capabilities().Recover, c.Log}, Journal: h.journal, Ledger: h.journal, Preparer: preparer, Tools: with,
		MaxSessions: c.Engine.Slots(), MaxParked: orNone(c.Engine.MaxParked), MaxIdle: orForever(c.Engine.MaxIdle),
		Room:       room(spec.Limits, machineHere(c.StateDir), c.Warm, c.Log),
		DrainLimit: c.Engine.DrainTimeout, Pace: worker.Pace(c.Pace), Drain: c.Drain, Wake: c.Wake, Logger: c.Log, Counters: counters, At: crash.At,
	})
	if err != nil {
		return nil, err
	}
	if h.counts != nil {
		if err := h.show(c.Watch.MetricsAddr, c.Wake != nil); err != nil {
			return nil, err
		}
	}
	return h, h.keeper.Start(ctx)
}

// customTools makes the tools of a file beside the agent toolset, nil for no
// file.
func customTools(file string) (func(toolset.Host) worker.Tools, error) {
	if file == "" {
		return nil, nil
	}
	own, err := tools.Read(file)
	if err != nil {
		return nil, err
	}
	return tools.Over(own), nil
}

// stop ends the sandboxes; the sessions' files stay. Call it when the worker
// has returned.
func (h *workerHalf) stop(ctx context.Context) {
	if err := h.keeper.Stop(ctx); err != nil {
		h.log.Warn("not every sandbox ended", "err", err)
	}
	if h.egress != nil {
		if err := h.egress.Close(); err != nil {
			h.log.Warn("the proxy of the allowed hosts did not close well", "err", err)
		}
	}
	if err := h.journal.Close(); err != nil {
		h.log.Warn("the journal did not close well", "err", err)
	}
	h.release()
	h.hide()
	h.lock.Release()
}

// leave makes way for the next worker on this state directory, which finds
// sandboxes, sessions and calls as they are.
func (h *workerHalf) leave(ctx context.Context) (sessions int, err error) {
	if err := h.worker.Leave(ctx); err != nil {
		return 0, err
	}
	sessions = len(h.worker.Status())
	if err := h.keeper.LetGo(ctx); err != nil {
		h.log.Warn("not every sandbox that was ready ended", "err", err)
	}
	if err := h.journal.Close(); err != nil {
		h.log.Warn("the journal did not close well", "err", err)
	}
	if h.egress != nil {
		if err := h.egress.Close(); err != nil {
			h.log.Warn("the proxy of the allowed hosts did not close well", "err", err)
		}
	}
	h.release()
	h.hide()
	h.lock.Release()
	return sessions, nil
}

// WorkerPoll serves an environment's queue until taking ends, another worker
// takes its place or, with Drain, the queue is empty.
func WorkerPoll(taking, working context.Context, c WorkerConfig) error {
	if err := c.enter(taking); err != nil {
		return err
	}
	if c.OnWork.Script() != "" {
		return onWork(taking, working, c)
	}
	h, err := startWorker(taking, c)
	if err != nil {
		return err
	}
	ctl, err := listenControl(c.StateDir, h.leave, c.Log)
	if err != nil {
		h.stop(context.WithoutCancel(working))
		return err
	}
	defer ctl.Close()
	// Nothing of this process is to be felt once it has been replaced.
	taking, letTaking := own(taking)
	working, letWorking := own(working)
	ended := make(chan error, 1)
	go func() {
		defer context.AfterFunc(taking, func() {
			c.Log.Info("stopping: no more work is taken; running calls may end, a second signal cuts them off",
				"cause", context.Cause(taking), "limit", c.Engine.DrainTimeout)
			if h.counts != nil {
				h.counts.Drain()
			}
		})()
		err := h.worker.Run(taking, working)
		h.stop(context.WithoutCancel(working))
		ended <- err
	}()
	select {
	case err := <-ended:
		return err
	case <-ctl.left:
		letTaking()
		letWorking()
		c.Log.Info("replaced: the sandboxes and their sessions are the next worker's")
		return nil
	}
}

// own is a context that ends with ctx, for its cause, until let go.
func own(ctx context.Context) (context.Context, func() bool) {
	mine, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	return mine, context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
}

// WorkerRun serves one claimed item and says why it was let go.
func WorkerRun(taking, working context.Context, c WorkerConfig, item config.Item) (worker.End, error) {
	if err := c.enter(taking); err != nil {
		return worker.EndFailed, err
	}
	// Each item has a directory of its own, the container may be shared; what is
	// by content is for all of them.
	c.Images, c.Skills = imagesIn(c.StateDir), skillsHere(c.StateDir)
	c.StateDir = filepath.Join(c.StateDir, "run", sandbox.Folder(item.WorkID))
	h, err := startWorker(taking, c)
	if err != nil {
		return worker.EndFailed, err
	}
	defer h.stop(context.WithoutCancel(working))
	secret := workSecret(item.WorkSecret.Reveal())
	return h.worker.HandleItem(taking, working, worker.Item{
		Work: api.Work{
			ID: item.WorkID, Type: "work", EnvironmentID: c.Remote.EnvironmentID, State: api.WorkStarting,
			Data: api.WorkData{Type: "session", ID: item.SessionID}, Secret: secret,
		},
		Acked: true, LastHeartbeat: item.LastHeartbeat, LeaseKept: config.LeaseKept(),
	})
}

// workSecret is an item's secret as polled. A bare sessions token is wrapped
// into one.
func workSecret(s string) *string {
	if s == "" {
		return nil
	}
	if strings.HasPrefix(s, "sk-") {
		raw, err := json.Marshal(api.WorkSecret{SessionsToken: s})
		if err != nil {
			return nil
		}
		s = base64.RawURLEncoding.EncodeToString(raw)
	}
	return &s
}

// orNone and orForever turn this program's 0 into the library's.
func orNone(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

func orForever[T ~int64](d T) T {
	if d == 0 {
		return -1
	}
	return d
}
