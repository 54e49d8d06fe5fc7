// Package scripted is the model that plays a part written as JSON in the
// conversation itself. It needs no network and is honest about its name: the
// demo, the tests and a server without a provider's key use it.
package scripted

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/model"
)

// ID is the model id that plays the scripts of a conversation.
const ID = "scripted"

// Info describes the model for the list of models.
func Info() api.Model {
	return api.Model{ID: ID, DisplayName: "Scripted (plays the script in the message)", MaxInputTokens: 10_000_000, MaxTokens: 1_000_000}
}

// Config says what to play. The zero value plays the script blocks of the
// conversation.
type Config struct {
	// Script, when there, is played in every session whose messages hold no
	// script of their own.
	Script *Script
	// Wait pauses for delay_ms and returns early with ctx's error; nil waits
	// by the clock.
	Wait func(ctx context.Context, d time.Duration) error
}

// New makes the model.
func New(c Config) *Model {
	if c.Wait == nil {
		c.Wait = wait
	}
	return &Model{cfg: c}
}

// Model plays scripts. Safe for concurrent use.
type Model struct{ cfg Config }

var _ model.Model = (*Model)(nil)

// asItIs keeps the mark that howTo explains.
var asItIs = []string{"{{result 0}}"}

// howTo answers a message that has no script.
const howTo = "I am the scripted model: I play a part instead of thinking one up. Put a fenced script block into your message, like this:\n\n" +
	"```script\n{\"turns\": [\n  {\"text\": \"Let me look.\", \"tools\": [{\"name\": \"bash\", \"input\": {\"command\": \"ls\"}}]},\n  {\"text\": \"I found: {{result 0}}\"}\n]}\n```\n\n" +
	"Each model request plays the next turn. Configure a provider's key and name another model to talk to a real one."

var failures = map[string]model.ErrorKind{
	"overloaded":      model.Overloaded,
	"rate_limit":      model.RateLimited,
	"api":             model.Unavailable,
	"invalid_request": model.RequestFailed,
	"billing":         model.Billing,
	"authentication":  model.Credential,
	"refusal":         "", // no failure, but an answer of its own kind
}

// Stream plays the turn that the history says comes next: as many turns as
// there are answers since the newest message with a script are over. The
// history alone decides, so a restarted server goes on where it was.
func (m *Model) Stream(ctx context.Context, r model.Request, to model.Sink) (model.Response, error) {
	turn, results, err := m.next(r.Messages)
	if err != nil {
		return model.Response{}, &model.Error{Kind: model.RequestFailed, Message: "the script cannot be played: " + err.Error()}
	}
	if turn.DelayMS > 0 {
		if err := m.cfg.Wait(ctx, time.Duration(turn.DelayMS)*time.Millisecond); err != nil {
			return model.Response{}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return model.Response{}, err
	}
	var fail *Error
	if e := turn.Error; e != nil && (e.Times < 0 || r.Attempt < max(e.Times, 1)) {
		fail = e
	}
	refuse := fail != nil && fail.Type == "refusal"
	if fail != nil && !refuse && fail.When != "amid" {
		return model.Response{}, failure(fail, false)
	}

	resp := model.Response{Provider: model.ProviderBlocks, Stop: model.StopEnd}
	if u := turn.Usage; u != nil {
		resp.Usage = model.Usage{Input: u.InputTokens, Output: u.OutputTokens, CacheRead: u.CacheReadInputTokens, CacheCreation5m: u.CacheCreationInputTokens}
	}
	if turn.Thinking != "" {
		to.Start(len(resp.Blocks), model.Thinking)
		resp.Blocks = append(resp.Blocks, model.Block{Kind: model.Thinking, Text: turn.Thinking})
	}
	if turn.Text != "" {
		text := fill(turn.Text, results)
		to.Start(len(resp.Blocks), model.Text)
		for i, piece := range pieces(text) {
			if err := ctx.Err(); err != nil {
				return model.Response{}, err
			}
			if fail != nil && !refuse && i > 0 {
				return model.Response{}, failure(fail, true)
			}
			to.Delta(len(resp.Blocks), piece)
		}
		resp.Blocks = append(resp.Blocks, model.Block{Kind: model.Text, Text: text})
	}
	if fail != nil && !refuse {
		return model.Response{}, failure(fail, true)
	}
	if refuse {
		resp.Stop = model.StopRefusal
		resp.Refusal = &api.StopDetails{Type: "refusal"}
		if fail.Message != "" {
			resp.Refusal.Explanation = &fail.Message
		}
		return withRaw(resp)
	}
	for _, t := range turn.Tools {
		to.Start(len(resp.Blocks), model.ToolUse)
		resp.Blocks = append(resp.Blocks, model.Block{Kind: model.ToolUse, Name: t.Name, Input: json.RawMessage(t.Input)})
		resp.Stop = model.StopTools
	}
	return withRaw(resp)
}

func withRaw(resp model.Response) (model.Response, error) {
	raw, err := json.Marshal(resp.Blocks)
	if err != nil {
		return model.Response{}, &model.Error{Kind: model.RequestFailed, Message: "the script's answer cannot be written down", Err: err}
	}
	resp.Raw = raw
	return resp, nil
}

func failure(e *Error, amid bool) error {
	msg := e.Message
	if msg == "" {
		msg = "the script says " + e.Type
	}
	return &model.Error{
		Kind:       failures[strings.TrimSuffix(e.Type, "_error")],
		Message:    msg,
		Amid:       amid,
		RetryAfter: time.Duration(e.RetryAfterMS) * time.Millisecond,
	}
}

// next finds the turn to play and the texts of the results it may quote.
func (m *Model) next(history []model.Message) (Turn, []string, error) {
	var script *Script
	played, asked := 0, false
	var results []string
	for i := len(history) - 1; i >= 0 && script == nil; i-- {
		msg := history[i]
		if msg.Role == model.Assistant {
			played++
			continue
		}
		if played == 0 {
			asked = asked || len(msg.Content) > 0
			for _, r := range msg.Results {
				results = append(results, text(r.Content))
			}
		}
		for _, b := range msg.Content {
			if b.Type != "text" {
				continue
			}
			if body, ok := Find(b.Text); ok {
				s, err := Parse([]byte(body))
				if err != nil {
					return Turn{}, nil, err
				}
				script = s
				break
			}
		}
	}
	if script == nil {
		script = m.cfg.Script
	}
	switch {
	case script == nil:
		return Turn{Text: howTo}, asItIs, nil
	case played < len(script.Turns):
		return script.Turns[played], results, nil
	case asked:
		return Turn{Text: "The script has been played to its end. " + howTo}, asItIs, nil
	}
	return Turn{}, nil, nil
}

// fill puts result texts where the turn asks for them.
func fill(s string, results []string) string {
	return resultMark.ReplaceAllStringFunc(s, func(mark string) string {
		n, _ := strconv.Atoi(resultMark.FindStringSubmatch(mark)[1])
		if n >= len(results) {
			return ""
		}
		return strings.TrimRight(results[n], "\n")
	})
}

func text(blocks []api.Block) string {
	var b strings.Builder
	for _, block := range blocks {
		if block.Type == "text" {
			b.WriteString(block.Text)
		}
	}
	return b.String()
}

// pieces cuts a text at character borders as a provider would stream it:
// about 30 bytes each, in at most 200 pieces.
func pieces(s string) []string {
	size := max(30, len(s)/200+1)
	var out []string
	for s != "" {
		end := min(size, len(s))
		for end < len(s) && !utf8.RuneStart(s[end]) {
			end++
		}
		out = append(out, s[:end])
		s = s[end:]
	}
	return out
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
