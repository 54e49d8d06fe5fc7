package sandboxtest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/berthdev/berth/internal/egress"
	"github.com/berthdev/berth/internal/egress/egresstest"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

// record is a resolver and a dialler that note what they are asked for. The
// allowed host's public address leads to a server of the test.
type record struct {
	to string

	mu      sync.Mutex
	asked   []string
	dialled []netip.AddrPort
}

func (r *record) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	host = strings.TrimSuffix(host, ".")
	r.mu.Lock()
	r.asked = append(r.asked, host)
	r.mu.Unlock()
	if a, ok := egresstest.Hosts[host]; ok {
		return []netip.Addr{netip.MustParseAddr(a)}, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func (r *record) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	r.mu.Lock()
	r.dialled = append(r.dialled, to)
	r.mu.Unlock()
	if to.String() != egresstest.Good+":80" {
		return nil, fmt.Errorf("the test has no %v", to)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", r.to)
}

// reset forgets, and gives what was there.
func (r *record) reset() (asked []string, dialled []netip.AddrPort) {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked, dialled = r.asked, r.dialled
	r.asked, r.dialled = nil, nil
	return asked, dialled
}

// testAttack13 sends from inside what may get around an allow-list. Each
// refusal is decided on, and nothing but the allowed host is dialled.
func testAttack13(t *testing.T, d sandbox.Driver) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "reached as %s", r.Host)
	}))
	defer server.Close()
	rec := &record{to: server.Listener.Addr().String()}
	way := NewWay(t, egress.Rules{Allow: []egress.Rule{{ID: "the api", Host: egresstest.AllowedHost}}})
	way.proxy.Close()
	way.cfg.Resolver, way.cfg.Dial = rec, rec.dial
	way.open()
	w := way.Start(d)
	// The sandbox's own idea of names is of no interest to the proxy.
	w.Do("(echo 127.0.0.1 api.test; echo 169.254.169.254 evil.test) 2>/dev/null >>/etc/hosts")
	send := func(bytes string) string {
		var escaped strings.Builder
		for _, c := range []byte(bytes) {
			fmt.Fprintf(&escaped, `\x%02x`, c)
		}
		// The proxy may hang up before all is said.
		return Output(w.Do(ask + `ask '` + escaped.String() + `' 2>/dev/null | tr '\0' '.' | head -c 2000`))
	}
	for name, bytes := range egresstest.Refused {
		t.Run(name, func(t *testing.T) {
			before := way.count()
			got := send(bytes)
			if strings.HasPrefix(bytes, "\x05") {
				bytes, got = "\x05", strings.ReplaceAll(got, ".", "\x00")
			}
			if !egresstest.Refusal(bytes, got) {
				t.Errorf("answered %q", got)
			}
			if asked, dialled := rec.reset(); len(asked)+len(dialled) > 0 {
				t.Errorf("looked up %v and dialled %v", asked, dialled)
			}
			if l := way.Last(); way.count() == before || l.Verdict != egress.Refused || l.Session != w.Spec.SessionID {
				t.Errorf("decided %+v", l)
			}
		})
	}
	for name, bytes := range egresstest.Reached {
		t.Run("allowed, "+name, func(t *testing.T) {
			if got := send(bytes); !strings.Contains(got, "reached as api.test") {
				t.Errorf("answered %q", got)
			}
			if _, dialled := rec.reset(); len(dialled) > 1 || len(dialled) == 1 && dialled[0].String() != egresstest.Good+":80" {
				t.Errorf("dialled %v", dialled)
			}
		})
	}
	w.Want("echo still here", "still here\n", toolset.Exited, 0)
}

// count is how many decisions there were.
func (w *Way) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.decisions)
}
