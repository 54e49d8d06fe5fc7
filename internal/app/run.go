package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/model/scripted"
	"github.com/berthdev/berth/internal/outputs"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/sandbox/removal"
)

// RunConfig is one session from prompt to outputs.
type RunConfig struct {
	Provider config.Provider
	Engine   config.Engine
	Sandbox  config.Sandbox
	Policy   config.Policy
	DataDir  string // "" for a temporary one, gone in the end
	Script   *scripted.Script
	Log      *slog.Logger

	// BaseURL names a server to use instead of both halves in process.
	BaseURL       string
	APIKey        config.Secret
	EnvironmentID string

	Agent    api.CreateAgent
	Prompt   string
	Metadata api.Metadata // of the session
	Files    []string     // copied into the working directory before the session starts
	Outputs  string       // directory for what the session leaves in /mnt/session/outputs; "" names it after the session
	Replace  bool         // files that are there already may be replaced
}

// Watcher sees a run. Its methods are called from one goroutine at a time.
type Watcher interface {
	Event(api.Event)
	// Note says something about the run that is no event of the session.
	Note(string)
}

// RunResult is how a run ended.
type RunResult struct {
	SessionID string
	Stop      string   // the last stop reason; "terminated", or "interrupted" by the caller
	Waits     []string // what a stop for requires_action waits for
	Took      time.Duration
	Outputs   []Output
	OutputDir string
}

