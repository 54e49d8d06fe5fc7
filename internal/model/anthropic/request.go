package anthropic

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	sdk "github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/packages/param"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/model"
)

// wire is a message as it is sent. Blocks are kept as raw JSON, so that what
// the provider wrote goes back to it unchanged.
type wire struct {
	Role    string            `json:"role"`
	Content []json.RawMessage `json:"content"`
}

type toolResult struct {
	Type      string      `json:"type"`
	ToolUseID string      `json:"tool_use_id"`
	Content   []api.Block `json:"content"`
	IsError   bool        `json:"is_error,omitempty"`
}

var breakpoint = json.RawMessage(`{"type":"ephemeral"}`)

// params is the request on the wire. Cache breakpoints stand at the end of the
// tools, of the system prompt, and of the last two things the user said, so
// that each request finds the one before it in the cache.
func (m *Model) params(r model.Request) (sdk.MessageNewParams, error) {
	p := sdk.MessageNewParams{Model: sdk.Model(r.Model.ID), MaxTokens: m.cfg.MaxTokens}
	if !blank(r.System) {
		p.System = []sdk.TextBlockParam{{Text: r.System, CacheControl: sdk.NewCacheControlEphemeralParam()}}
	}
	for i, t := range r.Tools {
		tool := map[string]any{"name": t.Name, "description": t.Description, "input_schema": t.Schema}
		if i == len(r.Tools)-1 {
			tool["cache_control"] = breakpoint
		}
		raw, err := json.Marshal(tool)
		if err != nil {
			return p, unsendable(fmt.Errorf("tool %s: %w", t.Name, err))
		}
		tp := param.Override[sdk.ToolParam](json.RawMessage(raw))
		p.Tools = append(p.Tools, sdk.ToolUnionParam{OfTool: &tp})
	}
	// high is what the provider does by itself; models without effort refuse
	// the field, so it is sent when it says something.
	if e := r.Model.Effort.Type; e != "" && e != "high" {
		p.OutputConfig.Effort = sdk.OutputConfigEffort(e)
	}
	if r.Model.Speed != "" && r.Model.Speed != "standard" {
		p.Speed = sdk.MessageNewParamsSpeed(r.Model.Speed)
	}
	if r.Model.InferenceGeo != "" {
		p.InferenceGeo = param.NewOpt(r.Model.InferenceGeo)
	}
	if adaptive(r.Model.ID) {
		p.Thinking = sdk.ThinkingConfigParamUnion{OfAdaptive: &sdk.ThinkingConfigAdaptiveParam{}}
	}
	messages, err := conversation(r.Messages)
	if err != nil {
		return p, unsendable(err)
	}
	for _, w := range messages {
		raw, err := json.Marshal(w)
		if err != nil {
			return p, unsendable(err)
		}
		p.Messages = append(p.Messages, param.Override[sdk.MessageParam](json.RawMessage(raw)))
	}
	return p, nil
}

func unsendable(err error) error {
	return &model.Error{Kind: model.RequestFailed, Message: "the session's history cannot be sent to the provider", Err: err}
}

// conversation turns a history into messages, neighbours of one role joined.
func conversation(history []model.Message) ([]wire, error) {
	var out []wire
	add := func(role string, blocks ...json.RawMessage) {
		if len(blocks) == 0 {
			return
		}
		if n := len(out); n > 0 && out[n-1].Role == role {
			out[n-1].Content = append(out[n-1].Content, blocks...)
			return
		}
		out = append(out, wire{role, blocks})
	}
	ids := map[string]string{} // the session's call ids to the provider's
	for _, msg := range history {
		if msg.Role == model.Assistant {
			blocks, err := replay(msg, ids)
			if err != nil {
				return nil, err
			}
			add("assistant", blocks...)
			continue
		}
		var blocks []json.RawMessage
		for _, res := range msg.Results {
			raw, err := json.Marshal(toolResult{Type: "tool_result", ToolUseID: providerID(ids, res.CallID), Content: legible(res.Content), IsError: res.IsError})
			if err != nil {
				return nil, err
			}
			blocks = append(blocks, raw)
		}
		for _, b := range legible(msg.Content) {
			if b.Type == "redacted" {
				b = api.Text("[redacted]")
			}
			raw, err := json.Marshal(b)
			if err != nil {
				return nil, err
			}
			blocks = append(blocks, raw)
		}
		add("user", blocks...)
	}
	marked := 0
	for i := len(out) - 1; i >= 0 && marked < 2; i-- {
		if out[i].Role != "user" {
			continue
		}
		last := len(out[i].Content) - 1
		raw, err := mark(out[i].Content[last])
		if err != nil {
			return nil, err
		}
		out[i].Content[last] = raw
		marked++
	}
	return out, nil
}

// blank is a text of white space only, which the provider refuses.
func blank(s string) bool { return strings.TrimSpace(s) == "" }

// legible is content as it can be sent: a blank text says that it is one.
func legible(content []api.Block) []api.Block {
	out := slices.Clone(content)
	for i, b := range out {
		if b.Type == "text" && blank(b.Text) {
			b = api.Text("(blank)")
		}
		b.Content = legible(b.Content)
		out[i] = b
	}
	return out
}

// mark sets a cache breakpoint on a block.
func mark(block json.RawMessage) (json.RawMessage, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(block, &members); err != nil {
		return nil, err
	}
	members["cache_control"] = breakpoint
	return json.Marshal(members)
}

// replay gives an earlier answer back as it was and learns which of its ids
// belongs to which call.
func replay(msg model.Message, ids map[string]string) ([]json.RawMessage, error) {
	if msg.Provider == model.ProviderBlocks {
		return rewrite(msg)
	}
	var blocks []json.RawMessage
	if err := json.Unmarshal(msg.Raw, &blocks); err != nil {
		return nil, fmt.Errorf("an earlier answer: %w", err)
	}
	kept, call := blocks[:0], 0
	for _, raw := range blocks {
		var b struct {
			Type string  `json:"type"`
			ID   string  `json:"id"`
			Text *string `json:"text"`
		}
		if err := json.Unmarshal(raw, &b); err != nil {
			return nil, fmt.Errorf("an earlier answer: %w", err)
		}
		if b.Type == "text" && b.Text != nil && blank(*b.Text) {
			continue // written, but not taken back
		}
		if b.Type == "tool_use" {
			if call < len(msg.CallIDs) {
				ids[msg.CallIDs[call]] = b.ID
			}
			call++
		}
		kept = append(kept, raw)
	}
	return kept, nil
}

// rewrite puts another model's answer into this provider's form. Thinking
// cannot be carried over.
func rewrite(msg model.Message) ([]json.RawMessage, error) {
	var blocks []model.Block
	if err := json.Unmarshal(msg.Raw, &blocks); err != nil {
		return nil, fmt.Errorf("an earlier answer: %w", err)
	}
	var out []json.RawMessage
	call := 0
	for _, b := range blocks {
		var block any
		switch {
		case b.Kind == model.Text && !blank(b.Text):
			block = api.Text(b.Text)
		case b.Kind == model.ToolUse && call < len(msg.CallIDs):
			block = map[string]any{"type": "tool_use", "id": msg.CallIDs[call], "name": b.Name, "input": b.Input}
			call++
		default:
			continue
		}
		raw, err := json.Marshal(block)
		if err != nil {
			return nil, err
		}
		out = append(out, raw)
	}
	return out, nil
}

func providerID(ids map[string]string, call string) string {
	if id := ids[call]; id != "" {
		return id
	}
	return call
}
