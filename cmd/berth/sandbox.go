package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

type sandboxCmd struct {
	Run   sandboxRun   `cmd:"" help:"Run a command in a fresh sandbox, with its exit status."`
	Probe sandboxProbe `cmd:"" help:"Say which ways to isolate tools work here, and how to cure those that do not."`
	List  sandboxList  `cmd:"" help:"List the sandboxes and kept sessions of a worker."`
	GC    sandboxGC    `cmd:"" name:"gc" help:"Remove what workers left that are gone."`
}

// byHand are the flags that the verbs share.
type byHand struct {
	config.Sandbox `embed:""`
	config.State   `embed:""`
}

func (b byHand) config(t *term) app.SandboxConfig {
	return app.SandboxConfig{Sandbox: b.Sandbox, StateDir: b.StateDir, Log: t.log}
}

type sandboxRun struct {
	byHand        `embed:""`
	config.Policy `embed:""`

	Timeout time.Duration `help:"How long the command may take." default:"10m"`
	Receipt bool          `help:"Print on standard error what was found when the sandbox was proven."`
	Command []string      `arg:"" help:"The command and its words; put -- before it."`
}

func (c *sandboxRun) Run(t *term) error {
	working, _, done := t.signals()
	defer done()
	cfg := c.config(t)
	cfg.Policy = c.Policy
	res, receipt, err := app.SandboxRun(working, cfg, c.Command, c.Timeout, t.out)
	if c.Receipt && len(receipt.Checks) > 0 {
		fmt.Fprint(t.errs, receiptText(receipt))
	}
	if err != nil {
		return err
	}
	if res.OOM {
		fmt.Fprintln(t.errs, "berth: the memory limit ended something in the sandbox")
	}
	switch res.End {
	case toolset.TimedOut:
		fmt.Fprintf(t.errs, "berth: the command was ended after %v; --timeout gives it more, unless the policy's call_time is less\n", res.Elapsed.Round(time.Millisecond))
		return status(124)
	case toolset.Interrupted:
		return status(130)
	case toolset.Incomplete:
		return status(2)
	}
	if res.ExitCode != 0 {
		return status(res.ExitCode)
	}
	return nil
}

// receiptText is a receipt for people.
func receiptText(r sandbox.Receipt) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, proven at %s", r.Driver, r.At.Format(time.RFC3339))
	for _, s := range []string{r.Version, r.Policy} {
		if s != "" {
			b.WriteString(", " + printable(s))
		}
	}
	b.WriteByte('\n')
	for _, c := range r.Checks {
		mark := "ok  "
		switch {
		case !c.OK:
			mark = "FAIL"
		case c.Promised == "nothing":
			mark = "-   "
		}
		fmt.Fprintf(&b, "  %s  %-22s  %s\n", mark, printable(c.Name), printable(c.Found))
	}
	for _, l := range []struct {
		name   string
		limits []sandbox.Limit
	}{{"enforced", r.Enforced}, {"not enforced", r.Left}} {
		if len(l.limits) > 0 {
			fmt.Fprintf(&b, "  limits %s: %s\n", l.name, limits(l.limits))
		}
	}
	return b.String()
}

func limits(list []sandbox.Limit) string {
	var names []string
	for _, l := range list {
		names = append(names, string(l))
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

type sandboxProbe struct {
	byHand `embed:""`
	JSON   bool `help:"Print JSON." name:"json"`
}

func (c *sandboxProbe) Run(t *term) error {
	ctx, _, done := t.signals()
	defer done()
	ways, err := app.SandboxProbe(ctx, c.config(t))
	if err != nil {
		return err
	}
	if c.JSON {
		return t.json(map[string]any{"data": ways})
	}
	var rows [][]string
	for _, w := range ways {
		rows = append(rows, abilities(w.Name, w.OK, w.Capabilities))
	}
	if err := t.table(abilityHead, rows); err != nil {
		return err
	}
	for _, w := range ways {
		if !w.OK {
			fmt.Fprintf(t.out, "\n%s: %s\n  %s\n", w.Name, printable(w.Reason), printable(w.Cure))
		}
	}
	return nil
}

var abilityHead = []string{"SANDBOX", "WORKS", "PROCESSES", "FILES", "NETWORK", "PRIVILEGES", "SYSCALLS", "IMAGES", "EGRESS", "RECOVERS", "LIMITS"}

// abilities is a driver's line under abilityHead: what it enforces.
func abilities(name string, works bool, c sandbox.Capabilities) []string {
	if !works {
		return []string{name, "no", "", "", "", "", "", "", "", "", ""}
	}
	row := []string{name, "yes"}
	for _, has := range []bool{c.Processes, c.Files, c.Network, c.Privileges, c.Syscalls, c.Images, c.Egress, c.Recover} {
		row = append(row, map[bool]string{true: "yes", false: "-"}[has])
	}
	return append(row, limits(c.Limits))
}

type sandboxList struct {
	config.State `embed:""`
	Receipts     bool `help:"Show what was found when each was proven."`
	JSON         bool `help:"Print JSON." name:"json"`
}

func (c *sandboxList) Run(t *term) error {
	all, err := app.SandboxList(app.SandboxConfig{StateDir: c.StateDir, Log: t.log})
	if err != nil {
		return err
	}
	if c.JSON {
		for i := range all.Data {
			if !c.Receipts {
				all.Data[i].Receipt = nil
			}
		}
		return t.json(all)
	}
	var rows [][]string
	for _, e := range all.Data {
		state, proven, started := string(e.State), "-", "-"
		if e.State != sandbox.StateKept && !all.Running {
			state = "left"
		}
		if e.Receipt != nil {
			proven = strconv.Itoa(len(e.Receipt.Checks)) + " checks at " + e.Receipt.At.Format(time.RFC3339)
		}
		if e.Problem != "" {
			proven = e.Problem
		}
		if e.Started != nil {
			started = e.Started.Format(time.RFC3339)
		}
		rows = append(rows, []string{e.Session, state, e.Driver, started, proven, e.Folder})
	}
	if err := t.list([]string{"SESSION", "STATE", "SANDBOX", "STARTED", "PROVEN", "FOLDER"}, rows, false); err != nil || !c.Receipts {
		return err
	}
	for _, e := range all.Data {
		if e.Receipt != nil {
			fmt.Fprintf(t.out, "\n%s: %s", printable(e.Folder), receiptText(*e.Receipt))
		}
	}
	return nil
}

type sandboxGC struct {
	byHand `embed:""`
	DryRun bool `help:"Only say what would be removed."`
	JSON   bool `help:"Print JSON." name:"json"`
}

func (c *sandboxGC) Run(t *term) error {
	ctx, _, done := t.signals()
	defer done()
	cleaned, err := app.SandboxGC(ctx, c.config(t), c.DryRun)
	if err != nil && len(cleaned.Data) == 0 {
		return err
	}
	if c.JSON {
		return errors.Join(t.json(cleaned), err)
	}
	if cleaned.Running {
		fmt.Fprintln(t.errs, "a worker runs on this state directory: what may be its own is left alone")
	}
	var rows [][]string
	for _, r := range cleaned.Data {
		what := "removed"
		switch {
		case r.Problem != "":
			what = r.Problem
		case c.DryRun:
			what = "would be removed"
		}
		rows = append(rows, []string{r.Kind, r.Name, what})
	}
	return errors.Join(t.list([]string{"KIND", "NAME", "RESULT"}, rows, false), err)
}
