package worker

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/toolset"
)

// openTries is how often a sandbox is tried to be opened for one call, and
// openPause what lies between, doubling.
const (
	openTries = 3
	openPause = 250 * time.Millisecond
)

var errPlaceClosed = errors.New("the session's sandbox is closed")

// place is a session's sandbox and its tools: opened in the background when
// first wanted and the session is known, opened anew when it broke, closed
// once. Safe for concurrent use.
type place struct {
	boxes   Sandboxes
	tools   func(toolset.Host) Tools
	log     *slog.Logger
	ctx     context.Context // of the place's life; a place is made and closed by one item
	cancel  context.CancelFunc
	known   chan struct{} // closed when opening is set
	opening Opening
	prepare func(context.Context, api.Session) (*Prepared, error)
	warned  func() // counts a warning
	traced  func(context.Context) (context.Context, func(SpanEnd))
	inside  func() func() // what must not be cut in two comes in, until the returned func is called
	at      func(point string)

	mu       sync.Mutex
	try      *opening  // the running or last try, nil before the first
	prepared *Prepared // nil until that has been done
	news     []string  // not told yet
	closed   bool
}

// opening is one try to open a sandbox; its fields are set when done closes.
type opening struct {
	done   chan struct{}
	box    Sandbox
	tools  Tools
	broken atomic.Bool // the host failed under a call
	err    error
}

// newPlace makes a place that lives in ctx.
func newPlace(ctx context.Context, boxes Sandboxes, tools func(toolset.Host) Tools, log *slog.Logger) *place {
	p := &place{
		boxes: boxes, tools: tools, log: log, known: make(chan struct{}),
		warned: func() {}, inside: func() func() { return func() {} }, at: func(string) {},
	}
	p.prepare = func(context.Context, api.Session) (*Prepared, error) { return &Prepared{}, nil }
	p.traced = func(ctx context.Context) (context.Context, func(SpanEnd)) { return ctx, func(SpanEnd) {} }
	p.ctx, p.cancel = context.WithCancel(ctx)
	return p
}

// know says what the sandbox is for. Call it once.
func (p *place) know(o Opening) {
	p.opening = o
	p.opening.Warn = p.warn
	close(p.known)
}

// warn tells the session something with its next result.
func (p *place) warn(text string) {
	p.log.Warn("the session is warned", "warning", text)
	p.warned()
	p.tell("[" + text + "]\n")
}

func (p *place) tell(news string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.news = append(p.news, news)
}

// ready prepares for the session unless that has been done.
func (p *place) ready(ctx context.Context) error {
	p.mu.Lock()
	done := p.prepared != nil
	p.mu.Unlock()
	if done {
		return nil
	}
	got, err := p.prepare(ctx, p.opening.Session)
	if err != nil {
		return err
	}
	p.opening.Mounts = append(p.opening.Mounts, got.Mounts...)
	p.opening.Folders = append(p.opening.Folders, got.Folders...)
	for _, w := range got.Warnings {
		p.warn(w)
	}
	p.mu.Lock()
	p.prepared = got
	p.mu.Unlock()
	return nil
}

// after does what follows a call.
func (p *place) after(ctx context.Context) {
	p.mu.Lock()
	got := p.prepared
	p.mu.Unlock()
	if got != nil && got.After != nil {
		got.After(ctx)
	}
}

// opened does what follows the opening of a sandbox.
func (p *place) opened(box Sandbox) error {
	p.mu.Lock()
	got := p.prepared
	p.mu.Unlock()
	if got == nil || got.Opened == nil {
		return nil
	}
	return got.Opened(p.ctx, box)
}

// finish opens no sandbox any more and ends what was prepared. Call it once.
func (p *place) finish(ctx context.Context, end End) error {
	p.shut()
	p.mu.Lock()
	got := p.prepared
	p.mu.Unlock()
	if got == nil || got.Finish == nil {
		return nil
	}
	return got.Finish(ctx, end)
}

// start opens the sandbox in the background unless that has been done.
func (p *place) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.try == nil {
		p.begin()
	}
}

