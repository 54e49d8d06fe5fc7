package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/toolset"
	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/workertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const soon = time.Minute // far more than anything here takes

// lab is a worker at a fake plane, with tools that only remember.
type lab struct {
	t     *testing.T
	plane *workertest.Plane
	kit   *kit
	boxes *boxes
	w     *worker.Worker
	stop  context.CancelFunc // of taking work
	kill  context.CancelFunc // of the work
	done  chan struct{}
	err   error // of Run, once done is closed
}

// start runs a worker until the test ends.
func start(t *testing.T, change ...func(*worker.Config)) *lab {
	t.Helper()
	return startAt(t, workertest.New(t), change...)
}

func startAt(t *testing.T, p *workertest.Plane, change ...func(*worker.Config)) *lab {
	t.Helper()
	l := newLab(t, p, change...)
	l.run()
	return l
}

func newLab(t *testing.T, p *workertest.Plane, change ...func(*worker.Config)) *lab {
	t.Helper()
	l := &lab{t: t, plane: p, kit: newKit(), boxes: &boxes{}, done: make(chan struct{})}
	hc := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	t.Cleanup(hc.CloseIdleConnections)
	cfg := worker.Config{
		BaseURL: p.URL, HTTPClient: hc, EnvironmentID: workertest.EnvironmentID, EnvironmentKey: workertest.EnvironmentKey,
		Sandboxes: l.boxes, Journal: newMemory(), Tools: l.kit.tools,
	}
	if os.Getenv("BERTH_TEST_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	for _, c := range change {
		c(&cfg)
	}
	w, err := worker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l.w = w
	return l
}

// still plays a test on a clock of its own, which moves only while everything
// waits: that the machine is slow changes nothing. A worker reaches the plane
// by via.
func still(t *testing.T, play func(t *testing.T, p *workertest.Plane, via func(*worker.Config))) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p, net := workertest.Offline(), newWire()
		server, served := &http.Server{Handler: p}, make(chan error, 1)
		go func() { served <- server.Serve(net) }()
		transport := &http.Transport{DialContext: net.dial, MaxIdleConnsPerHost: 100}
		p.URL = "http://plane.test"
		t.Cleanup(func() {
			p.Close()
			transport.CloseIdleConnections()
			server.Close()
			<-served
		})
		play(t, p, func(c *worker.Config) { c.HTTPClient = &http.Client{Transport: transport} })
	})
}

func (l *lab) run() {
	var take, work context.Context
	take, l.stop = context.WithCancel(context.Background())
	work, l.kill = context.WithCancel(context.Background())
	go func() {
		defer close(l.done)
		l.err = l.w.Run(take, work)
	}()
	l.t.Cleanup(func() {
		l.kit.openGates()
		l.kill()
		<-l.done
		l.stop()
	})
}

func (l *lab) wait(what string, cond func() bool) {
	l.t.Helper()
	l.plane.Wait(l.t, what, soon, cond)
}

// finished waits until a session has played its part.
func (l *lab) finished(s *workertest.Session) {
	l.t.Helper()
	l.wait("the session's end", s.Done)
}

// ended waits for Run to return.
func (l *lab) ended() error {
	l.t.Helper()
	select {
	case <-l.done:
		return l.err
	case <-time.After(soon):
		l.t.Fatal("Run does not return")
		return nil
	}
}

// kit is the tools of every session: any name but "foreign" is owned. A call
// answers with its name, or does what its gate says.
type kit struct {
	mu     sync.Mutex
	runs   map[string]int // by call id
	order  []string       // call ids as they began
	now    int
	most   int // ran at one time
	gates  map[string]*gate
	result func(worker.Call) ([]api.Block, bool)
}

// gate holds the calls of one tool until it is opened or they are cancelled.
type gate struct {
	entered   chan string // ids, as calls come
	open      chan struct{}
	cancelled chan string
	stubborn  bool // goes on although it is cancelled
	once      sync.Once
}

func newKit() *kit { return &kit{runs: map[string]int{}, gates: map[string]*gate{}} }

func newGate() *gate {
	return &gate{entered: make(chan string, 100), open: make(chan struct{}), cancelled: make(chan string, 100)}
}

func (k *kit) gate(tool string) *gate {
	k.mu.Lock()
	defer k.mu.Unlock()
	g := newGate()
	k.gates[tool] = g
	return g
}

func (g *gate) let() { g.once.Do(func() { close(g.open) }) }

