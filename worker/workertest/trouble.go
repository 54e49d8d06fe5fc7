package workertest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/berthdev/berth/api"
)

// Fault is trouble with a route.
type Fault struct {
	Route Route // "" is every route but Stream
	// Times is how many calls it meets, 0 for all; Share is how likely it
	// meets one, 0 for always. InRow is how many in a row it meets of one item
	// or session, 0 for any number.
	Times int
	Share float64
	InRow int
	// Delay comes before all else.
	Delay time.Duration
	// Header is added to the answer.
	Header http.Header

	// Status is answered instead of doing anything; a beat's 412 shows the
	// lease as it is. Below 300, Body is the answer's.
	Status int
	Body   string
	// Reset breaks the connection instead of doing anything; Lost does so
	// after the call has taken effect.
	Reset bool
	Lost  bool
	// Taken lets somebody else have the lease of a beat's item before it comes:
	// see StealLease. Lapse answers it and all later beats of the item with 503,
	// so that its lease lapses.
	Taken bool
	Lapse bool

	met int
	row map[string]int
}

// FrameFault is trouble with the frames of event streams.
type FrameFault struct {
	Type  string  // of the event, "" for any
	Times int     // how many frames it meets, 0 for all
	Share float64 // how likely it meets one, 0 for always
	Kind  FrameTrouble

	met int
}

// FrameTrouble is what becomes of a frame.
type FrameTrouble string

const (
	FrameCut     FrameTrouble = "cut"     // the stream ends in its place
	FrameDropped FrameTrouble = "dropped" // it never comes
	FrameTwice   FrameTrouble = "twice"   // it comes again at once
	FrameStale   FrameTrouble = "stale"   // an older event comes again after it
	FrameLate    FrameTrouble = "late"    // it comes after the next one, or lateFrame later
)

// lateFrame is how long a late frame waits for another one to go before it.
const lateFrame = 50 * time.Millisecond

// Inject adds trouble.
func (p *Plane) Inject(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f.row = map[string]int{}
	p.faults = append(p.faults, &f)
}

// InjectFrames adds trouble with frames.
func (p *Plane) InjectFrames(f FrameFault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frames = append(p.frames, &f)
}

// CutStreams ends every stream after a while between min and max.
func (p *Plane) CutStreams(min, max time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.life.min, p.life.max = min, max
}

// JumpClock makes the plane's clock jump, now and then, to any time that far
// from the right one: in its stamps and in its Date headers.
func (p *Plane) JumpClock(far time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.jumps = far
}

// Heal takes all trouble away.
func (p *Plane) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults, p.frames, p.jumps, p.skew = nil, nil, 0, 0
	p.life.min, p.life.max = 0, 0
}

// clock is the plane's time. It needs mu.
func (p *Plane) clock() time.Time {
	if p.jumps > 0 && rand.N(10) == 0 {
		p.skew = rand.N(2*p.jumps) - p.jumps
	}
	return time.Now().UTC().Add(p.skew)
}

// fault picks the trouble that a call meets. It needs mu.
func (p *Plane) fault(route Route, r *http.Request) *Fault {
	whose := r.PathValue("w") + r.PathValue("s")
	for _, f := range p.faults {
		if f.Route != route && (f.Route != "" || route == Stream) {
			continue
		}
		if f.Times > 0 && f.met >= f.Times || f.Share > 0 && rand.Float64() >= f.Share || f.InRow > 0 && f.row[whose] >= f.InRow {
			delete(f.row, whose)
			continue
		}
		f.met++
		f.row[whose]++
		return f
	}
	return nil
}

// frameFault picks the trouble that a frame meets, "" for none. It needs mu.
func (p *Plane) frameFault(kind string) FrameTrouble {
	for _, f := range p.frames {
		if f.Type != "" && f.Type != kind || f.Times > 0 && f.met >= f.Times || f.Share > 0 && rand.Float64() >= f.Share {
			continue
		}
		f.met++
		return f.Kind
	}
	return ""
}

// frames writes events to a stream as trouble lets them through.
type frames struct {
	to   http.ResponseWriter
	late *entry // held back
}

// write sends events with the trouble that each meets. It says false when the
// stream is to end.
func (f *frames) write(events []entry, trouble []FrameTrouble, older []entry) bool {
	for i, e := range events {
		late := f.late
		f.late = nil
		switch trouble[i] {
		case FrameCut:
			return false
		case FrameDropped:
		case FrameLate:
			f.late = &events[i]
		case FrameTwice:
			f.frame(e)
			f.frame(e)
		case FrameStale:
			f.frame(e)
			if len(older) > 0 {
				f.frame(older[rand.N(len(older))])
			}
		default:
			f.frame(e)
		}
		if late != nil {
			f.frame(*late)
		}
	}
	return http.NewResponseController(f.to).Flush() == nil
}

func (f *frames) frame(e entry) {
	if e.silent {
		return
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, ": ping\n\nevent: %s\ndata: %s\n\n", e.kind, e.raw)
	_, _ = f.to.Write(b.Bytes())
}

// reset breaks a connection as a host does that knows nothing of it.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// meddle does to a lease what the fault of a beat does. It needs mu.
func (p *Plane) meddle(f *Fault, work string) {
	it := p.find(work)
	if it == nil || it.state == api.WorkStopped {
		return
	}
	if f.Taken {
		p.supersede(it, true)
	}
	it.lapsing = it.lapsing || f.Lapse
}
