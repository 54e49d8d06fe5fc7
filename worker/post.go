package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
)

const (
	postTimeout = 15 * time.Second // of one try
	postMin     = time.Second      // between tries, doubling
	postMax     = 30 * time.Second
	postWindow  = 5 * time.Minute // where no lease says how long
)

// noOutput stands where a tool had nothing to say: the API refuses an empty
// text.
const noOutput = "(no output)"

// resultEvent is a call's answer as it is posted.
func resultEvent(c Call, content []api.Block, isError bool) (json.RawMessage, error) {
	r := struct {
		Type            string      `json:"type"`
		ToolUseID       string      `json:"tool_use_id,omitempty"`
		CustomToolUseID string      `json:"custom_tool_use_id,omitempty"`
		Content         []api.Block `json:"content"`
		IsError         bool        `json:"is_error"`
	}{Type: api.TypeUserToolResult, ToolUseID: c.ID, Content: filled(content), IsError: isError}
	if c.Custom {
		r.Type, r.ToolUseID, r.CustomToolUseID = api.TypeUserCustomToolResult, "", c.ID
	}
	return json.Marshal(r)
}

// filled is content without empty texts and with at least one block.
func filled(content []api.Block) []api.Block {
	var out []api.Block
	for _, b := range content {
		if b.Type != "text" || b.Text != "" {
			out = append(out, b)
		}
	}
	if len(out) == 0 {
		out = []api.Block{api.Text(noOutput)}
	}
	return out
}

// poster posts results until they are accepted, refused for good, or window
// has passed.
type poster struct {
	client  *client.Client // tries once
	session string
	window  func() time.Duration // the lease's TTL, 0 if unknown
	log     *slog.Logger
}

// post sends one result. echoed, when it closes, says that the result stands
// in the session's log.
func (p *poster) post(ctx context.Context, result json.RawMessage, echoed <-chan struct{}) (CallOutcome, error) {
	began := time.Now()
	for pause := postMin; ; pause = min(pause*2, postMax) {
		try, cancel := context.WithTimeout(ctx, postTimeout)
		err := p.client.Append(try, p.session, result)
		cancel()
		switch {
		case err == nil:
			return CallAnswered, nil
		case ctx.Err() != nil:
			return CallInterrupted, context.Cause(ctx)
		case !temporary(err):
			return CallRefused, err
		}
		window := postWindow
		if w := p.window(); w > 0 {
			window = w
		}
		if time.Since(began) >= window {
			return CallUnsent, err
		}
		p.log.Warn("a result could not be posted; trying again", "error", err)
		t := time.NewTimer(pauseAfter(err, jitter(pause)))
		select {
		case <-t.C:
		case <-echoed:
			t.Stop()
			return CallAnswered, nil
		case <-ctx.Done():
			t.Stop()
			return CallInterrupted, context.Cause(ctx)
		}
	}
}

// pauseAfter is d, or what the answer asks for when that is longer.
func pauseAfter(err error, d time.Duration) time.Duration {
	if e, ok := errors.AsType[*client.Error](err); ok {
		return max(d, min(e.RetryAfter, errorPauseMax))
	}
	return d
}

// replaceable says whether the refusal is about what the result holds, so
// that a plain one may pass: it is too large, or it holds more than text.
func replaceable(err error, result json.RawMessage) bool {
	switch client.StatusOf(err) {
	case http.StatusRequestEntityTooLarge:
		return true
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
	default:
		return false
	}
	var r struct {
		Content []api.Block `json:"content"`
	}
	if json.Unmarshal(result, &r) != nil {
		return false
	}
	for _, b := range r.Content {
		if b.Type != "text" {
			return true
		}
	}
	return false
}

// replacement says in a result's place that it was refused.
func replacement(c Call, refusal error, size int) (json.RawMessage, error) {
	why := "refused by the control plane"
	if client.StatusOf(refusal) == http.StatusRequestEntityTooLarge {
		why = fmt.Sprintf("too large for the control plane (%d bytes)", size)
	} else if e, ok := errors.AsType[*client.Error](refusal); ok {
		why += ": " + e.Message
	}
	return resultEvent(c, []api.Block{api.Text("The call ran, but its result was " + why + ".")}, true)
}
