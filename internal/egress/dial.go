package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"
)

const (
	dialTime    = 20 * time.Second // to a host, all its addresses together
	addressTime = 8 * time.Second  // to one address
)

// Refusal says which host is not to be reached, why, and what would allow it.
type Refusal struct {
	Host   string // host:port, or what was asked for, quoted
	Reason string
	Cure   string // "" when nothing would
}

func (e *Refusal) Error() string {
	if e.Cure == "" {
		return fmt.Sprintf("%s was refused: %s", e.Host, e.Reason)
	}
	return fmt.Sprintf("%s was refused: %s; %s", e.Host, e.Reason, e.Cure)
}

// unreachable is a host that is allowed and does not answer.
type unreachable struct {
	host, why string
	cause     error
}

func (e *unreachable) Error() string { return fmt.Sprintf("%s cannot be reached: %s", e.host, e.why) }
func (e *unreachable) Unwrap() error { return e.cause }

// judge gives the rule that allows a target, or the refusal.
func (s *Session) judge(t Target) (*rule, *Refusal) {
	r, near := s.table.find(t)
	switch {
	case r != nil:
		return r, nil
	case near != nil:
		ports := "80 and 443"
		if near.port != 0 {
			ports = fmt.Sprint(near.port)
		}
		return nil, &Refusal{t.String(), fmt.Sprintf("rule %q allows port %s only", near.id, ports),
			under(t.String())}
	}
	var ids []string
	for _, r := range s.table.rules {
		ids = append(ids, r.id)
	}
	allowed := "nothing is allowed"
	if len(ids) > 0 {
		allowed = "allowed are " + strings.Join(ids[:min(len(ids), 20)], ", ")
		if len(ids) > 20 {
			allowed += ", …"
		}
	}
	pattern := t.String()
	if t.Port == 80 || t.Port == 443 {
		pattern = strings.TrimSuffix(strings.TrimSuffix(pattern, ":443"), ":80")
	}
	return nil, &Refusal{t.String(), "no rule names it (" + allowed + ")", under(pattern)}
}

// under says where a host would have to be named.
func under(pattern string) string {
	return fmt.Sprintf("%q under network.allow in the policy would allow it", pattern)
}

// addresses gives those of a target that may be dialled under the rule.
func (s *Session) addresses(ctx context.Context, t Target, r *rule) ([]netip.Addr, error) {
	found := []netip.Addr{t.Addr}
	if !t.Addr.IsValid() {
		var err error
		if found, err = s.proxy.names.lookup(ctx, t.Host); err != nil {
			return nil, &unreachable{t.String(), err.Error(), err}
		}
	}
	var good []netip.Addr
	bad := special
	for _, a := range found {
		k := s.proxy.names.kind(a)
		if k == public || r.private && k.opened() || s.table.names(a, t.Port) {
			good = append(good, a)
		} else {
			bad = k
		}
	}
	if len(good) > 0 {
		return good, nil
	}
	cure := "a rule that names the address itself would allow it"
	if bad.opened() {
		cure = fmt.Sprintf("\"private\": true in rule %q, or a rule that names the address itself, would allow it", r.id)
	}
	return nil, &Refusal{t.String(), fmt.Sprintf("rule %q names it, but its address is %s", r.id, bad), cure}
}

// dial connects to a target: to an address that was checked, with no name
// looked up in between. The connection counts what it moves.
func (s *Session) dial(ctx context.Context, t Target, r *rule) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	addrs, err := s.addresses(ctx, t, r)
	if err != nil {
		return nil, err
	}
	var last error
	for _, a := range addrs {
		one, cancel := context.WithTimeout(ctx, addressTime)
		c, err := s.proxy.cfg.Dial(one, netip.AddrPortFrom(a, t.Port))
		cancel()
		if err == nil {
			return &metered{Conn: c, session: s, addr: a}, nil
		}
		if last = err; ctx.Err() != nil {
			break
		}
	}
	return nil, &unreachable{t.String(), plainly(last), last}
}

// plainly says in few words what went wrong, and nothing that came from
// elsewhere.
func plainly(err error) string {
	var cert *tls.CertificateVerificationError
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "it refuses connections"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "there is no way to its network"
	case errors.As(err, &cert):
		return "its certificate is not to be trusted: " + cert.Err.Error()
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "it does not answer in time"
	case errors.Is(err, errSpent):
		return errSpent.Error()
	}
	return "the connection broke"
}

var errSpent = errors.New("the session has moved as many bytes as its rules allow")

// metered counts what a session moves, and stops it where its rules do.
type metered struct {
	net.Conn
	session *Session
	addr    netip.Addr
}

func (m *metered) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	m.session.proxy.stats.received.Add(int64(n))
	if !m.session.spend(n) {
		return 0, errSpent
	}
	return n, err
}

func (m *metered) Write(b []byte) (int, error) {
	if !m.session.spend(len(b)) {
		return 0, errSpent
	}
	n, err := m.Conn.Write(b)
	m.session.proxy.stats.sent.Add(int64(n))
	return n, err
}

// CloseWrite says that no more is coming.
func (m *metered) CloseWrite() error {
	if c, ok := m.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return m.Conn.Close()
}