// begin needs mu.
func (p *place) begin() *opening {
	o := &opening{done: make(chan struct{})}
	p.try = o
	if p.closed {
		o.err = errPlaceClosed
		close(o.done)
		return o
	}
	go func() {
		defer close(o.done)
		select {
		case <-p.known:
		case <-p.ctx.Done():
			o.err = errPlaceClosed
			return
		}
		ctx, end := p.traced(p.ctx)
		defer func() { end(ended(o.err)) }()
		pause := openPause
		for i := 1; ; i++ {
			err := p.ready(ctx)
			if err == nil {
				err = p.open(ctx, o)
			}
			o.err = err
			if err == nil {
				return
			}
			oe, told := errors.AsType[*OpenError](err)
			if i == openTries || p.ctx.Err() != nil || told && oe.Final {
				return
			}
			p.log.Warn("the sandbox could not be opened; trying again", "error", err)
			if !sleep(p.ctx, pause) {
				return
			}
			pause *= 2
		}
	}()
	return o
}

// open makes one attempt. What follows the opening may take long, and is done
// again by whoever comes after a worker that leaves meanwhile.
func (p *place) open(ctx context.Context, o *opening) error {
	out := p.inside()
	p.at(PointOpening)
	box, lost, err := p.boxes.Open(ctx, p.opening)
	out()
	if err != nil {
		return err
	}
	if lost {
		p.tell(textNewWorkspace)
	}
	if err := p.opened(box); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), closeTimeout)
		defer cancel()
		defer p.inside()() // the sandbox may be the next worker's
		return errors.Join(err, box.Close(ctx, false))
	}
	o.box = box
	o.tools = p.tools(watchedHost{box, &o.broken})
	return nil
}

// get gives the session's tools. After an error the next get tries anew.
func (p *place) get(ctx context.Context) (Tools, error) {
	p.mu.Lock()
	o := p.try
	if o == nil {
		o = p.begin()
	}
	p.mu.Unlock()
	select {
	case <-o.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if o.err != nil || o.broken.Load() {
		var err error
		if o, err = p.renew(ctx, o); err != nil {
			return nil, err
		}
	}
	return o.tools, nil
}

// untold gives, once, what the session's next result shall begin with.
func (p *place) untold() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	news := strings.Join(p.news, "")
	p.news = nil
	return news
}

// birth names the open sandbox, "" for none or one that does not last.
func (p *place) birth() string {
	p.mu.Lock()
	o := p.try
	p.mu.Unlock()
	if o == nil || !closed(o.done) || o.err != nil {
		return ""
	}
	if l, ok := o.box.(Lasting); ok {
		return l.Birth()
	}
	return ""
}

// renew replaces a try that failed or broke, and waits for the new one. A
// first failure is reported: its tries have been made.
func (p *place) renew(ctx context.Context, old *opening) (*opening, error) {
	if old.err != nil {
		p.mu.Lock()
		if p.try == old && !p.closed {
			p.try = nil
		}
		p.mu.Unlock()
		return nil, old.err
	}
	p.log.Warn("the sandbox broke; opening another")
	out := p.inside()
	old.box.Close(ctx, false)
	out()
	p.mu.Lock()
	o := p.try
	if o == old {
		o = p.begin()
	}
	p.mu.Unlock()
	select {
	case <-o.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return o, o.err
}

// shut sees to it that no sandbox is opened any more, and gives the last try,
// nil for none.
func (p *place) shut() *opening {
	p.mu.Lock()
	p.closed = true
	o := p.try
	p.mu.Unlock()
	p.cancel()
	if o != nil {
		<-o.done
	}
	return o
}

// close ends the sandbox, also one that is just being opened; with forget its
// workspace goes too. Twice is fine.
func (p *place) close(ctx context.Context, forget bool) error {
	o := p.shut()
	if o == nil || o.box == nil {
		return nil
	}
	return o.box.Close(ctx, forget)
}

// watchedHost notices when its host fails under a call.
type watchedHost struct {
	toolset.Host
	broken *atomic.Bool
}

func (h watchedHost) Bash(ctx context.Context, c toolset.Command) (toolset.Result, error) {
	r, err := h.Host.Bash(ctx, c)
	if err != nil && ctx.Err() == nil {
		h.broken.Store(true)
	}
	return r, err
}

// Start is there for hosts that are a toolset.Starter.
func (h watchedHost) Start(ctx context.Context, p toolset.Program) (toolset.Process, error) {
	return toolset.Start(ctx, h.Host, p)
}

func (h watchedHost) Restart(ctx context.Context) error {
	err := h.Host.Restart(ctx)
	if err != nil && ctx.Err() == nil {
		h.broken.Store(true)
	}
	return err
}
