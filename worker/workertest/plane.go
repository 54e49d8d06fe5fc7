// Package workertest is a small control plane in memory that speaks real
// HTTP: enough of the queue and of sessions to test a worker against, with
// knobs for trouble. Its sessions play scripts instead of asking a model.
//
// It follows the contract's rules where a worker can feel them: deliveries
// with a token each, compare-and-set beats, leases that lapse, results that
// are accepted once, streams without replay.
package workertest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
)

// The plane's one environment.
const (
	EnvironmentID  = "env_01workertest"
	EnvironmentKey = "sk-test-env01-key"
)

// Plane is a fake control plane. Safe for concurrent use.
type Plane struct {
	// URL is its origin.
	URL string

	server *httptest.Server // nil for an offline one
	mux    http.Handler

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at every change
	now      time.Time     // the last processed_at
	ids      int
	ttl      time.Duration
	sessions map[string]*Session
	agent    api.SessionAgent
	skills   []Skill
	stores   []*MemoryStore
	// resources are those of the sessions to come.
	resources []api.MemoryStoreResource
	order     []*Session
	items     []*item // oldest first
	requests  []Request
	reticent  bool
	closing   bool

	faults []*Fault
	frames []*FrameFault
	life   struct{ min, max time.Duration } // of streams, 0 for no bound
	jumps  time.Duration                    // how far the clock may be wrong
	skew   time.Duration                    // how far it is
}

// Request is one call the plane has seen.
type Request struct {
	Route      Route
	Status     int // as sent, or 0 when the answer was lost
	Credential string
	Work       string
	Session    string
	WorkerID   string
	Expected   string // of a beat
	Force      bool   // of a stop
	Begun      string // of a stop: its api.BegunHeader
	Store      string // a memory store
	Query      string
	At         time.Time
}

// Route names an endpoint.
type Route string

const (
	Poll       Route = "poll"
	Ack        Route = "ack"
	Beat       Route = "beat"
	Stop       Route = "stop"
	ListWork   Route = "list work"
	GetSession Route = "get session"
	GetSkill   Route = "get skill"
	LoadSkill  Route = "load skill"

	ListMemories Route = "list memories"
	GetMemory    Route = "get memory"
	CreateMemory Route = "create memory"
	UpdateMemory Route = "update memory"
	DeleteMemory Route = "delete memory"

	List   Route = "list"
	Stream Route = "stream"
	Send   Route = "send"
)

// New starts a plane that ends with the test.
func New(t testing.TB) *Plane {
	p := Start()
	t.Cleanup(p.Close)
	return p
}

// Start starts a plane without a test; Close ends it.
func Start() *Plane {
	p := Offline()
	p.server = httptest.NewServer(p)
	p.URL = p.server.URL
	return p
}

// Offline makes a plane without an address, to be called as the http.Handler
// that it is: for tests in which time stands still. It needs no Close.
func Offline() *Plane {
	p := &Plane{
		changed:  make(chan struct{}),
		ttl:      60 * time.Second,
		sessions: map[string]*Session{},
		now:      time.Now().UTC().Truncate(time.Microsecond),
	}
	p.mux = p.handler()
	return p
}

// ServeHTTP answers one call.
func (p *Plane) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.mux.ServeHTTP(w, r) }

// Close cuts every connection and ends the plane.
func (p *Plane) Close() {
	p.mu.Lock()
	p.closing = true
	p.change()
	p.mu.Unlock()
	if p.server != nil {
		p.server.CloseClientConnections()
		p.server.Close()
	}
}

// SetTTL sets the lease's TTL; 60 s at first.
func (p *Plane) SetTTL(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ttl = d
}

// Reticent has items delivered without a word of calls that an earlier holder
// may have begun, as by planes that do not know.
func (p *Plane) Reticent() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reticent = true
}

// Requests gives the calls seen so far, of one route or of all ("").
func (p *Plane) Requests(route Route) []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	var some []Request
	for _, r := range p.requests {
		if route == "" || r.Route == route {
			some = append(some, r)
		}
	}
	return some
}

// Wait returns when cond is true; it is called with no lock held after every
// change here, and now and then for what happens in the worker alone. The
// test fails after limit.
func (p *Plane) Wait(t testing.TB, what string, limit time.Duration, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		p.mu.Lock()
		changed := p.changed
		p.mu.Unlock()
		if cond() {
			return
		}
		select {
		case <-changed:
		case <-again.C:
		case <-deadline.C:
			t.Fatalf("waited %v for: %s\n%s", limit, what, p.dump())
		}
	}
}

func (p *Plane) dump() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := ""
	for _, it := range p.items {
		s += fmt.Sprintf("item %s of %s: %s, delivered %v, last beat %q\n", it.id, it.session.ID, it.state, !it.delivered.IsZero(), it.beat)
	}
	for _, se := range p.order {
		s += fmt.Sprintf("session %s: %s, %d events, open %v\n", se.ID, se.status, len(se.log), se.open())
	}
	return s
}

// change needs mu.
func (p *Plane) change() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// id needs mu.
func (p *Plane) id(prefix string) string {
	p.ids++
	return fmt.Sprintf("%s01test%06d", prefix, p.ids)
}

// tick is the next processed_at: strictly increasing, unless the clock jumps.
// It needs mu.
func (p *Plane) tick() time.Time {
	now := p.clock().Truncate(time.Microsecond)
	if now.Equal(p.now) || p.jumps == 0 && now.Before(p.now) {
		now = p.now.Add(time.Microsecond)
	}
	p.now = now
	return now
}

// failure is an error answer.
type failure struct {
	status  int
	message string
	details map[string]any
	kind    api.ErrorType // "" is by the status
	noRetry bool
}

func failf(status int, format string, args ...any) *failure {
	return &failure{status: status, message: fmt.Sprintf(format, args...)}
}

func (f *failure) write(w http.ResponseWriter) {
	kind := api.ErrInvalidRequest
	switch {
	case f.kind != "":
		kind = f.kind
	case f.status == http.StatusUnauthorized:
		kind = api.ErrAuthentication
	case f.status == http.StatusForbidden:
		kind = api.ErrPermission
	case f.status == http.StatusNotFound:
		kind = api.ErrNotFound
	case f.status == http.StatusTooManyRequests:
		kind = api.ErrRateLimit
	case f.status >= 500:
		kind = api.ErrAPI
	}
	if f.noRetry {
		w.Header().Set("X-Should-Retry", "false")
	}
	body, err := json.Marshal(api.ErrorResponse{Type: "error", Error: api.ErrorBody{Type: kind, Message: f.message, Details: f.details}})
	if err != nil {
		panic(err) // the body is made of strings
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(f.status)
	_, _ = w.Write(body)
}
