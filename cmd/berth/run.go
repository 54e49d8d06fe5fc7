package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/model/scripted"
)

type runCmd struct {
	config.Provider `embed:""`
	config.Engine   `embed:""`
	config.Sandbox  `embed:""`
	config.Policy   `embed:""`

	Prompt   string            `arg:"" help:"What the agent shall do; - reads it from standard input."`
	File     []string          `help:"Copy this file into the working directory; may be repeated." sep:"none" placeholder:"FILE"`
	Outputs  string            `help:"Copy what the session leaves in /mnt/session/outputs here; empty makes outputs-SESSION." placeholder:"DIR"`
	Replace  bool              `help:"Let outputs replace files that are there."`
	Metadata map[string]string `help:"A pair of the session's metadata, which may name inputs (input_file, input_files, git); may be repeated." mapsep:"none" placeholder:"KEY=VALUE"`
	Agent    string            `help:"The agent as JSON, as the API takes it; empty is one with every tool of the sandbox." placeholder:"FILE"`
	Model    string            `help:"The model; empty is the agent's, else scripted where no provider's key is configured. script:FILE plays a file." placeholder:"MODEL"`
	DataDir  string            `help:"Keep the session's data here; empty keeps none." env:"BERTH_RUN_DATA_DIR" placeholder:"DIR"`
	JSON     bool              `help:"Print each event as a line of JSON, and a last line of type berth.run_ended." name:"json"`

	BaseURL     string        `help:"Use this control plane and its workers; empty starts both halves in this process." placeholder:"URL"`
	APIKey      config.Secret `help:"An API key of it; better given as the variable than as a flag." name:"api-key" placeholder:"KEY"`
	Environment string        `help:"The environment there whose workers run the tools." placeholder:"ID"`
}

func (c *runCmd) Run(t *term, log *config.Log) error {
	if err := t.quiet(*log); err != nil {
		return err
	}
	cfg, err := c.config(t)
	if err != nil {
		return err
	}
	taking, working, done := t.signals()
	defer done()
	colours := t.colours()
	working, cut := context.WithCancel(working)
	defer cut()
	out, heeded := newPipe(t.out, cut)
	defer heeded()
	t.out = out
	var w watcher = &teller{transcript: newTranscript(t.out, colours)}
	if c.JSON {
		w = &lister{show: jsonLines(t.out), notes: t.errs}
	}
	res, err := app.Run(taking, working, cfg, w)
	if out.broken.Load() {
		return status(128 + int(syscall.SIGPIPE))
	}
	if res.SessionID != "" && res.Took > 0 {
		if e := w.ended(t, res); err == nil {
			err = e
		}
	}
	if err != nil {
		return err
	}
	return verdict(res)
}

// config checks the flags and makes what app.Run needs.
func (c *runCmd) config(t *term) (app.RunConfig, error) {
	cfg := app.RunConfig{
		Provider: c.Provider, Engine: c.Engine, Sandbox: c.Sandbox, Policy: c.Policy, DataDir: c.DataDir, Log: t.log,
		BaseURL: strings.TrimRight(c.BaseURL, "/"), APIKey: c.APIKey, EnvironmentID: c.Environment,
		Prompt: c.Prompt, Files: c.File, Outputs: c.Outputs, Replace: c.Replace, Metadata: c.Metadata, Agent: app.Agent(),
	}
	if c.BaseURL != "" {
		if err := (config.Client{BaseURL: c.BaseURL}).Validate(); err != nil {
			return cfg, err
		}
		if c.Policy.Named() {
			return cfg, &config.Error{Problem: "--base-url's workers decide what sessions may use and reach, so this policy would have no effect",
				Cure: "give it to the workers, or leave --base-url away"}
		}
	}
	if c.Prompt == "-" {
		b, err := readInput(t, "-")
		if err != nil {
			return cfg, err
		}
		cfg.Prompt = string(b)
	}
	if strings.TrimSpace(cfg.Prompt) == "" {
		return cfg, &config.Error{Problem: "the prompt is empty", Cure: "say what the agent shall do"}
	}
	if c.Agent != "" {
		cfg.Agent = api.CreateAgent{}
		if err := decodeInput(t, c.Agent, &cfg.Agent); err != nil {
			return cfg, err
		}
	}
	return cfg, c.model(t, &cfg)
}

