package scripted

import "encoding/json"

// Script is a written part: each model request plays the next turn.
type Script struct {
	Turns []Turn `json:"turns"`
}

// Turn is one answer.
type Turn struct {
	Text     string `json:"text,omitempty"`
	Thinking string `json:"thinking,omitempty"`
	Tools    []Tool `json:"tools,omitempty"`
	DelayMS  int    `json:"delay_ms,omitempty"`
	Error    *Error `json:"error,omitempty"`
	Usage    *Usage `json:"usage,omitempty"`
}

// Tool is a tool use.
type Tool struct {
	Name  string          `json:"name"`
	Input json.RawMessage `json:"input,omitempty"`
}

// Error is a provider's failure to play before the turn itself.
type Error struct {
	Type         string `json:"type"`
	When         string `json:"when,omitempty"`  // "before" (default) or "amid" the stream
	Times        int    `json:"times,omitempty"` // how many tries fail: 1; -1 for all
	Message      string `json:"message,omitempty"`
	RetryAfterMS int    `json:"retry_after_ms,omitempty"`
}

// Usage is what the turn pretends to have used.
type Usage struct {
	InputTokens              int64 `json:"input_tokens,omitempty"`
	OutputTokens             int64 `json:"output_tokens,omitempty"`
	CacheReadInputTokens     int64 `json:"cache_read_input_tokens,omitempty"`
	CacheCreationInputTokens int64 `json:"cache_creation_input_tokens,omitempty"`
}
