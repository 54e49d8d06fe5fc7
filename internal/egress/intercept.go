package egress

import (
	"context"
	"crypto/tls"
	"net"
)

// intercept ends the session's TLS here, as the host, and serves the requests
// inside: a request inside goes to that host or nowhere. HTTP/2 is not
// offered: one connection would then be good for other hosts too.
func (s *Session) intercept(c *client, t Target, d Decision) {
	cert, err := s.proxy.ca.forHost(t)
	if err != nil {
		d.Verdict, d.Reason = Failed, "no certificate could be made: "+err.Error()
		s.tell(d)
		return
	}
	c.within(headTime)
	var wrong error
	inner := tls.Server(&unread{Conn: c.conn, client: c}, &tls.Config{
		Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, SessionTicketsDisabled: true,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			wrong = sameName(h.ServerName, t)
			return nil, wrong
		},
	})
	defer inner.Close()
	ctx, cancel := context.WithTimeout(s.ctx, headTime)
	defer cancel()
	if err := inner.HandshakeContext(ctx); err != nil {
		if wrong != nil {
			s.tell(d.outcome(wrong))
			return
		}
		// Most often a program that does not know the authority.
		d.Verdict, d.Reason = Failed, "the session's side of TLS failed; the program inside may not read the variables that name the authority"
		s.tell(d)
		return
	}
	c.within(0)
	in := newClient(inner)
	defer in.release()
	s.http(in, &t)
}

// unread is a client's connection, what its buffer holds first.
type unread struct {
	net.Conn
	client *client
}

func (u *unread) Read(b []byte) (int, error) {
	if u.client.br.Buffered() > 0 {
		return u.client.br.Read(b)
	}
	return u.Conn.Read(b)
}
