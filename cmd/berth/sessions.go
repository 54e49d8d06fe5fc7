package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/internal/app"
	"github.com/berthdev/berth/internal/config"
)

type sessionsCmd struct {
	List      sessionsList      `cmd:"" help:"List sessions."`
	Create    sessionsCreate    `cmd:"" help:"Create a session, with a first message or without."`
	Get       sessionsGet       `cmd:"" help:"Show a session."`
	Update    sessionsUpdate    `cmd:"" help:"Change a session's title or metadata."`
	Send      sessionsSend      `cmd:"" help:"Send a message or events."`
	Events    sessionsEvents    `cmd:"" help:"Print the log of a session."`
	Stream    sessionsStream    `cmd:"" help:"Follow a session live."`
	Confirm   sessionsConfirm   `cmd:"" help:"Allow or deny a call that asks."`
	Interrupt sessionsInterrupt `cmd:"" help:"Stop the running turn."`
	Archive   sessionsArchive   `cmd:"" help:"Close a session; its log stays."`
	Delete    sessionsDelete    `cmd:"" help:"Delete a session and its log."`
}

func sessionLines(s *api.Session) [][2]string {
	return [][2]string{{"id", s.ID}, {"title", text(s.Title)}, {"status", string(s.Status)}, {"environment", s.EnvironmentID},
		{"agent", fmt.Sprintf("%s (%s, version %d)", s.Agent.ID, s.Agent.Name, s.Agent.Version)}, {"model", s.Agent.Model.ID},
		{"metadata", pairs(s.Metadata)}, {"tokens", fmt.Sprintf("%s in, %s out", thousands(s.Usage.InputTokens+s.Usage.CacheReadInputTokens+
			s.Usage.CacheCreation.Ephemeral5mInputTokens+s.Usage.CacheCreation.Ephemeral1hInputTokens), thousands(s.Usage.OutputTokens))},
		{"created", when(s.CreatedAt)}, {"archived", whenever(s.ArchivedAt)}}
}

type sessionsList struct {
	remote
	listing
	Agent    string   `help:"Only this agent's." placeholder:"ID"`
	Status   []string `help:"Only those that are idle, running, rescheduling or terminated; may be repeated." placeholder:"STATUS"`
	Order    string   `help:"By age: desc (newest first) or asc." enum:"desc,asc" default:"desc"`
	Archived bool     `help:"Also list archived ones."`
}

func (c *sessionsList) Run(t *term) error {
	q := client.SessionQuery{AgentID: c.Agent, Order: c.Order, IncludeArchived: c.Archived}
	for _, s := range c.Status {
		q.Statuses = append(q.Statuses, api.SessionStatus(s))
	}
	return list(t, c.remote, c.listing, []string{"ID", "STATUS", "AGENT", "TITLE", "CREATED", "ARCHIVED"},
		func(ctx context.Context, cl *client.Client, p client.PageQuery) ([]api.Session, *string, error) {
			q.PageQuery = p
			got, err := cl.Sessions(ctx, q)
			if err != nil {
				return nil, nil, err
			}
			return got.Data, got.NextPage, nil
		},
		func(s api.Session) []string {
			return []string{s.ID, string(s.Status), s.Agent.Name, text(s.Title), when(s.CreatedAt), whenever(s.ArchivedAt)}
		})
}

type sessionsCreate struct {
	making
	Environment string            `help:"The environment whose workers run its tools." short:"e" placeholder:"ID"`
	Agent       string            `help:"The agent." short:"a" placeholder:"ID"`
	Title       string            `help:"A title."`
	Metadata    map[string]string `help:"A pair of metadata; may be repeated." mapsep:"none" placeholder:"KEY=VALUE"`
	Message     string            `help:"The first message." short:"m"`
}

func (c *sessionsCreate) Run(t *term) error {
	if c.Environment == "" || c.Agent == "" {
		return &config.Error{Problem: "a session needs an environment and an agent", Cure: "give --environment and --agent"}
	}
	s := api.CreateSession{Agent: api.AgentRef{Type: "agent", ID: c.Agent}, EnvironmentID: c.Environment,
		Title: optional(c.Title), Metadata: c.Metadata}
	if c.Message != "" {
		raw, err := message(c.Message)
		if err != nil {
			return err
		}
		s.InitialEvents = []json.RawMessage{raw}
	}
	return made(t, c.making, sessionLines, func(ctx context.Context, cl *client.Client) (*api.Session, error) {
		return cl.CreateSession(ctx, s)
	})
}

// message is a user.message with one text.
func message(s string) (json.RawMessage, error) {
	return client.Outgoing(&api.UserMessage{EventHead: api.EventHead{Type: api.TypeUserMessage}, Content: []api.Block{api.Text(s)}})
}

type sessionsGet struct {
	remote
	ID string `arg:"" help:"The session."`
}

