package app

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/crash"
	"github.com/berthdev/berth/internal/egress"
	"github.com/berthdev/berth/internal/journal"
	"github.com/berthdev/berth/internal/metrics"
	"github.com/berthdev/berth/internal/policy"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/command"
	"github.com/berthdev/berth/internal/skills"
	"github.com/berthdev/berth/internal/stage"
	"github.com/berthdev/berth/internal/tracing"
	"github.com/berthdev/berth/toolset"
	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/memory"
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
	Warm     int // sandboxes kept ready for new sessions; -1 as many as are cheap
	Drain    bool
	OnWork   config.OnWork
	Watch    config.Watch
	Trace    config.Trace
	ToolUser string          // of WorkerRun: auto, root or a number
	Tools    string          // file with custom tools, "" for none
	Takeover string          // see worker.Takeover; "" is its default
	Memory   config.Memory   // the zero value keeps stores in step by the defaults
	Replace  bool            // take the place of the worker that runs on StateDir
	Wake     <-chan struct{} // polls only when told to; nil polls all the time
	Sweep    time.Duration   // and when nobody has told for so long; see worker.Config
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
	trace   *tracing.Tracer // nil without a collector
	release func()          // lets go of the sandboxes' image
	lock    *dirLock
	log     *slog.Logger
}

// startWorker locks the state directory and takes over the sandboxes in it.
func startWorker(ctx context.Context, c WorkerConfig) (_ *workerHalf, err error) {
	if c.Images == "" {
		c.Images = imagesIn(c.StateDir)
	}
	if c.Skills == "" {
		c.Skills = skillsHere(c.StateDir)
	}
	// What can fail by a setting fails before a running worker is asked to leave.
	s, err := readSettings(ctx, c)
	if err != nil {
		return nil, err
	}
	var up undo
	defer func() {
		if err != nil {
			up.run()
		}
	}()
	up.push(s.release)
	c.Warm = ready(c.Warm, s.driver.Name(), s.spec.Limits)
	h := &workerHalf{driver: s.driver.Name(), release: s.release, log: c.Log}
	if h.lock, err = lockState(ctx, c); err != nil {
		return nil, err
	}
	up.push(h.lock.Release)
	if h.journal, err = journal.Open(filepath.Join(c.StateDir, "journal.db"), c.Remote.EnvironmentKey.Reveal()); err != nil {
		return nil, err
	}
	up.push(func() { h.journal.Close() })
	boxes, err := h.openSandboxes(ctx, c, s, &up)
	if err != nil {
		return nil, err
	}
	var counters memory.Counters
	if c.Watch.MetricsAddr != "" {
		h.counts = metrics.NewWorker(config.Version)
		counters = h.counts.Memory()
	}
	preparer, err := preparers(c, h.keeper, counters)
	if err != nil {
		return nil, err
	}
	if h.trace, err = openTracer(c); err != nil {
		return nil, err
	}
	if h.trace != nil {
		up.push(h.trace.Close)
	}
	if h.worker, err = worker.New(h.workerConfig(c, s, boxes, preparer)); err != nil {
		return nil, err
	}
	if h.counts != nil {
		if err := h.show(c.Watch.MetricsAddr, c.Wake != nil); err != nil {
			return nil, err
		}
		up.push(h.hide)
	}
	return h, h.keeper.Start(ctx)
}

// settings is what a configuration comes to on this machine.
type settings struct {
	policy  policy.Policy
	tools   func(toolset.Host) worker.Tools // nil for the agent toolset alone
	driver  sandbox.Driver
	version string // of what the driver relies on
	stager  *stage.Stager
	spec    sandbox.Spec
	release func() // lets go of the spec's image
}

// readSettings reads files, chooses the driver and makes the state directory;
// it disturbs no worker that runs there.
func readSettings(ctx context.Context, c WorkerConfig) (s settings, err error) {
	if err = c.Memory.Validate(); err != nil {
		return s, err
	}
	if s.policy, err = readPolicy(c.Policy); err != nil {
		return s, err
	}
	if s.tools, err = customTools(c.Tools); err != nil {
		return s, err
	}
	if s.driver, s.version, err = chooseDriver(ctx, c.Sandbox.Sandbox, drivers(c.Sandbox, s.policy.Image, c.StateDir, c.Log)); err != nil {
		return s, err
	}
	warnOfIsolation(s.driver, c.Log)
	if s.stager, err = newStager(c.Engine.Inputs, c.Log.With("part", "inputs")); err != nil {
		return s, err
	}
	if err = makeDir(c.StateDir, "--state-dir"); err != nil {
		return s, err
	}
	s.spec, s.release, err = policySpec(ctx, s.policy, s.driver, c.Images, c.Log)
	return s, err
}

// warnOfIsolation says where tools are kept from nothing by this program.
func warnOfIsolation(d sandbox.Driver, log *slog.Logger) {
	switch {
	case d.Name() == command.Name:
		log.Warn("tools are isolated by what --sandbox-command leads to, and by nothing else", "sandbox", d.Name())
	case !d.Capabilities().Files:
		log.Warn("tools are not isolated: they run as this user and see this machine", "sandbox", d.Name())
	}
}

// lockState locks the state directory, or takes it from the worker that has
// it.
func lockState(ctx context.Context, c WorkerConfig) (*dirLock, error) {
	if c.Replace {
		return takeOver(ctx, c.StateDir, c.Log)
	}
	return lockDir(c.StateDir, "--state-dir")
}

// openSandboxes opens the ways out and the keeper, which does not run yet.
func (h *workerHalf) openSandboxes(ctx context.Context, c WorkerConfig, s settings, up *undo) (worker.Sandboxes, error) {
	var ways sandbox.Ways
	var err error
	if h.egress, ways, err = openEgress(s.policy, c.StateDir, c.Log); err != nil {
		return nil, err
	}
	if h.egress != nil {
		up.push(func() { h.egress.Close() })
	}
	var copied string
	if h.keeper, copied, err = newKeeper(ctx, c.Engine, s.spec, ways, s.driver, s.version, c.StateDir, c.Warm, c.Log); err != nil {
		return nil, err
	}
	return hosts{h.keeper, s.stager, copied, s.driver.Capabilities().Recover, c.Log}, nil
}

// workerConfig is the library's configuration.
func (h *workerHalf) workerConfig(c WorkerConfig, s settings, boxes worker.Sandboxes, p worker.Preparer) worker.Config {
	w := worker.Config{
		BaseURL: c.Remote.BaseURL, HTTPClient: c.http,
		EnvironmentID: c.Remote.EnvironmentID, EnvironmentKey: c.Remote.EnvironmentKey.Reveal(), WorkerID: c.WorkerID,
		Sandboxes: boxes, Journal: h.journal, Ledger: h.journal, Preparer: p, Tools: s.tools,
		Takeover:    worker.Takeover(c.Takeover),
		MaxSessions: c.Engine.Slots(), MaxParked: orNone(c.Engine.MaxParked), MaxIdle: orForever(c.Engine.MaxIdle),
		Room:       room(s.spec.Limits, machineHere(c.StateDir), c.Warm, c.Log),
		DrainLimit: c.Engine.DrainTimeout, Pace: worker.Pace(c.Pace), Drain: c.Drain, Wake: c.Wake, Sweep: c.Sweep, Logger: c.Log, At: crash.At,
	}
	if h.counts != nil { // an interface that holds nil is not nil
		w.Counters = h.counts
	}
	if h.trace != nil {
		w.Tracer = h.trace
	}
	return w
}

// preparers bring what comes with a session.
func preparers(c WorkerConfig, k *sandbox.Keeper, counters memory.Counters) (worker.Preparer, error) {
	known, err := skills.New(c.Skills)
	if err != nil || c.Memory.MemoryStores == "off" {
		return known, err
	}
	stores, err := memory.New(memory.Config{
		Interval: c.Memory.MemorySyncInterval, Deletions: memory.Deletions(c.Memory.MemorySyncDeletions), Apart: k.Spec().Share != "", State: k.Dir, Counters: counters,
	})
	if err != nil {
		return nil, err
	}
	return worker.Preparers{known, stores}, nil
}

// stop ends the sandboxes; the sessions' files stay. Call it when the worker
// has returned.
func (h *workerHalf) stop(ctx context.Context) {
	if err := h.keeper.Stop(ctx); err != nil {
		h.log.Warn("not every sandbox ended", "err", err)
	}
	h.close()
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
	h.close()
	return sessions, nil
}

// close lets go of all but the sandboxes, the state directory last.
func (h *workerHalf) close() {
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
	if h.trace != nil {
		h.trace.Close()
	}
}

// WorkerPoll serves an environment's queue until taking ends, another worker
// takes its place or, with Drain, the queue is empty.
func WorkerPoll(taking, working context.Context, c WorkerConfig) error {
	if err := c.enter(taking); err != nil {
		return err
	}
	newCollector(workerPercent)
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
	state := c.StateDir
	run, own := itemState(state, sandbox.Folder(item.WorkID))
	c.StateDir = own
	user, letGo, err := toolUser(c.ToolUser, c.Sandbox.Sandbox, item.WorkID, state)
	if err != nil {
		return worker.EndFailed, err
	}
	defer letGo()
	c.Sandbox.ToolUser = user
	if c.Sandbox.ToolUser != 0 {
		if err := letPass(state, run, own); err != nil {
			return worker.EndFailed, err
		}
		c.Log.Info("the tools are another user, without privileges; --tool-user root has them be this one", "user", c.Sandbox.ToolUser)
	}
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
