package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/berthdev/berth/api"
)

// How much of a text is shown before it is folded.
const (
	foldPrompt  = 6
	foldCommand = 12
	foldResult  = 8
	foldColumns = 160
)

// transcript writes a session's events as people like to read them: text as
// it is streamed, each call with its command and a folded result. One
// goroutine uses it.
type transcript struct {
	w       io.Writer
	colour  bool
	session string // whose log it is, where that is known from the start

	streaming string            // id of the message whose text is being streamed
	streamed  map[string]string // what has been written of each message's text
	midLine   bool              // the cursor is not at a line's start
	calls     []*openCall       // calls without a result, in order
	shown     *openCall         // the call whose result is awaited on the screen
	thinking  bool              // the last line says so
	gap       bool              // an empty line is due before the next block

	// Requests counts model requests, Usage their tokens, Stop is the last
	// idle's reason and Problem the last error.
	Requests int
	Usage    api.ModelUsage
	Stop     string
	Problem  string
	Waits    []string // ids that the last idle waits for
}

// openCall is a call without a result. Of several calls asked for at once the
// first is shown, and the next when it has its result; one whose result comes
// after another's is shown again then.
type openCall struct {
	id, head, rest, remark string
	at                     time.Time
	seen                   bool
}

func newTranscript(w io.Writer, colour bool) *transcript {
	return &transcript{w: w, colour: colour, streamed: map[string]string{}}
}