// model settles which model plays.
func (c *runCmd) model(t *term, cfg *app.RunConfig) error {
	if file, ok := strings.CutPrefix(c.Model, "script:"); ok {
		b, err := readInput(t, file)
		if err != nil {
			return err
		}
		if cfg.Script, err = scripted.Parse(b); err != nil {
			return &config.Error{Problem: file + ": " + err.Error(), Cure: "correct the script"}
		}
		cfg.Agent.Model.ID = scripted.ID
		return nil
	}
	set(&cfg.Agent.Model.ID, c.Model)
	here, real := c.BaseURL == "", c.ModelKey != "" || c.ModelBaseURL != ""
	switch id := cfg.Agent.Model.ID; {
	case id == "" && !(here && real):
		cfg.Agent.Model.ID = scripted.ID
	case id == "":
		return &config.Error{Problem: "a model provider is configured, and no model is named", Cure: "name one with --model (such as claude-sonnet-5-5), or --model scripted"}
	case id != scripted.ID && here && !real:
		return &config.Error{Problem: "model " + id + " needs a provider, and none is configured", Cure: "set ANTHROPIC_API_KEY, or leave --model away to play a script"}
	}
	return nil
}

// pipe is an output whose reader may leave. The program then ends as SIGPIPE
// would end it, but in its own time: with the session's sandbox and its
// temporary directory cleared away.
type pipe struct {
	w      io.Writer
	cut    func()
	broken atomic.Bool
}

// newPipe takes SIGPIPE's effect from the process until done is called, so
// that a write fails instead; the first that does calls cut.
func newPipe(w io.Writer, cut func()) (p *pipe, done func()) {
	ch := make(chan os.Signal, 1) // never read: a socket's SIGPIPE comes here too
	signal.Notify(ch, syscall.SIGPIPE)
	return &pipe{w: w, cut: cut}, func() { signal.Stop(ch) }
}

func (p *pipe) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	if errors.Is(err, syscall.EPIPE) {
		p.broken.Store(true)
		p.cut()
	}
	return n, err
}

// watcher is an app.Watcher that also tells how it ended.
type watcher interface {
	app.Watcher
	ended(*term, app.RunResult) error
}

// teller shows a run to people.
type teller struct{ *transcript }

func (w *teller) Event(e api.Event) { w.show(e) }

func (w *teller) Note(s string) { w.line(yellow, "note: "+s) }

func (w *teller) ended(t *term, res app.RunResult) error {
	w.Stop = res.Stop
	w.summary(res.Took)
	if len(res.Outputs) == 0 {
		return nil
	}
	w.line(plain, "outputs:")
	for _, o := range res.Outputs {
		w.line(plain, fmt.Sprintf("  %s  %s", printable(o.Path), w.paint(dim, size(o.Size))))
	}
	return nil
}

// lister shows a run to programs.
type lister struct {
	show  func(api.Event)
	notes io.Writer
}

func (w *lister) Event(e api.Event) { w.show(e) }

func (w *lister) Note(s string) { fmt.Fprintln(w.notes, "berth:", s) }

func (w *lister) ended(t *term, res app.RunResult) error {
	if res.Outputs == nil {
		res.Outputs = []app.Output{}
	}
	return t.json(map[string]any{
		"type": "berth.run_ended", "session_id": res.SessionID, "stop_reason": res.Stop,
		"seconds": res.Took.Round(time.Millisecond).Seconds(), "outputs": res.Outputs,
	})
}

// verdict is the run's exit status: only end_turn is a success.
func verdict(res app.RunResult) error {
	switch res.Stop {
	case "end_turn":
		return nil
	case "interrupted":
		return status(130)
	case api.StopRequiresAction:
		return fmt.Errorf("the session waits for somebody to answer %s; give it an agent whose tools need no confirmation, or drive the session with berth dev and berth sessions", strings.Join(res.Waits, ", "))
	}
	return errors.New("the session ended with " + res.Stop + "; the transcript says why")
}
