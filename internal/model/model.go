// Package model is the contract between the session loop and whatever writes
// the agent's part: one request in, one answer streamed out. Its folders are
// the ways: anthropic calls a provider, scripted plays a written part.
package model

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/berthdev/berth/api"
)

// Model answers requests. Safe for concurrent use.
type Model interface {
	// Stream sends one request and tells to what arrives, in order and from
	// the calling goroutine. It returns the whole answer, or an *Error when
	// the provider failed, or ctx's error when ctx ended. It never retries:
	// the session loop does.
	Stream(ctx context.Context, r Request, to Sink) (Response, error)
}

// Request is everything a model needs for its next answer.
type Request struct {
	SessionID string
	Model     api.ModelConfig
	System    string
	Tools     []Tool
	Messages  []Message
	// Attempt counts the failed tries of this same request, 0 for the first.
	Attempt int
}

// Tool is a tool that the model may ask for. Schema is a JSON Schema object.
type Tool struct {
	Name        string
	Description string
	Schema      json.RawMessage
}

// Role says who a message is from.
type Role string

const (
	User      Role = "user"
	Assistant Role = "assistant"
)

// Message is one side's say. A user message holds Content (what was said) or
// Results (answers to the calls of the assistant message before it), or both:
// results come first. An assistant message is an earlier answer: Raw as
// Provider wrote it, to be sent back unchanged, and CallIDs, the session's ids
// of its tool uses in order. Raw may be an empty list: an answer that said
// nothing counts, but has nothing to send.
type Message struct {
	Role     Role
	Content  []api.Block
	Results  []Result
	Provider string
	Raw      json.RawMessage
	CallIDs  []string
}

// ProviderBlocks marks a Raw that is a JSON list of Block, which every model
// can read.
const ProviderBlocks = "blocks"

// Result answers the call with the session's id CallID.
type Result struct {
	CallID  string
	Content []api.Block
	IsError bool
}

// BlockKind is what a block of an answer is.
type BlockKind string

const (
	Thinking BlockKind = "thinking" // a sign of progress; its text is not kept
	Text     BlockKind = "text"
	ToolUse  BlockKind = "tool_use"
)

// Block is a piece of an answer. Name and Input (a JSON object) belong to
// ToolUse, Text to the others.
type Block struct {
	Kind  BlockKind       `json:"kind"`
	Text  string          `json:"text,omitempty"`
	Name  string          `json:"name,omitempty"`
	Input json.RawMessage `json:"input,omitempty"`
}

// Sink hears an answer while it is written. Calls come in order; index counts
// the answer's blocks from 0.
type Sink interface {
	// Start says that a block begins.
	Start(index int, kind BlockKind)
	// Delta adds to a Text block.
	Delta(index int, text string)
	// Alive says that the provider sent something else; it resets the limit
	// on silence.
	Alive()
}

// Response is a whole answer.
type Response struct {
	Blocks   []Block
	Provider string          // who wrote Raw
	Raw      json.RawMessage // the answer in the provider's form, to be sent back unchanged
	Usage    Usage
	Stop     Stop
	Refusal  *api.StopDetails // of StopRefusal
}

// Stop says why the model stopped.
type Stop string

const (
	StopEnd     Stop = "end"     // it has said what it had to say, or as much as it may
	StopTools   Stop = "tools"   // it waits for the results of its tool uses
	StopRefusal Stop = "refusal" // it declined
	StopPause   Stop = "pause"   // ask again with this answer in the history
)

// Usage is what one request used, in tokens.
type Usage struct {
	Input           int64
	Output          int64
	CacheRead       int64
	CacheCreation5m int64
	CacheCreation1h int64
	Speed           string // standard or fast, when the provider says
}

// ErrorKind is what sort of failure a provider had.
type ErrorKind string

const (
	Overloaded    ErrorKind = "overloaded"
	RateLimited   ErrorKind = "rate_limited"
	RequestFailed ErrorKind = "request_failed" // it says that the request itself is at fault
	Unavailable   ErrorKind = "unavailable"    // no answer, a broken one, or a failure of its own
	Billing       ErrorKind = "billing"
	Credential    ErrorKind = "credential" // it does not take our key
)

// Error is a provider's failure. Message is fit for the session's log: it
// holds no credential and no address with one.
type Error struct {
	Kind       ErrorKind
	Message    string
	Amid       bool          // part of an answer had arrived
	RetryAfter time.Duration // what the provider asked for; 0 when it did not
	Usage      Usage         // of the failed request, as far as known
	Err        error         // the cause, for the log of the program only; may be nil
}

func (e *Error) Error() string { return fmt.Sprintf("model %s: %s", e.Kind, e.Message) }

func (e *Error) Unwrap() error { return e.Err }

// Retry says whether the same request may do better later.
func (e *Error) Retry() bool {
	return e.Kind == Overloaded || e.Kind == RateLimited || e.Kind == Unavailable
}
