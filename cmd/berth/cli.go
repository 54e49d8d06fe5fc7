package main

import (
	"errors"
	"io"
	"os"
	"reflect"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/crash"
)

// cli is the command line: every verb, in the order help shows them.
type cli struct {
	config.Log `embed:""`

	Run    runCmd    `cmd:"" help:"Run one session from a prompt to its outputs, on this machine or with --base-url."`
	Dev    devCmd    `cmd:"" help:"Both halves on one machine, with a default environment and keys."`
	Serve  serveCmd  `cmd:"" help:"The control plane alone."`
	Worker workerCmd `cmd:"" help:"The worker: poll a queue, or run one claimed item."`

	Env      envCmd      `cmd:"" help:"Environments: the queues that workers serve."`
	Agents   agentsCmd   `cmd:"" help:"Agents: a model, a system prompt and tools."`
	Sessions sessionsCmd `cmd:"" help:"Sessions and their events."`
	Work     workCmd     `cmd:"" help:"Work items of an environment's queue."`
	Models   modelsCmd   `cmd:"" help:"Models that agents may name."`
	Keys     keysCmd     `cmd:"" help:"API keys and environment keys."`

	Sandbox sandboxCmd `cmd:"" help:"Sandboxes by hand: run a command in one, see what works here, what is there, clear up."`
	Doctor  doctorCmd  `cmd:"" help:"Say what works on this machine, and how to cure what does not."`
	Migrate migrateCmd `cmd:"" help:"Bring the database to this version's schema."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

// run parses and runs a command line and gives the exit status: 0, 1 for a
// failure, 2 for a command line or setting that cannot be used.
func run(args []string, in io.Reader, out, errs io.Writer) int {
	config.DropEmpty()
	t := newTerm(in, out, errs)
	var c cli
	parser, err := newParser(&c, t, config.Vars())
	if err != nil {
		return t.fail(err)
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	switch { // as other programs spell them
	case args[0] == "help":
		args = append(args[1:], "--help")
	case len(args) == 1 && args[0] == "--version":
		args = []string{"version"}
	}
	ctx, err := parser.Parse(args)
	if err == nil && ctx.Selected() != nil {
		err = check(ctx.Selected().Target)
	}
	if err != nil {
		return t.fail(usage(err))
	}
	if err := t.logTo(c.Log); err != nil {
		return t.fail(err)
	}
	if err := crash.Arm(config.CrashAt()); err != nil {
		return t.fail(err)
	}
	t.modelKeyGiven = config.ModelKeyInWorker()
	config.Scrub()
	return t.fail(ctx.Run())
}

// check asks the settings that a verb embeds whether they can be used: kong
// asks none but the verb itself.
func check(verb reflect.Value) error {
	for _, f := range reflect.VisibleFields(verb.Type()) {
		if !f.Anonymous || !f.IsExported() {
			continue
		}
		if v, ok := verb.FieldByIndex(f.Index).Interface().(interface{ Validate() error }); ok {
			if err := v.Validate(); err != nil {
				return err
			}
		}
	}
	return nil
}

// newParser reads a command line into c. vars are the defaults that depend on
// the machine.
func newParser(c *cli, t *term, vars map[string]string) (*kong.Kong, error) {
	return kong.New(c,
		kong.Name("berth"),
		kong.Description("Managed Agents, self-hosted: agents' sessions from a queue, their tools in sandboxes.\n\nTry: berth run \"hello\""),
		kong.Vars(vars),
		kong.DefaultEnvars("BERTH"),
		kong.Writers(t.out, t.errs),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, FlagsLast: true, WrapUpperBound: 110}),
		kong.ValueFormatter(flagHelp),
		kong.Bind(t, &c.Log),
	)
}

// usage makes a parse error one line that says where to look.
func usage(err error) error {
	if ce, ok := errors.AsType[*config.Error](err); ok {
		return ce
	}
	cure := `run "berth --help"`
	if pe, ok := errors.AsType[*kong.ParseError](err); ok && pe.Context != nil {
		if node := pe.Context.Selected(); node != nil {
			cure = `run "` + node.FullPath() + ` --help"`
		} else if path := pe.Context.Path; len(path) > 1 {
			if n := path[len(path)-1].Node(); n != nil {
				cure = `run "` + n.FullPath() + ` --help"`
			}
		}
	}
	return &config.Error{Problem: err.Error(), Cure: cure}
}

// flagHelp is a flag's help with its variable, and its default where the
// placeholder hides it.
func flagHelp(v *kong.Value) string {
	var notes []string
	if v.HasDefault && v.Default != "" && v.Tag.PlaceHolder != "" {
		notes = append(notes, "default "+v.Default)
	}
	for _, env := range v.Tag.Envs {
		notes = append(notes, "$"+env)
	}
	if len(notes) == 0 {
		return v.Help
	}
	return strings.TrimSuffix(v.Help, ".") + " (" + strings.Join(notes, ", ") + ")."
}

// isTerminal says whether a stream is a person's screen.
func isTerminal(s any) bool {
	f, ok := s.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && info.Name() != "null"
}