// Colours of a terminal.
const (
	plain  = ""
	bold   = "\x1b[1m"
	dim    = "\x1b[2m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	cyan   = "\x1b[36m"
	reset  = "\x1b[0m"
)

func (t *transcript) paint(colour, s string) string {
	if !t.colour || colour == plain || s == "" {
		return s
	}
	return colour + s + reset
}

// line ends the line that is being streamed and writes one of its own.
func (t *transcript) line(colour, s string) {
	t.endLine()
	fmt.Fprintln(t.w, t.paint(colour, s))
}

func (t *transcript) endLine() {
	if t.midLine {
		fmt.Fprintln(t.w)
		t.midLine = false
	}
}

// block leaves an empty line before the next thing.
func (t *transcript) block() {
	t.endLine()
	if t.gap {
		fmt.Fprintln(t.w)
	}
	t.gap = true
}

// show writes what an event adds to the transcript; many add nothing.
func (t *transcript) show(e api.Event) {
	t.said(e)
	t.called(e)
	t.stands(e)
}

// said shows what the user, the model and the session say.
func (t *transcript) said(e api.Event) {
	switch e := e.(type) {
	case *api.UserMessage:
		if e.ProcessedAt == nil {
			return // it comes again when its turn begins
		}
		t.block()
		t.folded(dim, "> ", "  ", strings.TrimSpace(blockText(e.Content)), foldPrompt)
	case *api.UserInterrupt:
		if e.ProcessedAt != nil {
			t.block()
			t.line(yellow, "interrupted")
			t.calls, t.shown = nil, nil // their results will not come
		}
	case *api.EventStart:
		t.start(e.Event)
	case *api.EventDelta:
		t.delta(e)
	case *api.AgentThinking:
		if !t.thinking {
			t.block()
			t.line(dim, "(thinking)")
		}
		t.thinking = false
	case *api.AgentMessage:
		t.message(e)
	case *api.SessionError:
		t.Problem = e.Error.Message
		t.block()
		t.line(red, "error: "+printable(e.Error.Message)+retrying(e))
	}
}

// called shows calls, what people decide of them, and their results.
func (t *transcript) called(e api.Event) {
	switch e := e.(type) {
	case *api.AgentToolUse:
		t.call(e.ID, e.Name, e.Input, e.ProcessedAt, t.remark(e))
	case *api.AgentCustomToolUse:
		t.call(e.ID, e.Name, e.Input, e.ProcessedAt, "")
	case *api.AgentMCPToolUse:
		t.call(e.ID, e.MCPServerName+" "+e.Name, e.Input, e.ProcessedAt, "")
	case *api.UserToolConfirmation:
		if e.ProcessedAt != nil {
			t.line(dim, "  "+e.Result)
		}
	case *api.UserToolResult:
		t.result(e.ToolUseID, e.Content, e.IsError, e.ProcessedAt)
	case *api.UserCustomToolResult:
		t.result(e.CustomToolUseID, e.Content, e.IsError, e.ProcessedAt)
	case *api.AgentToolResult:
		t.result(e.ToolUseID, e.Content, e.IsError, e.ProcessedAt)
	case *api.AgentMCPToolResult:
		t.result(e.MCPToolUseID, e.Content, e.IsError, e.ProcessedAt)
	}
}

// remark is what stands below a call that does not simply run.
func (t *transcript) remark(e *api.AgentToolUse) string {
	switch {
	case e.EvaluatedPermission == api.PermissionDeny:
		return "refused" // its result says why
	case e.EvaluatedPermission != api.PermissionAsk:
		return ""
	case t.session == "":
		return "waits for a confirmation"
	}
	return "waits for a confirmation: berth sessions confirm " + t.session + " " + e.ID
}

// stands takes in how the session stands, and shows which calls it waits for.
func (t *transcript) stands(e api.Event) {
	switch e := e.(type) {
	case *api.SpanModelRequestEnd:
		t.Requests++
		t.Usage.InputTokens += e.ModelUsage.InputTokens
		t.Usage.OutputTokens += e.ModelUsage.OutputTokens
		t.Usage.CacheReadInputTokens += e.ModelUsage.CacheReadInputTokens
		t.Usage.CacheCreationInputTokens += e.ModelUsage.CacheCreationInputTokens
		if e.IsError {
			t.dropPreview()
		}
	case *api.SessionStatusRunning:
		t.Stop, t.Waits = "", nil
	case *api.SessionStatusIdle:
		t.Stop, t.Waits = e.StopReason.Type, e.StopReason.EventIDs
		for _, c := range t.calls {
			if c.remark != "" && slices.Contains(t.Waits, c.id) {
				t.showCall(c)
			}
		}
	case *api.SessionStatusTerminated:
		t.Stop = "terminated"
	case *api.SessionDeleted:
		t.Stop = "deleted"
	}
}

func retrying(e *api.SessionError) string {
	if e.Error.RetryStatus.Type == "retrying" {
		return " (trying again)"
	}
	return ""
}

func (t *transcript) start(p api.EventPreview) {
	switch p.Type {
	case api.TypeAgentThinking:
		t.block()
		t.line(dim, "(thinking)")
		t.thinking = true
	case api.TypeAgentMessage:
		t.block()
		t.streaming = p.ID
		t.streamed[p.ID] = ""
	}
}

func (t *transcript) delta(e *api.EventDelta) {
	if e.EventID != t.streaming || e.Delta.Content.Text == "" {
		return
	}
	t.write(e.EventID, e.Delta.Content.Text)
}

// write streams a piece of a message.
func (t *transcript) write(id, s string) {
	t.streamed[id] += s
	s = cleanText(s)
	if s == "" {
		return
	}
	fmt.Fprint(t.w, s)
	t.midLine = !strings.HasSuffix(s, "\n")
}

// message writes what the stream has not yet shown of a message.
func (t *transcript) message(e *api.AgentMessage) {
	full := blockText(e.Content)
	shown, previewed := t.streamed[e.ID]
	delete(t.streamed, e.ID)
	t.streaming = ""
	if previewed && strings.HasPrefix(full, shown) {
		full = full[len(shown):]
	} else {
		t.block()
	}
	if full != "" {
		s := cleanText(full)
		fmt.Fprint(t.w, s)
		t.midLine = !strings.HasSuffix(s, "\n")
	}
	t.endLine()
}

// dropPreview says that what was streamed will not come to an end.
func (t *transcript) dropPreview() {
	if t.streaming == "" {
		return
	}
	if t.streamed[t.streaming] != "" {
		t.line(dim, " […]")
	}
	delete(t.streamed, t.streaming)
	t.streaming = ""
}

func (t *transcript) call(id, name string, input json.RawMessage, at *time.Time, remark string) {
	c := &openCall{id: id, remark: remark}
	c.head, c.rest = describe(name, input)
	if at != nil {
		c.at = *at
	}
	t.calls = append(t.calls, c)
	if t.shown == nil {
		t.showCall(c)
	}
}

// showCall writes a call, so that its result can follow.
func (t *transcript) showCall(c *openCall) {
	t.shown = c
	t.block()
	t.folded(bold, c.head, strings.Repeat(" ", len(c.head)), c.rest, foldCommand)
	if c.remark != "" {
		t.line(yellow, "  "+c.remark)
		c.remark = "" // once is enough
	}
	c.seen = true
}

// describe gives a call's first word and what it is about.
func describe(name string, input json.RawMessage) (head, rest string) {
	var in struct {
		Command string `json:"command"`
		Restart bool   `json:"restart"`
		Path    string `json:"file_path"`
		Plain   string `json:"path"`
		Pattern string `json:"pattern"`
		Content string `json:"content"`
	}
	if json.Unmarshal(input, &in) != nil {
		return name + " ", string(input)
	}
	if in.Path == "" {
		in.Path = in.Plain
	}
	switch name {
	case "bash":
		if in.Command == "" && in.Restart {
			return "$ ", "(restart the shell)"
		}
		return "$ ", strings.TrimRight(in.Command, "\n")
	case "write":
		return "write ", fmt.Sprintf("%s (%s)", in.Path, size(int64(len(in.Content))))
	case "read", "edit":
		return name + " ", in.Path
	case "glob", "grep":
		if in.Path != "" {
			in.Pattern += " in " + in.Path
		}
		return name + " ", in.Pattern
	}
	return name + " ", string(input)
}

func (t *transcript) result(id string, content []api.Block, isError *bool, at *time.Time) {
	i := slices.IndexFunc(t.calls, func(c *openCall) bool { return c.id == id })
	if i < 0 {
		return // of a call from before this transcript
	}
	c := t.calls[i]
	t.calls = slices.Delete(t.calls, i, i+1)
	if t.shown != c {
		t.showCall(c)
	}
	colour := plain
	if isError != nil && *isError {
		colour = red
	}
	t.folded(colour, "    ", "    ", strings.TrimRight(blockText(content), "\n"), foldResult)
	if at != nil && !c.at.IsZero() {
		if d := at.Sub(c.at); d >= time.Second {
			t.line(dim, "    ("+duration(d)+")")
		}
	}
	t.shown = nil
	if i := slices.IndexFunc(t.calls, func(c *openCall) bool { return !c.seen }); i >= 0 {
		t.showCall(t.calls[i])
	}
}

// folded writes a text's first lines and how many more there are.
func (t *transcript) folded(colour, first, indent, s string, most int) {
	lines := strings.Split(cleanText(s), "\n")
	more := 0
	if len(lines) > most+1 {
		more = len(lines) - most
		lines = lines[:most]
	}
	for i, l := range lines {
		if r := []rune(l); len(r) > foldColumns {
			l = fmt.Sprintf("%s… %d more characters", string(r[:foldColumns]), len(r)-foldColumns)
		}
		if i == 0 {
			t.line(colour, first+l)
		} else {
			t.line(colour, indent+l)
		}
	}
	if more > 0 {
		t.line(dim, fmt.Sprintf("%s… %d more lines", indent, more))
	}
}

// summary writes how the session stands.
func (t *transcript) summary(took time.Duration) {
	t.block()
	colour := dim
	if t.Stop != "end_turn" {
		colour = yellow
	}
	reason := t.Stop
	if reason == "" {
		reason = "not finished"
	}
	in := t.Usage.InputTokens + t.Usage.CacheReadInputTokens + t.Usage.CacheCreationInputTokens
	s := fmt.Sprintf("%s after %s: %s, %s tokens in, %s out", reason, duration(took), count(t.Requests, "model request"), thousands(in), thousands(t.Usage.OutputTokens))
	if t.Usage.CacheReadInputTokens > 0 {
		s += fmt.Sprintf(" (%s from cache)", thousands(t.Usage.CacheReadInputTokens))
	}
	t.line(colour, s)
}

// blockText is the readable part of a content.
func blockText(blocks []api.Block) string {
	parts := make([]string, 0, len(blocks))
	for _, b := range blocks {
		switch b.Type {
		case "text":
			parts = append(parts, b.Text)
		default:
			parts = append(parts, "["+b.Type+"]")
		}
	}
	return strings.Join(parts, "\n")
}

// cleanText is printable, with line breaks kept.
func cleanText(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\n' || r >= 0x7f && r < 0xa0 }) {
		return s
	}
	lines := strings.Split(strings.ReplaceAll(s, "\r\n", "\n"), "\n")
	for i := range lines {
		lines[i] = printable(lines[i])
	}
	return strings.Join(lines, "\n")
}

func duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	}
	return fmt.Sprintf("%d min %02d s", int(d.Minutes()), int(d.Seconds())%60)
}

func size(n int64) string {
	switch {
	case n < 1000:
		return count(int(n), "byte")
	case n < 1e6:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
