package main

import (
	"fmt"

	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/doctor"
)

type doctorCmd struct {
	config.Plane   `embed:""`
	config.Sandbox `embed:""`
	config.Remote  `embed:""`
	config.Login   `embed:""`
	config.State   `embed:""`
	Worker         bool `help:"Only what a worker needs: its queue, key, state directory and sandboxes."`
	JSON           bool `help:"Print JSON." name:"json"`
}

func (c *doctorCmd) Run(t *term) error {
	ctx, _, end := t.signals()
	defer end()
	report := app.Doctor(ctx, c.Plane, c.Sandbox, c.Remote, c.Login, c.StateDir, c.Worker)
	if c.JSON {
		if err := t.json(report); err != nil {
			return err
		}
	} else if err := c.print(t, report); err != nil {
		return err
	}
	if !report.OK {
		return status(1)
	}
	return nil
}

func (c *doctorCmd) print(t *term, report doctor.Report) error {
	tr := newTranscript(t.out, t.colours())
	width := 0
	for _, f := range report.Findings {
		width = max(width, len(f.Name))
	}
	for _, f := range report.Findings {
		mark := map[doctor.State]string{doctor.Good: tr.paint(green, "ok  "), doctor.Bad: tr.paint(red, "FAIL"), doctor.Absent: tr.paint(yellow, "no  ")}[f.State]
		if _, err := fmt.Fprintf(t.out, "%s  %-*s  %s\n", mark, width, f.Name, printable(f.Detail)); err != nil {
			return err
		}
		if f.Cure != "" {
			fmt.Fprintf(t.out, "      %-*s  %s\n", width, "", tr.paint(dim, printable(f.Cure)))
		}
	}
	var rows [][]string
	for _, d := range report.Drivers {
		rows = append(rows, abilities(d.Name, d.OK, d.Capabilities))
	}
	fmt.Fprintln(t.out)
	return t.table(abilityHead, rows)
}
