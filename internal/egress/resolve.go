package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Resolver finds the addresses of a name; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

const (
	// keepFound and keepMissing are how long an answer counts: the resolver of
	// the standard library does not tell what the zone wishes.
	keepFound   = 30 * time.Second
	keepMissing = 3 * time.Second
	maxNames    = 4096
	maxAnswers  = 32
	lookupTime  = 10 * time.Second
	ownTime     = 10 * time.Second
)

// names asks one resolver and remembers for a while. Safe for concurrent use.
type names struct {
	ask Resolver
	own func() []netip.Addr

	mu    sync.Mutex
	known map[string]*answer

	ownMu sync.Mutex
	ownAt time.Time
	mine  []netip.Addr
}

// answer is what was found for a name. done is closed when it is there.
type answer struct {
	done  chan struct{}
	addrs []netip.Addr
	err   error
	until time.Time
}

func newNames(ask Resolver, own func() []netip.Addr) *names {
	return &names{ask: ask, own: own, known: map[string]*answer{}}
}

// lookup gives the addresses of a target that is a name. Those who ask for the
// same name at once share one question.
func (n *names) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	a := n.known[host]
	if a != nil && a.over(time.Now()) {
		a = nil
	}
	if a == nil {
		a = &answer{done: make(chan struct{})}
		n.makeRoom()
		n.known[host] = a
		n.mu.Unlock()
		// Whoever asked first may leave; the others still want the answer.
		ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookupTime)
		go func() {
			defer cancel()
			n.fill(ask, a, host)
		}()
	} else {
		n.mu.Unlock()
	}
	select {
	case <-a.done:
		return a.addrs, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

var errNoAddress = errors.New("it has no address")

func (n *names) fill(ctx context.Context, a *answer, host string) {
	defer close(a.done)
	// The dot keeps the machine's search domains out.
	addrs, err := n.ask.LookupNetIP(ctx, "ip", host+".")
	keep := keepFound
	switch {
	case err != nil:
		a.err, keep = errNoAddress, keepMissing
		var dns *net.DNSError
		if errors.As(err, &dns) && dns.IsTimeout || ctx.Err() != nil {
			a.err = errors.New("the resolver does not answer")
		}
	case len(addrs) == 0:
		a.err, keep = errNoAddress, keepMissing
	}
	for _, addr := range addrs[:min(len(addrs), maxAnswers)] {
		if addr.IsValid() && addr.Zone() == "" {
			a.addrs = append(a.addrs, addr.Unmap())
		}
	}
	a.until = time.Now().Add(keep)
}

// over says that an answer is there and has become too old.
func (a *answer) over(now time.Time) bool {
	select {
	case <-a.done:
		return now.After(a.until)
	default:
		return false
	}
}

// makeRoom bounds what is remembered. n.mu is held.
func (n *names) makeRoom() {
	if len(n.known) < maxNames {
		return
	}
	now := time.Now()
	for host, a := range n.known {
		if a.over(now) {
			delete(n.known, host)
		}
	}
	for host := range n.known {
		if len(n.known) < maxNames {
			return
		}
		delete(n.known, host)
	}
}

// kind says what an address is for, with this machine's own addresses known.
func (n *names) kind(a netip.Addr) kind {
	n.ownMu.Lock()
	if time.Since(n.ownAt) > ownTime {
		n.mine, n.ownAt = n.own(), time.Now()
	}
	mine := n.mine
	n.ownMu.Unlock()
	return kindOf(a, mine)
}

// ownAddresses are those of this machine's interfaces.
func ownAddresses() []netip.Addr {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var own []netip.Addr
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				own = append(own, addr.Unmap())
			}
		}
	}
	return own
}
