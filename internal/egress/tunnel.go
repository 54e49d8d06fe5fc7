package egress

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// tunnel serves a connection to a target. answer says how it went, and comes
// back true when bytes may flow.
func (s *Session) tunnel(c *client, via string, t Target, answer func(error) bool) {
	d := decision(via, t)
	r, no := s.judge(t)
	if no != nil {
		s.tell(d.outcome(no))
		answer(no)
		return
	}
	d.Rule = r.id
	if s.table.holdsAny(t) {
		if _, err := s.addresses(s.ctx, t, r); err != nil {
			s.tell(d.outcome(err))
			answer(err)
			return
		}
		if answer(nil) {
			s.intercept(c, t, d)
		}
		return
	}
	up, err := s.dial(s.ctx, t, r)
	if err != nil {
		s.tell(d.outcome(err))
		answer(err)
		return
	}
	defer up.Close()
	d.Addr, d.Verdict = addrOf(up), Allowed
	s.tell(d)
	if answer(nil) {
		s.pump(c, up, t, d)
	}
}

// pump moves bytes both ways until both sides have said all, or nothing has
// moved for idleTime.
func (s *Session) pump(c *client, up net.Conn, t Target, d Decision) {
	c.within(0)
	var busy atomic.Int64 // when something moved last
	busy.Store(time.Now().UnixNano())
	var both sync.WaitGroup
	both.Go(func() {
		if err := s.greet(c, up, t); err != nil {
			var no *Refusal
			if errors.As(err, &no) {
				s.tell(d.outcome(err))
				_, _ = c.conn.Write(unrecognizedName)
			}
			up.Close()
			c.conn.Close()
			return
		}
		move(up, c.br, c.conn, &busy)
	})
	both.Go(func() { move(c.conn, up, up, &busy) })
	both.Wait()
}

// move copies until src ends, and tells dst so. from is the connection under
// src.
func move(dst net.Conn, src io.Reader, from net.Conn, busy *atomic.Int64) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		if from.SetReadDeadline(time.Now().Add(idleTime)) != nil {
			break
		}
		n, err := src.Read(*buf)
		if n > 0 {
			busy.Store(time.Now().UnixNano())
			if dst.SetWriteDeadline(time.Now().Add(idleTime)) != nil {
				break
			}
			if _, err := dst.Write((*buf)[:n]); err != nil {
				break
			}
			continue
		}
		var late net.Error
		if errors.As(err, &late) && late.Timeout() && time.Since(time.Unix(0, busy.Load())) < idleTime {
			continue // the other way is in use
		}
		if err == io.EOF {
			if half, ok := dst.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
				return
			}
		}
		break
	}
	dst.Close()
	from.Close()
}

// tlsHandshake is the first byte of what a TLS client says.
const tlsHandshake = 22

// unrecognizedName is the alert of that name.
var unrecognizedName = []byte{21, 3, 1, 0, 2, 2, 112}

// greet passes on what the client says first. When that is TLS, the name in it
// must be the tunnel's: a tunnel to one host is no way to another one behind
// the same address.
func (s *Session) greet(c *client, up net.Conn, t Target) error {
	first, err := c.br.Peek(1)
	if err != nil || first[0] != tlsHandshake {
		return nil // move finds the error again
	}
	c.within(headTime)
	name, said, err := readHello(c.br)
	c.within(0)
	if err != nil {
		return &Refusal{t.String(), "its TLS greeting cannot be read", ""}
	}
	if err := sameName(name, t); err != nil {
		return err
	}
	_, err = up.Write(said)
	return err
}

// sameName holds the name that a TLS client asks for against its tunnel's
// host. One that asks for none may go on.
func sameName(name string, t Target) error {
	if name == "" {
		return nil
	}
	got, err := TargetOf(name, t.Port)
	if err != nil || got != t {
		return &Refusal{t.String(), "the tunnel is for " + t.Name() + " and the TLS greeting asks for " + quoted(name), ""}
	}
	return nil
}

// readHello reads a TLS client's greeting; said is what was taken from r.
func readHello(r io.Reader) (name string, said []byte, err error) {
	rec := &recorder{from: r}
	seen := errors.New("seen")
	found := false
	err = tls.Server(rec, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		name, found = h.ServerName, true
		return nil, seen
	}}).Handshake()
	if found {
		return name, rec.said.Bytes(), nil
	}
	return "", nil, err
}

// recorder is a connection that is only read from, and remembers it.
type recorder struct {
	net.Conn // nil: TLS calls nothing else before the greeting is read
	from     io.Reader
	said     bytes.Buffer
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.from.Read(b)
	r.said.Write(b[:n])
	return n, err
}

func (r *recorder) Write(b []byte) (int, error)      { return len(b), nil }
func (r *recorder) Close() error                     { return nil }
func (r *recorder) SetDeadline(time.Time) error      { return nil }
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }
