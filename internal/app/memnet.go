package app

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// memListener is a listener whose connections live in this process: the
// worker half of dev and run talks to the control plane's handler through it,
// by the same HTTP as a stranger and without a socket. Safe for concurrent
// use.
type memListener struct {
	incoming chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

func newMemListener() *memListener {
	return &memListener{incoming: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept gives the server's end of the next connection.
func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.incoming:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close refuses further connections; those that are open live on.
func (l *memListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *memListener) Addr() net.Addr { return memAddr{} }

// Dial gives the client's end of a new connection.
func (l *memListener) Dial(ctx context.Context) (net.Conn, error) {
	toServer, toClient := newMemBuffer(), newMemBuffer()
	server := &memConn{in: toServer, out: toClient}
	client := &memConn{in: toClient, out: toServer}
	select {
	case l.incoming <- server:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type memAddr struct{}

func (memAddr) Network() string { return "memory" }
func (memAddr) String() string  { return "in-process" }

// memConn is one end of a connection: a buffer for each direction.
type memConn struct{ in, out *memBuffer }

func (c *memConn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *memConn) Write(p []byte) (int, error) { return c.out.write(p) }

// Close ends both directions: the other end reads what is left and then
// io.EOF, and its writes fail.
func (c *memConn) Close() error {
	c.out.closeWrite()
	c.in.closeRead()
	return nil
}

func (c *memConn) LocalAddr() net.Addr  { return memAddr{} }
func (c *memConn) RemoteAddr() net.Addr { return memAddr{} }

func (c *memConn) SetDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.reads, t)
	c.out.setDeadline(&c.out.writes, t)
	return nil
}
func (c *memConn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.reads, t)
	return nil
}
func (c *memConn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.writes, t)
	return nil
}

// memBufferSize bounds what one direction holds before its writer waits, as
// a socket's buffer does.
const memBufferSize = 64 << 10

// memBuffer is one direction of a connection.
type memBuffer struct {
	mu      sync.Mutex // guards everything below
	changed sync.Cond  // data, room, an end or a deadline came
	data    []byte     // unread bytes are data[start:]
	start   int
	eof     bool // the writer is gone
	gone    bool // the reader is gone
	reads   memDeadline
	writes  memDeadline
}

// memDeadline is when one side stops waiting.
type memDeadline struct {
	timer *time.Timer
	past  bool
	turn  int // tells a late timer from the current one
}

func newMemBuffer() *memBuffer {
	b := &memBuffer{}
	b.changed.L = &b.mu
	return b
}

var errMemReset = errors.New("the other end closed the connection")

func (b *memBuffer) read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case b.gone:
			return 0, net.ErrClosed
		case b.reads.past:
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case b.start < len(b.data):
			n := copy(p, b.data[b.start:])
			if b.start += n; b.start == len(b.data) {
				b.data, b.start = b.data[:0], 0
			}
			b.changed.Broadcast()
			return n, nil
		case b.eof:
			return 0, io.EOF
		}
		b.changed.Wait()
	}
}

func (b *memBuffer) write(p []byte) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case b.eof:
			return n, net.ErrClosed
		case b.gone:
			return n, errMemReset
		case b.writes.past:
			return n, os.ErrDeadlineExceeded
		case len(p) == 0:
			return n, nil
		}
		if room := memBufferSize - (len(b.data) - b.start); room > 0 {
			if b.start > 0 && len(b.data)+min(room, len(p)) > cap(b.data) {
				b.data, b.start = b.data[:copy(b.data, b.data[b.start:])], 0
			}
			take := p[:min(room, len(p))]
			b.data, p, n = append(b.data, take...), p[len(take):], n+len(take)
			b.changed.Broadcast()
			continue
		}
		b.changed.Wait()
	}
}

func (b *memBuffer) closeWrite() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.eof = true
	b.writes.stop()
	b.changed.Broadcast()
}

func (b *memBuffer) closeRead() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gone, b.data, b.start = true, nil, 0
	b.reads.stop()
	b.changed.Broadcast()
}

func (b *memBuffer) setDeadline(d *memDeadline, t time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	d.stop()
	d.turn++
	d.past = !t.IsZero() && !t.After(time.Now())
	if !t.IsZero() && !d.past {
		turn := d.turn
		d.timer = time.AfterFunc(time.Until(t), func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			if d.turn == turn {
				d.past = true
				b.changed.Broadcast()
			}
		})
	}
	b.changed.Broadcast()
}

func (d *memDeadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