func (c *sessionsGet) Run(t *term) error {
	var waits [][2]string
	lines := func(s *api.Session) [][2]string { return append(sessionLines(s), waits...) }
	return answer(t, c.remote, lines, func(ctx context.Context, cl *client.Client) (*api.Session, error) {
		s, err := cl.Session(ctx, c.ID)
		if err == nil && s.Status == api.SessionIdle && !c.JSON {
			waits, err = waitsFor(ctx, cl, c.ID)
		}
		return s, err
	})
}

// waitsFor says what an idle session waits for, a line for each of its last
// hundred calls and confirmations.
func waitsFor(ctx context.Context, cl *client.Client, session string) (lines [][2]string, err error) {
	last, err := cl.Events(ctx, session, client.EventQuery{PageQuery: client.PageQuery{Limit: 1}, Order: "desc", Types: []string{api.TypeSessionStatusIdle}})
	if err != nil || len(last.Data) == 0 {
		return nil, err
	}
	idle, ok := last.Data[0].(*api.SessionStatusIdle)
	if !ok || idle.StopReason.Type != api.StopRequiresAction {
		return nil, nil
	}
	calls, err := cl.Events(ctx, session, client.EventQuery{PageQuery: client.PageQuery{Limit: 100}, Order: "desc",
		Types: []string{api.TypeAgentToolUse, api.TypeAgentCustomToolUse, api.TypeUserToolConfirmation}})
	if err != nil {
		return nil, err
	}
	confirmed := map[string]bool{}
	for _, e := range calls.Data {
		if e, ok := e.(*api.UserToolConfirmation); ok {
			confirmed[e.ToolUseID] = true
		}
	}
	for _, e := range slices.Backward(calls.Data) {
		id := e.Head().ID
		if !slices.Contains(idle.StopReason.EventIDs, id) {
			continue
		}
		what := ""
		switch e := e.(type) {
		case *api.AgentToolUse:
			what = e.Name + " " + id + ": its result, from a worker"
			if e.EvaluatedPermission == api.PermissionAsk && !confirmed[id] {
				what = e.Name + " " + id + ": a confirmation (berth sessions confirm), then its result"
			}
		case *api.AgentCustomToolUse:
			what = e.Name + " " + id + ": its result, from a client"
		}
		lines = append(lines, [2]string{"waits for", what})
	}
	return lines, nil
}

type sessionsUpdate struct {
	remote
	ID       string            `arg:"" help:"The session."`
	Title    *string           `help:"Its new title; empty clears it."`
	Metadata map[string]string `help:"A pair to set; an empty value deletes the key; may be repeated." mapsep:"none" placeholder:"KEY=VALUE"`
}

func (c *sessionsUpdate) Run(t *term) error {
	u := api.UpdateSession{Title: clearable(c.Title), Metadata: patch(c.Metadata)}
	return answer(t, c.remote, sessionLines, func(ctx context.Context, cl *client.Client) (*api.Session, error) {
		return cl.UpdateSession(ctx, c.ID, u)
	})
}

type sessionsSend struct {
	remote
	ID     string `arg:"" help:"The session."`
	Text   string `arg:"" optional:"" help:"The message; - reads it from standard input."`
	File   string `help:"Events as JSON, one or an array; - reads standard input." short:"f" placeholder:"FILE"`
	Follow bool   `help:"Follow the session until its turn has ended."`

	IdempotencyKey string `help:"A name for this send: one that was sent already, within a day, is not sent again, and its events are printed. Empty makes one up, for the tries of this command." placeholder:"KEY"`
}

func (c *sessionsSend) Run(t *term) error {
	events, err := c.events(t)
	if err != nil {
		return err
	}
	key := cmp.Or(c.IdempotencyKey, rand.Text())
	return call(t, c.remote, func(ctx context.Context, cl *client.Client) error {
		if c.Follow {
			return follow(ctx, t, cl, c.remote, c.ID, true, func() error {
				_, err := cl.SendOnce(ctx, c.ID, key, events...)
				return err
			})
		}
		sent, err := cl.SendOnce(ctx, c.ID, key, events...)
		if err != nil {
			return err
		}
		if c.JSON {
			return t.json(api.SentEvents{Data: sent})
		}
		for _, e := range sent {
			fmt.Fprintln(t.out, e.Head().ID, e.Head().Type)
		}
		return nil
	})
}

func (c *sessionsSend) events(t *term) ([]json.RawMessage, error) {
	switch {
	case (c.File == "") == (c.Text == ""):
		return nil, &config.Error{Problem: "there is nothing to send, or two things", Cure: "give a message or --file"}
	case c.File != "":
		b, err := readInput(t, c.File)
		if err != nil {
			return nil, err
		}
		return rawEvents(c.File, b)
	case c.Text == "-":
		b, err := readInput(t, "-")
		if err != nil {
			return nil, err
		}
		c.Text = string(b)
	}
	raw, err := message(c.Text)
	return []json.RawMessage{raw}, err
}

