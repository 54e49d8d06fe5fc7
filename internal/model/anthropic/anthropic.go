// Package anthropic calls a provider that speaks the Messages API, through
// the official Go SDK.
package anthropic

import (
	"context"
	"net/http"

	"github.com/berthdev/berth/internal/model"
)

// Config says where the provider is. The key never appears in an error or a
// log.
type Config struct {
	APIKey    string
	BaseURL   string       // "" for the provider's own
	MaxTokens int64        // of one answer: 32,000
	HTTP      *http.Client // nil for a client with no overall limit
}

// New makes the model.
func New(c Config) *Model { return &Model{cfg: c} }

// Model sends requests to the provider, each once. Safe for concurrent use.
type Model struct{ cfg Config }

var _ model.Model = (*Model)(nil)

// Stream sends the request.
func (m *Model) Stream(ctx context.Context, r model.Request, to model.Sink) (model.Response, error) {
	return model.Response{}, &model.Error{Kind: model.Unavailable, Message: "not yet"}
}
