package agent

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/toolset"
)

// conn is one connection to an agent, with a reader of its own that ends with
// it.
type conn struct {
	c    net.Conn
	done chan struct{} // closed when the reader has ended

	writing sync.Mutex

	mu       sync.Mutex
	calls    map[string]chan answer // by id; each takes one answer
	restarts []chan struct{}
	postures []chan agentwire.Posture
	files    map[uint64]chan agentwire.FileReply // by id; each takes one reply
	streams  map[string]func([]byte)             // by id; called by the reader
	beside   map[uint64]*beside                  // by number
	started  uint64                              // how many programs were asked for
	err      error                               // why the reader ended
}

// answer is what an agent says to a Run or an Ask.
type answer struct {
	kind   agentwire.Kind // Result, Unknown or Refused
	result agentwire.Result
	reason string
}

func newConn(c net.Conn) *conn {
	k := &conn{c: c, done: make(chan struct{}), calls: map[string]chan answer{}, streams: map[string]func([]byte){}, files: map[uint64]chan agentwire.FileReply{}, beside: map[uint64]*beside{}}
	go k.read() // close waits for it
	return k
}

// close ends the connection and waits for its reader.
func (k *conn) close() {
	k.c.Close()
	<-k.done
}

func (k *conn) send(kind agentwire.Kind, body []byte) error {
	b, err := agentwire.Append(make([]byte, 0, len(body)+8), kind, body)
	if err != nil {
		return err
	}
	k.writing.Lock()
	defer k.writing.Unlock()
	if err := k.c.SetWriteDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	if _, err := k.c.Write(b); err != nil {
		k.c.Close() // half of it may be there: the next frame would be read as the rest
		return fmt.Errorf("%w (%v)", errBroken, err)
	}
	return nil
}

// expect is where the answer for id will come, once.
func (k *conn) expect(id string) chan answer {
	ch := make(chan answer, 1)
	k.mu.Lock()
	k.calls[id] = ch
	k.mu.Unlock()
	return ch
}

func (k *conn) forget(id string) {
	k.mu.Lock()
	delete(k.calls, id)
	k.mu.Unlock()
}

func (k *conn) restart() (chan struct{}, error) {
	ch := make(chan struct{}, 1)
	k.mu.Lock()
	k.restarts = append(k.restarts, ch)
	k.mu.Unlock()
	return ch, k.send(agentwire.KindRestart, nil)
}

func (k *conn) probe(q agentwire.Probe) (chan agentwire.Posture, error) {
	ch := make(chan agentwire.Posture, 1)
	k.mu.Lock()
	k.postures = append(k.postures, ch)
	k.mu.Unlock()
	return ch, k.send(agentwire.KindProbe, q.Encode())
}

// stream has f called with the output of a command as it comes; nil ends that.
func (k *conn) stream(id string, f func([]byte)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f == nil {
		delete(k.streams, id)
		return
	}
	k.streams[id] = f
}

func (k *conn) read() {
	defer close(k.done)
	for {
		f, err := agentwire.Read(k.c)
		if err == nil {
			err = k.frame(f)
		}
		if err != nil {
			k.mu.Lock()
			k.err = err
			left := k.beside
			k.beside = nil
			k.mu.Unlock()
			for _, b := range left {
				b.ended(toolset.ProcessEnd{Code: -1, Reason: "the connection to its sandbox broke"})
			}
			k.c.Close()
			return
		}
	}
}

func (k *conn) frame(f agentwire.Frame) error {
	switch f.Kind {
	case agentwire.KindResult:
		r, err := agentwire.DecodeResult(f.Body)
		if err != nil {
			return err
		}
		k.deliver(r.ID, answer{kind: f.Kind, result: r})
	case agentwire.KindUnknown:
		id, err := agentwire.DecodeText(f.Body)
		if err != nil {
			return err
		}
		k.deliver(id, answer{kind: f.Kind})
	case agentwire.KindRefused:
		r, err := agentwire.DecodeRefused(f.Body)
		if err != nil {
			return err
		}
		k.deliver(r.ID, answer{kind: f.Kind, reason: r.Reason})
	case agentwire.KindRestarted:
		k.mu.Lock()
		if len(k.restarts) > 0 {
			k.restarts[0] <- struct{}{}
			k.restarts = k.restarts[1:]
		}
		k.mu.Unlock()
	case agentwire.KindPosture:
		p, err := agentwire.DecodePosture(f.Body)
		if err != nil {
			return err
		}
		k.mu.Lock()
		if len(k.postures) > 0 {
			k.postures[0] <- p
			k.postures = k.postures[1:]
		}
		k.mu.Unlock()
	case agentwire.KindOutput:
		o, err := agentwire.DecodeOutput(f.Body)
		if err != nil {
			return err
		}
		k.mu.Lock()
		f := k.streams[o.ID]
		k.mu.Unlock()
		if f != nil {
			f(o.Data)
		}
	case agentwire.KindFileReply:
		r, err := agentwire.DecodeFileReply(f.Body)
		if err != nil {
			return err
		}
		k.mu.Lock()
		ch := k.files[r.ID]
		delete(k.files, r.ID)
		k.mu.Unlock()
		if ch != nil {
			ch <- r
		}
	case agentwire.KindData:
		d, err := agentwire.DecodeData(f.Body)
		if err != nil {
			return err
		}
		k.mu.Lock()
		b := k.beside[d.Num]
		k.mu.Unlock()
		if b != nil {
			return b.deliver(d.Data)
		}
	case agentwire.KindEnded:
		e, err := agentwire.DecodeEnded(f.Body)
		if err != nil {
			return err
		}
		k.mu.Lock()
		b := k.beside[e.Num]
		delete(k.beside, e.Num)
		k.mu.Unlock()
		if b != nil {
			b.ended(toolset.ProcessEnd{Code: e.Code, Reason: e.Reason, Errors: e.Errors[:min(len(e.Errors), agentwire.MaxErrors)]})
		}
	case agentwire.KindRunning, agentwire.KindReady:
	default:
		return fmt.Errorf("agent: a frame of kind %d makes no sense here", f.Kind)
	}
	return nil
}

func (k *conn) deliver(id string, a answer) {
	k.mu.Lock()
	ch := k.calls[id]
	delete(k.calls, id)
	k.mu.Unlock()
	if ch != nil {
		ch <- a
	}
}

// ready reads what an agent says first, before the connection has a reader.
func ready(c net.Conn, within time.Duration) (pid int, err error) {
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		return 0, err
	}
	f, err := agentwire.Read(c)
	if err != nil {
		return 0, err
	}
	switch f.Kind {
	case agentwire.KindReady:
		pid, err = agentwire.DecodeReady(f.Body)
	case agentwire.KindFailed:
		var why string
		if why, err = agentwire.DecodeText(f.Body); err == nil {
			err = errors.New(why)
		}
	default:
		err = agentwire.ErrBad
	}
	if err != nil {
		return 0, err
	}
	return pid, c.SetReadDeadline(time.Time{})
}
