// Package httpapi is the wire of the control plane: the routes, who may call
// them, how requests are read and answers and errors written, and the event
// stream. It holds no rule of the product; those are in plane, turn and queue.
package httpapi

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/berthdev/berth/internal/auth"
	"github.com/berthdev/berth/internal/events"
	"github.com/berthdev/berth/internal/model"
	"github.com/berthdev/berth/internal/queue"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/turn"
)

// Config is what the handler serves. The rooms are required; zero limits mean
// the defaults named.
type Config struct {
	Store  store.Store
	Keys   *auth.Keys
	Queue  *queue.Queue
	Events *events.Log
	Turn   *turn.Runner
	Models *model.Registry

	Log     *slog.Logger // nil is slog.Default()
	Version string       // sent as Berth-Version

	// Lenient lets unknown request fields pass instead of answering 400.
	Lenient bool
	// MessageFrames names every stream frame "message" instead of its type,
	// for old Python clients with newer event types.
	MessageFrames bool
	// RatePerMinute bounds the requests of one credential; 0 is no bound.
	RatePerMinute int
	// MaxStreams bounds the open event streams of the process; 0 is 10,000.
	MaxStreams int
	// Streams, when set, hears how many are open each time that one opens or
	// ends. It must be quick and safe for concurrent use.
	Streams func(open int)
	// PingEvery keeps streams open through proxies; 0 is 15 s.
	PingEvery time.Duration
	// StreamMaxAge ends a stream so that clients come back; 0 is 1 h.
	StreamMaxAge time.Duration
	// WriteTimeout bounds one write to a slow client; 0 is 30 s.
	WriteTimeout time.Duration
	// BodyTimeout bounds the reading of one request body; 0 is 60 s.
	BodyTimeout time.Duration
}

// server is the handler. Everything in it is safe for concurrent use.
type server struct {
	cfg     Config
	log     *slog.Logger
	mux     *http.ServeMux
	limits  *limiter
	streams streamCount
	now     func() time.Time
}

// New makes the handler. It is safe for concurrent use and needs no stop:
// what it does ends with the requests' contexts.
func New(c Config) http.Handler {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Version == "" {
		c.Version = "dev"
	}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&c.PingEvery, 15 * time.Second}, {&c.StreamMaxAge, time.Hour},
		{&c.WriteTimeout, 30 * time.Second}, {&c.BodyTimeout, time.Minute},
	} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	if c.MaxStreams == 0 {
		c.MaxStreams = 10_000
	}
	s := &server{cfg: c, log: c.Log, mux: http.NewServeMux(), limits: newLimiter(c.RatePerMinute), now: time.Now}
	s.streams.max, s.streams.told = int64(c.MaxStreams), c.Streams
	for _, r := range s.routes() {
		s.mux.Handle(r.pattern, s.handler(r))
	}
	return s
}
