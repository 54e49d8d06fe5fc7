// Package egress is a session's way out: a proxy in the supervisor, on a unix
// socket of the session's own, that speaks HTTP and SOCKS5 and reaches what
// the session's rules name, at addresses that it has checked, and nothing
// else. Named hosts may get a secret put into their requests, which the
// session never sees.
//
// A name is read by one parser (ParseTarget) wherever it comes from, asked of
// one resolver, and the address that was checked is the one that is dialled.
// How a request travels:
//
//	session.go   a connection, told apart by its first byte
//	http.go      CONNECT and requests of the absolute form    socks.go  SOCKS5
//	dial.go      rule, addresses, connection: the only way out
//	tunnel.go    bytes both ways, the name in the TLS greeting checked
//	intercept.go TLS ended here, for hosts with a secret      secret.go  in, and out again
package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// Config has no required field.
type Config struct {
	// Dir keeps the key of the authority for intercepted hosts (ca.key, for
	// its owner alone), so that sandboxes which outlive a worker go on
	// trusting the next one. "" keeps the key in memory.
	Dir string
	// Resolver finds addresses; nil is this machine's.
	Resolver Resolver
	// Dial connects to an address that was checked; nil is TCP.
	Dial func(context.Context, netip.AddrPort) (net.Conn, error)
	// Roots are whom the proxy trusts when it meets an intercepted host; nil
	// is whom this machine trusts.
	Roots *x509.CertPool
	// RootsPEM are those that sessions are to trust besides the authority; nil
	// is this machine's own file.
	RootsPEM []byte
	// Observe, when set, hears every decision. It must not block.
	Observe func(Decision)
	// Log hears decisions, of a session that makes very many not all; nil is
	// silence.
	Log *slog.Logger
}

// Proxy makes sessions. Safe for concurrent use.
type Proxy struct {
	cfg   Config
	log   *slog.Logger
	names *names
	ca    *authority

	stats counters

	mu     sync.Mutex
	open   map[*Session]bool
	closed bool
}

// New makes a proxy without sessions.
func New(cfg Config) (*Proxy, error) {
	if cfg.Resolver == nil {
		cfg.Resolver = net.DefaultResolver
	}
	if cfg.Dial == nil {
		cfg.Dial = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", to.String())
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	ca, err := openAuthority(cfg.Dir)
	if err != nil {
		return nil, err
	}
	return &Proxy{cfg: cfg, log: cfg.Log, names: newNames(cfg.Resolver, ownAddresses), ca: ca, open: map[*Session]bool{}}, nil
}

// Close ends every session.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	var open []*Session
	for s := range p.open {
		open = append(open, s)
	}
	p.mu.Unlock()
	var errs []error
	for _, s := range open {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// Verdict is how a request for a connection ended.
type Verdict string

// The verdicts. A request that was allowed and did not come through has
// failed.
const (
	Allowed Verdict = "allowed"
	Refused Verdict = "refused"
	Failed  Verdict = "failed"
)

// Decision is what the proxy did with a request. It holds no path, no header
// and no secret.
type Decision struct {
	Session string
	Via     string // connect, http, socks or tls (a request inside an intercepted connection)
	Host    string // in its one spelling; what cannot be read is quoted
	Port    uint16
	Addr    netip.Addr // whom it went to; not valid when it went nowhere
	Rule    string     // the id of the rule that allowed it
	Verdict Verdict
	Reason  string   // why not
	Secrets []string // names of those that were put in
}

// Stats are counts since the proxy was made.
type Stats struct {
	Sessions    int64 // open now
	Connections int64 // from sessions
	Allowed     int64
	Refused     int64
	Failed      int64
	Sent        int64 // bytes to hosts
	Received    int64 // bytes from hosts
}

type counters struct {
	connections, allowed, refused, failed, sent, received atomic.Int64
}

// Stats gives the counts.
func (p *Proxy) Stats() Stats {
	p.mu.Lock()
	open := len(p.open)
	p.mu.Unlock()
	c := &p.stats
	return Stats{
		Sessions: int64(open), Connections: c.connections.Load(), Allowed: c.allowed.Load(), Refused: c.refused.Load(),
		Failed: c.failed.Load(), Sent: c.sent.Load(), Received: c.received.Load(),
	}
}

// towards is how TLS is spoken to intercepted hosts.
func (p *Proxy) towards() *tls.Config {
	return &tls.Config{RootCAs: p.cfg.Roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
}
