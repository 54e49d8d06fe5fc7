// Package httpapi is the wire of the control plane: the routes, who may call
// them, how requests are read and answers and errors written, and the event
// stream. It holds no rule of the product; those are in plane, turn and queue.
package httpapi

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/berthdev/berth/internal/store"
)

// Config is what the handler serves. Zero limits mean the defaults named.
type Config struct {
	Store store.Store

	Log *slog.Logger // nil is slog.Default()

	// Lenient lets unknown request fields pass instead of answering 400.
	Lenient bool
	// MessageFrames names every stream frame "message" instead of its type,
	// for old Python clients with newer event types.
	MessageFrames bool
	// RatePerMinute bounds the requests of one credential; 0 is no bound.
	RatePerMinute int
	// MaxStreams bounds the open event streams of the process; 0 is 10,000.
	MaxStreams int
	// PingEvery keeps streams open through proxies; 0 is 15 s.
	PingEvery time.Duration
	// StreamMaxAge ends a stream so that clients come back; 0 is 1 h.
	StreamMaxAge time.Duration
	// WriteTimeout bounds one write to a slow client; 0 is 30 s.
	WriteTimeout time.Duration
	// BodyTimeout bounds the reading of one request body; 0 is 60 s.
	BodyTimeout time.Duration
}

// New makes the handler. It is safe for concurrent use and needs no stop:
// what it does ends with the requests' contexts.
func New(c Config) http.Handler {
	return http.NotFoundHandler()
}
