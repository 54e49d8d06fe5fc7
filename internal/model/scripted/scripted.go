// Package scripted is the model that plays a part written as JSON in the
// conversation itself. It needs no network and is honest about its name: the
// demo, the tests and a server without a provider's key use it.
package scripted

import (
	"context"
	"time"

	"github.com/berthdev/berth/internal/model"
)

// Config says what to play. The zero value plays the script blocks of the
// conversation.
type Config struct {
	// Script, when there, is played for every session whose messages hold no
	// script of their own.
	Script *Script
	// Wait pauses for delay_ms; nil waits by the clock.
	Wait func(ctx context.Context, d time.Duration) error
}

// New makes the model.
func New(c Config) *Model { return &Model{cfg: c} }

// Model plays scripts. Safe for concurrent use.
type Model struct{ cfg Config }

var _ model.Model = (*Model)(nil)

// Stream plays the next turn of the script.
func (m *Model) Stream(ctx context.Context, r model.Request, to model.Sink) (model.Response, error) {
	return model.Response{}, &model.Error{Kind: model.Unavailable, Message: "not yet"}
}