func (k *kit) openGates() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, g := range k.gates {
		g.let()
	}
}

func (k *kit) tools(toolset.Host) worker.Tools { return k }

func (k *kit) Owns(name string, _ bool) bool { return name != "foreign" }

func (k *kit) Run(ctx context.Context, c worker.Call) ([]api.Block, bool) {
	k.mu.Lock()
	k.runs[c.ID]++
	k.order = append(k.order, c.ID)
	k.now++
	k.most = max(k.most, k.now)
	g, result := k.gates[c.Name], k.result
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		k.now--
		k.mu.Unlock()
	}()
	if g != nil {
		g.entered <- c.ID
		select {
		case <-g.open:
		case <-ctx.Done():
			g.cancelled <- c.ID
			if g.stubborn {
				<-g.open
			}
			return []api.Block{api.Text("cut short")}, true
		}
	}
	if result != nil {
		return result(c)
	}
	return []api.Block{api.Text("ran " + c.Name)}, false
}

// ran says how often a call ran.
func (k *kit) ran(id string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.runs[id]
}

// began gives the ids of all runs so far.
func (k *kit) began() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.order)
}

// boxes are sandboxes that are only counted.
type boxes struct {
	mu     sync.Mutex
	opened []string
	mounts []worker.Mount // of the last one
	warn   string         // told by Open
	closed []string
	forgot []string
	live   int
	most   int
	fail   []error // of the next Opens
	lost   bool
	broken bool // the live ones fail

	hold *gate // of Close, where there is one
}

func (b *boxes) Open(ctx context.Context, o worker.Opening) (worker.Sandbox, bool, error) {
	session := o.Session.ID
	b.mu.Lock()
	defer b.mu.Unlock()
	b.opened = append(b.opened, session)
	b.mounts = o.Mounts
	if b.warn != "" {
		o.Warn(b.warn)
	}
	if len(b.fail) > 0 {
		err := b.fail[0]
		b.fail = b.fail[1:]
		if err != nil {
			return nil, false, err
		}
	}
	b.live++
	b.broken = false
	b.most = max(b.most, b.live)
	return &box{boxes: b, session: session}, b.lost, nil
}

func (b *boxes) count() (opened, closed, forgot int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.opened), len(b.closed), len(b.forgot)
}

type box struct {
	boxes   *boxes
	session string
	over    bool
}

func (b *box) Bash(context.Context, toolset.Command) (toolset.Result, error) {
	b.boxes.mu.Lock()
	defer b.boxes.mu.Unlock()
	if b.boxes.broken {
		return toolset.Result{}, errors.New("the agent is gone")
	}
	return toolset.Result{Head: []byte("hello\n"), End: toolset.Exited}, nil
}
func (b *box) Restart(context.Context) error { return nil }
func (b *box) Files() toolset.Files          { return nil }
func (b *box) Workdir() string               { return "/workspace" }

func (b *box) Close(_ context.Context, forget bool) error {
	b.boxes.mu.Lock()
	hold := b.boxes.hold
	b.boxes.mu.Unlock()
	if hold != nil {
		hold.entered <- b.session
		<-hold.open
	}
	b.boxes.mu.Lock()
	defer b.boxes.mu.Unlock()
	if forget {
		b.boxes.forgot = append(b.boxes.forgot, b.session)
	}
	if !b.over {
		b.over = true
		b.boxes.live--
		b.boxes.closed = append(b.boxes.closed, b.session)
	}
	return nil
}

func texts(s *workertest.Session) []string {
	var all []string
	for _, a := range s.Answers() {
		all = append(all, fmt.Sprintf("%s %v", a.Text, a.IsError))
	}
	return all
}

// tracingJournal notes what it is told.
type tracingJournal struct {
	worker.Journal
	mu    sync.Mutex
	calls []string
}

func (j *tracingJournal) note(what string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.calls = append(j.calls, what)
}

func (j *tracingJournal) get() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.calls)
}

func (j *tracingJournal) Started(ctx context.Context, c worker.CallKey, birth string) (worker.Known, error) {
	j.note("started")
	return j.Journal.Started(ctx, c, birth)
}

func (j *tracingJournal) Finished(ctx context.Context, c worker.CallKey, result []byte) error {
	j.note("finished")
	return j.Journal.Finished(ctx, c, result)
}

func (j *tracingJournal) Posted(ctx context.Context, c worker.CallKey) error {
	j.note("posted")
	return j.Journal.Posted(ctx, c)
}