// Output is a file that the session left.
type Output struct {
	Path   string `json:"path"` // where it is now
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Run runs one session. When taking ends the session is interrupted; when
// working ends Run returns as soon as everything has been cleared away.
func Run(taking, working context.Context, c RunConfig, w Watcher) (RunResult, error) {
	inputs, err := readInputs(c.Files)
	if err != nil {
		return RunResult{}, err
	}
	if err := checkOutputs(c.Outputs, c.Replace); err != nil {
		return RunResult{}, err
	}
	if c.BaseURL != "" {
		return runRemote(taking, working, c, w)
	}
	if c.Outputs == "" && canMake(".") != nil {
		w.Note("this directory cannot be written to, so what the session leaves in " + outputs.Dir + " will be lost; name another with --outputs")
	}
	return runHere(taking, working, c, inputs, w)
}

// runHere starts both halves in this process.
func runHere(taking, working context.Context, c RunConfig, inputs []input, w Watcher) (res RunResult, err error) {
	var up undo
	defer up.run()
	data, images := c.DataDir, ""
	if data == "" {
		images = imagesIn(config.StateDir()) // the next run's too
		if data, err = os.MkdirTemp("", "berth-run-"); err != nil {
			return res, cannotWrite(os.TempDir(), "TMPDIR", err)
		}
		up.push(func() {
			if err := removal.All(data); err != nil {
				c.Log.Warn("the temporary directory could not be removed", "dir", data, "err", err)
			}
		})
	}
	p, err := startPlane(taking, planeConfig{
		Plane:  config.Plane{Store: config.Store{DataDir: data}, Provider: c.Provider, EnvironmentNote: true},
		Script: c.Script, Log: c.Log,
	})
	if err != nil {
		return res, err
	}
	inner := newMemListener()
	s := serve(p.handler, c.Log, inner)
	up.push(func() { stopPlane(working, 5*time.Second, p, s) })
	hc := innerClient(inner)
	up.push(hc.CloseIdleConnections)

	key, made, err := p.keys.Create(taking, plane.KeyAPI, "", "berth run")
	if err != nil {
		return res, err
	}
	up.push(func() { p.keys.Revoke(context.WithoutCancel(working), made.ID) })
	cl := client.New(innerURL, client.APIKey(key), hc)
	environment, err := environmentNamed(taking, cl, "berth run", api.Metadata{"berth.queue": "first_input"})
	if err != nil {
		return res, err
	}
	envKey, envMade, err := p.keys.Create(taking, plane.KeyEnvironment, environment, "berth run")
	if err != nil {
		return res, err
	}
	up.push(func() { p.keys.Revoke(context.WithoutCancel(working), envMade.ID) })

	// The worker stops by itself when the session is over, not with taking:
	// an interrupted call still ends and is posted.
	state := filepath.Join(data, "worker")
	half, err := runWorker(context.WithoutCancel(taking), working, WorkerConfig{
		Remote: config.Remote{BaseURL: innerURL, EnvironmentID: environment, EnvironmentKey: config.Secret(envKey)},
		Engine: c.Engine, Sandbox: c.Sandbox, Policy: c.Policy, StateDir: state, Images: images, Log: c.Log, http: hc,
	}, func(err error) { c.Log.Error("the worker has ended", "err", err) })
	if err != nil {
		return res, err
	}
	up.push(half.end)

	session, err := newSession(taking, cl, c, environment)
	if err != nil {
		return res, err
	}
	if err := half.putInputs(taking, session, inputs); err != nil {
		return res, err
	}
	res, err = play(taking, working, cl, c.Prompt, session, w, nil)
	if err != nil {
		return res, err
	}
	half.end() // nothing writes outputs any more
	if err := deliverOutputs(state, session, c, &res, w); err != nil {
		return res, err
	}
	return res, nil
}

// runRemote uses a server and whatever workers it has.
func runRemote(taking, working context.Context, c RunConfig, w Watcher) (RunResult, error) {
	switch {
	case c.EnvironmentID == "":
		return RunResult{}, &config.Error{Problem: "with --base-url the environment is not named", Cure: "give --environment, or leave --base-url and BERTH_BASE_URL away to run on this machine"}
	case c.APIKey == "":
		return RunResult{}, &config.Error{Problem: "with --base-url an API key is needed", Cure: "set BERTH_API_KEY or --api-key"}
	case len(c.Files) > 0 || c.Outputs != "":
		return RunResult{}, &config.Error{Problem: "--file and --outputs need the server's Files API, which this version does not use yet",
			Cure: "run on this machine (without --base-url), or put the data where the environment's workers find it"}
	case c.Script != nil:
		return RunResult{}, &config.Error{Problem: "--model script:FILE plays on this machine only", Cure: "put the script into the prompt, in a ```script block"}
	}
	cl := client.New(c.BaseURL, client.APIKey(c.APIKey.Reveal()), nil)
	defer cl.CloseIdleConnections()
	session, err := newSession(taking, cl, c, c.EnvironmentID)
	if err != nil {
		return RunResult{}, err
	}
	return play(taking, working, cl, c.Prompt, session, w, func(ctx context.Context) string {
		return missingWorker(ctx, cl, c.EnvironmentID)
	})
}

// missingWorker says so when work waits and nobody polls for it.
func missingWorker(ctx context.Context, cl *client.Client, environment string) string {
	st, err := cl.WorkStats(ctx, environment)
	if err != nil || st.WorkersPolling > 0 || st.Pending > 0 {
		return ""
	}
	return "no worker has asked for work of " + environment + " for a while; start one there: berth worker poll"
}

func newSession(ctx context.Context, cl *client.Client, c RunConfig, environment string) (string, error) {
	a, err := cl.CreateAgent(ctx, c.Agent)
	if err != nil {
		return "", fmt.Errorf("make the agent: %w", err)
	}
	s, err := cl.CreateSession(ctx, api.CreateSession{Agent: api.AgentRef{Type: "agent", ID: a.ID}, EnvironmentID: environment, Metadata: c.Metadata})
	if err != nil {
		return "", fmt.Errorf("make the session: %w", err)
	}
	return s.ID, nil
}

// noWorkerAfter is how long a run on a server waits before it looks whether
// there is a worker at all.
const noWorkerAfter = 10 * time.Second

// play sends the prompt and watches the session until its turn is over.
// missing, when there, is asked after a while whether something is amiss.
func play(taking, working context.Context, cl *client.Client, prompt, session string, w Watcher, missing func(context.Context) string) (RunResult, error) {
	end := ending{open: map[string]bool{}}
	var mu sync.Mutex // guards w
	began := time.Now()
	ctx, cancel := context.WithCancelCause(working)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel(nil)

	interrupted := false
	helpers.Go(func() {
		select {
		case <-ctx.Done():
			return
		case <-taking.Done():
		}
		mu.Lock()
		interrupted = true
		w.Note("stopping: the session is interrupted (once more to leave at once)")
		mu.Unlock()
		if _, err := cl.Send(ctx, session, &api.UserInterrupt{EventHead: api.EventHead{Type: api.TypeUserInterrupt}}); err != nil {
			cancel(err)
		}
	})
	if missing != nil {
		helpers.Go(func() {
			t := time.NewTimer(noWorkerAfter)
			defer t.Stop()
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
			if note := missing(ctx); note != "" {
				mu.Lock()
				defer mu.Unlock()
				w.Note(note)
			}
		})
	}

	err := Follow(ctx, cl, session, func() error {
		raw, err := client.Outgoing(&api.UserMessage{EventHead: api.EventHead{Type: api.TypeUserMessage}, Content: []api.Block{api.Text(prompt)}})
		if err == nil {
			_, err = cl.SendOnce(ctx, session, rand.Text(), raw)
		}
		return err
	}, func(e api.Event) bool {
		mu.Lock()
		defer mu.Unlock()
		w.Event(e)
		return end.hear(e)
	})
	took := time.Since(began)
	cancel(nil)
	helpers.Wait()
	if interrupted {
		end.stop = "interrupted"
	}
	if errors.Is(err, context.Canceled) && working.Err() != nil {
		err = context.Cause(working)
	}
	return RunResult{SessionID: session, Stop: end.stop, Waits: end.waits, Took: took}, err
}

// ending is how a run has ended, by its events so far.
type ending struct {
	stop  string
	waits []string
	open  map[string]bool // calls that somebody outside must act on
}

// hear says whether an event ends the run.
func (n *ending) hear(e api.Event) bool {
	switch e := e.(type) {
	case *api.AgentToolUse:
		if e.EvaluatedPermission == api.PermissionAsk {
			n.open[e.ID] = true
		}
	case *api.AgentCustomToolUse:
		n.open[e.ID] = true
	case *api.UserToolConfirmation:
		delete(n.open, e.ToolUseID)
	case *api.UserCustomToolResult:
		delete(n.open, e.CustomToolUseID)
	case *api.SessionStatusIdle:
		n.stop, n.waits = e.StopReason.Type, nil
		if n.stop != api.StopRequiresAction {
			return true
		}
		for _, id := range e.StopReason.EventIDs {
			if n.open[id] {
				n.waits = append(n.waits, id)
			}
		}
		return len(n.waits) > 0
	case *api.SessionStatusTerminated:
		n.stop = "terminated"
	case *api.SessionDeleted:
		n.stop = "deleted"
	}
	return false
}

// Agent is the agent a run uses when no file says otherwise: every tool of
// the sandbox.
func Agent() api.CreateAgent {
	return api.CreateAgent{Name: "berth run", Tools: []api.Tool{{Type: api.ToolAgentToolset}}}
}
