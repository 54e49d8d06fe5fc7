package anthropic

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"

	sdk "github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/model"
)

// answer gathers one streamed answer.
type answer struct {
	to      model.Sink
	message sdk.Message
	began   bool
	place   map[int64]int // our index of a provider's block; blocks we do not know have none
	count   int
	cut     map[int64]bool // tool uses whose input did not arrive whole
}

// take adds an event of the stream; done says that it was the last.
func (a *answer) take(e sdk.MessageStreamEventUnion) (done bool, err error) {
	if e.Type == "content_block_stop" && e.Index >= 0 && e.Index < int64(len(a.message.Content)) {
		// Before the SDK tidies it up.
		if b := a.message.Content[e.Index]; b.Type == "tool_use" && !whole(b.Input) {
			a.cutOff(e.Index)
		}
	}
	if e.Type == "message_stop" {
		for i, b := range a.message.Content {
			if b.Type == "tool_use" && !whole(b.Input) {
				a.cutOff(int64(i))
			}
		}
	}
	if err := a.message.Accumulate(e); err != nil {
		return false, err
	}
	switch e.Type {
	case "message_start":
		a.began = true
	case "content_block_start":
		kind, known := kinds[e.ContentBlock.Type]
		if !known {
			break
		}
		if a.place == nil {
			a.place = map[int64]int{}
		}
		a.place[e.Index] = a.count
		a.to.Start(a.count, kind)
		a.count++
		if kind == model.Text && e.ContentBlock.Text != "" {
			a.to.Delta(a.place[e.Index], e.ContentBlock.Text)
		}
	case "content_block_delta":
		if place, known := a.place[e.Index]; known && e.Delta.Type == "text_delta" {
			a.to.Delta(place, e.Delta.Text)
		}
	case "message_stop":
		return true, nil
	}
	return false, nil
}

func (a *answer) cutOff(index int64) {
	if a.cut == nil {
		a.cut = map[int64]bool{}
	}
	a.cut[index] = true
}

var kinds = map[string]model.BlockKind{
	"text": model.Text, "thinking": model.Thinking, "redacted_thinking": model.Thinking, "tool_use": model.ToolUse,
}

// whole says that a tool input is a JSON object.
func whole(input json.RawMessage) bool {
	return len(input) == 0 || json.Valid(input) && bytes.HasPrefix(bytes.TrimSpace(input), []byte("{"))
}

// response is the whole answer. A tool use that was cut short by the limit on
// tokens is left out: nobody can run it, and the provider would not take it
// back.
func (a *answer) response() (model.Response, error) {
	resp := model.Response{Provider: Provider, Usage: a.usage(), Stop: model.StopEnd}
	raws := make([]json.RawMessage, 0, len(a.message.Content))
	for i, b := range a.message.Content {
		kind, known := kinds[b.Type]
		if kind == model.ToolUse && a.cut[int64(i)] {
			// Its place among the blocks stays, as an empty text.
			resp.Blocks = append(resp.Blocks, model.Block{Kind: model.Text})
			continue
		}
		raws = append(raws, json.RawMessage(b.RawJSON()))
		if !known {
			continue
		}
		block := model.Block{Kind: kind}
		switch kind {
		case model.Text:
			block.Text = b.Text
		case model.ToolUse:
			block.Name, block.Input = b.Name, b.Input
			if len(block.Input) == 0 {
				block.Input = json.RawMessage("{}")
			}
			resp.Stop = model.StopTools
		}
		resp.Blocks = append(resp.Blocks, block)
	}
	switch a.message.StopReason {
	case sdk.StopReasonPauseTurn:
		resp.Stop = model.StopPause
	case sdk.StopReasonRefusal:
		resp.Stop = model.StopRefusal
		resp.Refusal = &api.StopDetails{Type: "refusal"}
		if c := string(a.message.StopDetails.Category); c != "" {
			resp.Refusal.Category = &c
		}
		if e := a.message.StopDetails.Explanation; e != "" {
			resp.Refusal.Explanation = &e
		}
	}
	raw, err := json.Marshal(raws)
	if err != nil {
		return resp, &model.Error{Kind: model.Unavailable, Message: "the provider's answer is not valid JSON", Amid: true, Usage: resp.Usage, Err: err}
	}
	resp.Raw = raw
	return resp, nil
}

func (a *answer) usage() model.Usage {
	u := a.message.Usage
	out := model.Usage{
		Input: u.InputTokens, Output: u.OutputTokens, CacheRead: u.CacheReadInputTokens,
		CacheCreation5m: u.CacheCreation.Ephemeral5mInputTokens, CacheCreation1h: u.CacheCreation.Ephemeral1hInputTokens,
		Speed: string(u.Speed),
	}
	if rest := u.CacheCreationInputTokens - out.CacheCreation5m - out.CacheCreation1h; rest > 0 {
		out.CacheCreation5m += rest
	}
	return out
}

// bounded tells the sink of every byte that comes in, keep-alives included,
// and ends an answer that is too long.
func bounded(to model.Sink) option.Middleware {
	return func(req *http.Request, next option.MiddlewareNext) (*http.Response, error) {
		res, err := next(req)
		if res != nil && res.Body != nil {
			res.Body = &heard{ReadCloser: res.Body, limited: io.LimitReader(res.Body, maxAnswer), to: to}
		}
		return res, err
	}
}

type heard struct {
	io.ReadCloser
	limited io.Reader
	to      model.Sink
}

func (h *heard) Read(p []byte) (int, error) {
	n, err := h.limited.Read(p)
	if n > 0 {
		h.to.Alive()
	}
	return n, err
}
