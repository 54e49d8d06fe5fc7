package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/berthdev/berth/internal/config"
)

// term is where a verb reads and writes.
type term struct {
	in   io.Reader
	out  io.Writer // what programs read
	errs io.Writer // what people read
	log  *slog.Logger

	modelKeyGiven bool // ANTHROPIC_API_KEY was set when the program started
}

func newTerm(in io.Reader, out, errs io.Writer) *term {
	return &term{in: in, out: out, errs: errs, log: slog.New(slog.NewTextHandler(errs, nil))}
}

func (t *term) logTo(c config.Log) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return &config.Error{Problem: "--log-level: " + err.Error(), Cure: "give debug, info, warn or error"}
	}
	opts := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		t.log = slog.New(slog.NewJSONHandler(t.errs, opts))
	} else {
		t.log = slog.New(slog.NewTextHandler(t.errs, opts))
	}
	return nil
}

// quiet raises the log's floor to warnings, for verbs whose output is a
// conversation.
func (t *term) quiet(c config.Log) error {
	if c.LogLevel == "info" {
		c.LogLevel = "warn"
	}
	return t.logTo(c)
}

// signals gives the two ways to stop: taking ends with the first SIGINT or
// SIGTERM, working with the second. Call done when the verb is over.
func (t *term) signals() (taking, working context.Context, done func()) {
	taking, stopTaking := context.WithCancelCause(context.Background())
	working, stopWorking := context.WithCancelCause(context.Background())
	ch := make(chan os.Signal, 2)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	over, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		for n := 0; ; n++ {
			select {
			case s := <-ch:
				if n == 0 {
					stopTaking(&stopped{s})
				} else {
					stopWorking(&stopped{s})
				}
			case <-over:
				return
			}
		}
	}()
	return taking, working, func() {
		signal.Stop(ch)
		close(over)
		<-gone
		stopTaking(nil)
		stopWorking(nil)
	}
}

// stopped is the cause of a context that a signal ended.
type stopped struct{ signal os.Signal }

func (s *stopped) Error() string { return "stopped by " + s.signal.String() }

// status ends the program with a status and no further word.
type status int

func (s status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// fail prints an error on one line and gives its exit status: 2 for a command
// line or setting that cannot be used, 130 for work that a signal cut off, 1
// for anything else.
func (t *term) fail(err error) int {
	if err == nil {
		return 0
	}
	if s, ok := errors.AsType[status](err); ok {
		return int(s)
	}
	fmt.Fprintln(t.errs, "berth:", oneLine(explain(err)))
	if _, ok := errors.AsType[*stopped](err); ok {
		return 130
	}
	if _, ok := errors.AsType[*config.Error](err); ok {
		return 2
	}
	return 1
}

func oneLine(s string) string {
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' })
	for i, l := range lines {
		lines[i] = strings.TrimSpace(l)
	}
	return strings.ReplaceAll(strings.Join(lines, "; "), ":; ", ": ")
}

// json prints v, indented for people and on one line for programs.
func (t *term) json(v any) error {
	enc := json.NewEncoder(t.out)
	enc.SetEscapeHTML(false)
	if isTerminal(t.out) {
		enc.SetIndent("", "  ")
	}
	return enc.Encode(v)
}

// table prints rows in columns under a head.
func (t *term) table(head []string, rows [][]string) error {
	w := tabwriter.NewWriter(t.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(head, "\t"))
	for _, r := range rows {
		for i := range r {
			r[i] = printable(r[i])
		}
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	return w.Flush()
}

// list is table with a word on what is not there.
func (t *term) list(head []string, rows [][]string, more bool) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(t.errs, "none")
		return err
	}
	if err := t.table(head, rows); err != nil || !more {
		return err
	}
	_, err := fmt.Fprintln(t.errs, "… more; --limit 0 shows all")
	return err
}

// fields prints lines of name and value, without those that have none.
func (t *term) fields(lines [][2]string) error {
	w := tabwriter.NewWriter(t.out, 0, 4, 2, ' ', 0)
	for _, l := range lines {
		if l[1] != "" {
			fmt.Fprintf(w, "%s\t%s\n", l[0], printable(l[1]))
		}
	}
	return w.Flush()
}

// colours says whether standard output is a screen that shows colours.
func (t *term) colours() bool { return isTerminal(t.out) && !config.NoColor() }

// printable takes control characters out of a text that somebody else wrote,
// so that it cannot move the cursor or colour the screen.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, s)
}