type sessionsEvents struct {
	remote
	ID    string   `arg:"" help:"The session."`
	Types []string `help:"Only events of this type; may be repeated." name:"type" placeholder:"TYPE"`
	Order string   `help:"By place in the log: asc or desc." enum:"asc,desc" default:"asc"`
	Limit int      `help:"How many to print at most; 0 prints all." default:"0"`
}

func (c *sessionsEvents) Run(t *term) error {
	return call(t, c.remote, func(ctx context.Context, cl *client.Client) error {
		out := bufio.NewWriter(t.out)
		defer out.Flush()
		show := jsonLines(out)
		if !c.JSON {
			tr := newTranscript(out, t.colours())
			tr.session = c.ID
			show = tr.show
		}
		q := client.EventQuery{Order: c.Order, Types: c.Types}
		for n := 0; ; {
			if q.Limit = 1000; c.Limit > 0 {
				q.Limit = min(1000, c.Limit-n)
			}
			p, err := cl.Events(ctx, c.ID, q)
			if err != nil {
				return err
			}
			for _, e := range p.Data {
				show(e)
			}
			n += len(p.Data)
			if p.NextPage == nil || *p.NextPage == "" || *p.NextPage == q.Page || c.Limit > 0 && n >= c.Limit {
				return nil
			}
			q.Page = *p.NextPage
		}
	})
}

// jsonLines prints an event on each line.
func jsonLines(w io.Writer) func(api.Event) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return func(e api.Event) { enc.Encode(e) } // a broken pipe ends the program by SIGPIPE
}

type sessionsStream struct {
	remote
	ID        string `arg:"" help:"The session."`
	UntilIdle bool   `help:"End when a turn ends."`
}

func (c *sessionsStream) Run(t *term) error {
	return call(t, c.remote, func(ctx context.Context, cl *client.Client) error {
		return follow(ctx, t, cl, c.remote, c.ID, c.UntilIdle, nil)
	})
}

// follow prints a session's events from now on. It ends with the session, with
// the first signal or, when untilIdle, with the turn.
func follow(ctx context.Context, t *term, cl *client.Client, r remote, id string, untilIdle bool, begin func() error) error {
	show := jsonLines(t.out)
	tr := newTranscript(t.out, t.colours())
	tr.session = id
	if !r.JSON {
		show = tr.show
	}
	err := app.Follow(ctx, cl, id, begin, func(e api.Event) bool {
		show(e)
		idle, ok := e.(*api.SessionStatusIdle)
		return ok && untilIdle && idle.StopReason.Type != api.StopRequiresAction
	})
	tr.endLine()
	if tr.Stop == "terminated" || tr.Stop == "deleted" {
		tr.block()
		tr.line(yellow, "the session is "+tr.Stop)
	}
	if ctx.Err() != nil {
		return nil // whoever stops a stream has seen enough
	}
	return err
}

type sessionsConfirm struct {
	remote
	ID   string `arg:"" help:"The session."`
	Call string `arg:"" help:"The call that asks."`
	Deny string `help:"Deny it, with this word to the model; without the flag the call is allowed." placeholder:"WHY"`
}

func (c *sessionsConfirm) Run(t *term) error {
	e := &api.UserToolConfirmation{EventHead: api.EventHead{Type: api.TypeUserToolConfirmation}, ToolUseID: c.Call, Result: "allow"}
	if strings.TrimSpace(c.Deny) != "" {
		e.Result, e.DenyMessage = "deny", &c.Deny
	}
	return sendOne(t, c.remote, c.ID, e)
}

type sessionsInterrupt struct {
	remote
	ID string `arg:"" help:"The session."`
}

func (c *sessionsInterrupt) Run(t *term) error {
	return sendOne(t, c.remote, c.ID, &api.UserInterrupt{EventHead: api.EventHead{Type: api.TypeUserInterrupt}})
}

func sendOne(t *term, r remote, session string, e api.Event) error {
	return call(t, r, func(ctx context.Context, cl *client.Client) error {
		sent, err := cl.Send(ctx, session, e)
		if err != nil {
			return err
		}
		if r.JSON {
			return t.json(api.SentEvents{Data: sent})
		}
		for _, e := range sent {
			fmt.Fprintln(t.out, e.Head().ID, e.Head().Type)
		}
		return nil
	})
}

type sessionsArchive struct {
	remote
	ID string `arg:"" help:"The session."`
}

func (c *sessionsArchive) Run(t *term) error {
	return answer(t, c.remote, sessionLines, func(ctx context.Context, cl *client.Client) (*api.Session, error) {
		return cl.ArchiveSession(ctx, c.ID)
	})
}

type sessionsDelete struct {
	remote
	ID string `arg:"" help:"The session."`
}

func (c *sessionsDelete) Run(t *term) error {
	return ended(t, c.remote, c.ID, "session_deleted", (*client.Client).DeleteSession)
}
