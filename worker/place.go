package worker

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

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

	mu     sync.Mutex
	try    *opening // the running or last try, nil before the first
	closed bool
}

// opening is one try to open a sandbox; its fields are set when done closes.
type opening struct {
	done   chan struct{}
	box    Sandbox
	tools  Tools
	lost   atomic.Bool // until it has been told
	broken atomic.Bool // the host failed under a call
	err    error
}

func newPlace(boxes Sandboxes, tools func(toolset.Host) Tools, log *slog.Logger) *place {
	p := &place{boxes: boxes, tools: tools, log: log, known: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// know says what the sandbox is for. Call it once.
func (p *place) know(o Opening) {
	p.opening = o
	close(p.known)
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
		pause := openPause
		for i := 1; ; i++ {
			box, lost, err := p.boxes.Open(p.ctx, p.opening)
			if err == nil {
				o.box = box
				o.lost.Store(lost)
				o.tools = p.tools(watchedHost{box, &o.broken})
				return
			}
			o.err = err
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

// get gives the session's tools. lost is true once, when the workspace the
// session had is gone. After an error the next get tries anew.
func (p *place) get(ctx context.Context) (t Tools, lost bool, err error) {
	p.mu.Lock()
	o := p.try
	if o == nil {
		o = p.begin()
	}
	p.mu.Unlock()
	select {
	case <-o.done:
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
	if o.err != nil || o.broken.Load() {
		if o, err = p.renew(ctx, o); err != nil {
			return nil, false, err
		}
	}
	return o.tools, o.lost.Swap(false), nil
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
	old.box.Close(ctx, false)
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

// close ends the sandbox, also one that is just being opened; with forget its
// workspace goes too. Twice is fine.
func (p *place) close(ctx context.Context, forget bool) error {
	p.mu.Lock()
	p.closed = true
	o := p.try
	p.mu.Unlock()
	p.cancel()
	if o == nil {
		return nil
	}
	<-o.done
	if o.box == nil {
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

func (h watchedHost) Restart(ctx context.Context) error {
	err := h.Host.Restart(ctx)
	if err != nil && ctx.Err() == nil {
		h.broken.Store(true)
	}
	return err
}
