package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/egress/egresstest"
)

const goodAddr, evilAddr = egresstest.Good, egresstest.Evil

// attackWorld allows api.test on the usual ports, at a public address that in
// truth leads to servers of the test. Whatever else is dialled is on record.
func attackWorld(t *testing.T) (*world, *Session) {
	t.Helper()
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "reached as %s %s with %q", r.Host, r.RequestURI, b)
	}))
	t.Cleanup(plain.Close)
	secure, _ := named(t, plain.Config.Handler, "api.test")
	names := map[string][]string{}
	for name, addr := range egresstest.Hosts {
		names[name] = []string{addr}
	}
	w := newWorld(t, names, nil)
	w.reroute[netip.MustParseAddrPort(goodAddr+":80")] = plain.Listener.Addr().String()
	w.reroute[netip.MustParseAddrPort(goodAddr+":443")] = secure.Listener.Addr().String()
	return w, w.session(Rules{Allow: []Rule{{ID: "the api", Host: "api.test"}}})
}

// TestAttack13: ways around an allow-list, each tried on the real proxy. What
// is refused is refused before a name is looked up or an address dialled, and
// it is in the log.
func TestAttack13(t *testing.T) {
	for name, send := range egresstest.Refused {
		t.Run(name, func(t *testing.T) {
			w, s := attackWorld(t)
			if got := raw(t, s, send); !egresstest.Refusal(send, got) {
				t.Errorf("answered %.200q", got)
			}
			if d := w.dials(); len(d) > 0 {
				t.Errorf("dialled %v", d)
			}
			for host := range w.zone.asked {
				t.Errorf("looked up %s", host)
			}
			if d := w.last(); d.Verdict != Refused || !strings.Contains(w.logged(), "egress refused") {
				t.Errorf("%+v in the log:\n%s", d, w.logged())
			}
		})
	}
	// What is the allowed host in another spelling is the allowed host.
	for name, send := range egresstest.Reached {
		t.Run("allowed, "+name, func(t *testing.T) {
			w, s := attackWorld(t)
			if got := raw(t, s, send); !strings.Contains(got, "reached as api.test /") {
				t.Errorf("answered %q", got)
			}
			if d := w.dials(); len(d) != 1 || d[0].String() != goodAddr+":80" {
				t.Errorf("dialled %v", d)
			}
			if w.zone.asked["api.test"] != 1 || len(w.zone.asked) != 1 {
				t.Errorf("looked up %v", w.zone.asked)
			}
			if d := w.last(); d.Rule != "the api" || d.Addr.String() != goodAddr || d.Host != "api.test" {
				t.Errorf("%+v", d)
			}
		})
	}
}

// TestAttack13SNI: a tunnel to one host is none to another one behind it.
func TestAttack13SNI(t *testing.T) {
	w, s := attackWorld(t)
	hello := func(name string) error {
		c, err := open(t, s, "api.test:443")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
	}
	if err := hello("evil.test"); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("evil.test through a tunnel for api.test: %v", err)
	}
	if d := w.last(); d.Verdict != Refused || !strings.Contains(d.Reason, "evil.test") {
		t.Errorf("%+v", d)
	}
	if err := hello("API.test"); err != nil {
		t.Errorf("its own name: %v", err)
	}
	c, err := open(t, s, "api.test:443")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "\x16\x03\x01\x00\x05\x01\x00\x00\x01\xff"); err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(c); len(b) > 7 {
		t.Errorf("a greeting that cannot be read was passed on: %q", b)
	}
}

// TestAttack13Inside: inside an intercepted connection requests are for its
// host, and HTTP/2, by which one connection serves many, is not offered.
func TestAttack13Inside(t *testing.T) {
	w, s, _, base, seen := secretWorld(t, Secret{Header: "Authorization"})
	target := strings.TrimPrefix(base, "https://")
	inside := func(send string) string {
		c, err := open(t, s, target)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		in := tls.Client(c, &tls.Config{ServerName: "api.test", RootCAs: poolOf(t, s.CA()), NextProtos: []string{"h2", "http/1.1"}})
		if _, err := io.WriteString(in, send); err != nil {
			t.Fatal(err)
		}
		if p := in.ConnectionState().NegotiatedProtocol; p != "http/1.1" {
			t.Errorf("%q was agreed on", p)
		}
		r := bufio.NewReader(in)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return err.Error()
		}
		b, _ := io.ReadAll(resp.Body)
		return resp.Status + " " + string(b)
	}
	for name, send := range map[string]string{
		"another Host":    "GET / HTTP/1.1\r\nHost: other.test:" + strings.Split(target, ":")[1] + "\r\n\r\n",
		"another port":    "GET / HTTP/1.1\r\nHost: api.test\r\n\r\n",
		"absolute form":   "GET https://other.test/ HTTP/1.1\r\nHost: " + target + "\r\n\r\n",
		"another CONNECT": "CONNECT other.test:443 HTTP/1.1\r\nHost: " + target + "\r\n\r\n",
		"smuggled":        "POST / HTTP/1.1\r\nHost: " + target + "\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	} {
		if got := inside(send); !strings.HasPrefix(got, "4") {
			t.Errorf("%s: %s", name, got)
		}
		if d := w.last(); d.Verdict != Refused {
			t.Errorf("%s: %+v", name, d)
		}
	}
	if h := seen(); h != nil {
		t.Errorf("the host was asked: %q", h)
	}
	if got := inside("GET / HTTP/1.1\r\nHost: " + target + "\r\n\r\n"); !strings.HasPrefix(got, "200") || holdsSecret(got) {
		t.Error(got)
	}
}

// TestAttack13Redirect: a redirect is handed to the program, and where it
// leads is a request like any other.
func TestAttack13Redirect(t *testing.T) {
	w, s := attackWorld(t)
	server := httptest.NewServer(http.RedirectHandler("http://169.254.169.254/latest/meta-data/", http.StatusFound))
	defer server.Close()
	w.reroute[netip.MustParseAddrPort(goodAddr+":80")] = server.Listener.Addr().String()
	web := browser(s, nil)
	web.CheckRedirect = nil
	resp, err := web.Get("http://api.test/")
	got := everything(t, resp, err)
	if !strings.HasPrefix(got, "403") || !strings.Contains(got, "169.254.169.254") {
		t.Error(got)
	}
	if d := w.dials(); len(d) != 1 {
		t.Errorf("dialled %v", d)
	}
}

// flipping answers with another address each time it is asked.
type flipping struct {
	answers []string
	asked   int
}

func (f *flipping) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	f.asked++
	return []netip.Addr{netip.MustParseAddr(f.answers[(f.asked-1)%len(f.answers)])}, nil
}

// TestAttack13Rebinding: between the check and the dial nobody is asked again.
func TestAttack13Rebinding(t *testing.T) {
	for _, inner := range []string{"127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "fd00:ec2::254", "0.0.0.0"} {
		w, s := attackWorld(t)
		dns := &flipping{answers: []string{goodAddr, inner}}
		w.proxy.names.ask = dns
		if got := raw(t, s, egresstest.Get("api.test", "api.test")); !strings.Contains(got, "reached as") {
			t.Errorf("%s: %q", inner, got)
		}
		if d := w.dials(); dns.asked != 1 || len(d) != 1 || d[0].Addr().String() != goodAddr {
			t.Errorf("%s: asked %d times, dialled %v", inner, dns.asked, d)
		}
		// The answer becomes old, and the next one points inward.
		w.proxy.names.mu.Lock()
		clear(w.proxy.names.known)
		w.proxy.names.mu.Unlock()
		s.transport.CloseIdleConnections()
		if got := raw(t, s, egresstest.Get("api.test", "api.test")); !strings.HasPrefix(got, "HTTP/1.1 403") || !strings.Contains(got, "its address is") {
			t.Errorf("%s: %q", inner, got)
		}
		if got := raw(t, s, egresstest.Connect("api.test:443")); !strings.HasPrefix(got, "HTTP/1.1 403") {
			t.Errorf("%s: %q", inner, got)
		}
		if d := w.dials(); len(d) != 0 {
			t.Errorf("%s: dialled %v", inner, d)
		}
	}
}

// TestRulesForPrivateAddresses: what opens an inner address, and what does not.
func TestRulesForPrivateAddresses(t *testing.T) {
	own := ownAddresses()
	for _, c := range []struct {
		rules   []Rule
		host    string
		address string
		ok      bool
	}{
		{[]Rule{{Host: "a.test"}}, "a.test", "10.0.0.5", false},
		{[]Rule{{Host: "a.test", Private: true}}, "a.test", "10.0.0.5", true},
		{[]Rule{{Host: "a.test", Private: true}}, "a.test", "127.0.0.1", true},
		{[]Rule{{Host: "a.test", Private: true}}, "a.test", "169.254.169.254", false},
		{[]Rule{{Host: "a.test", Private: true}}, "a.test", "fd00:ec2::254", false},
		{[]Rule{{Host: "a.test", Private: true}}, "a.test", "64:ff9b::a00:5", false},
		{[]Rule{{Host: "a.test"}, {Host: "10.0.0.0/8"}}, "a.test", "10.0.0.5", true},
		{[]Rule{{Host: "a.test"}, {Host: "10.0.0.0/8:8080"}}, "a.test", "10.0.0.5", false},
		{[]Rule{{Host: "a.test"}, {Host: "169.254.169.254"}}, "a.test", "169.254.169.254", true},
		{[]Rule{{Host: "0.0.0.0/0"}}, "10.0.0.5", "", false},
		{[]Rule{{Host: "0.0.0.0/0"}}, "169.254.169.254", "", false},
		{[]Rule{{Host: "0.0.0.0/0"}}, "8.8.8.8", "", true},
		{[]Rule{{Host: "::/0"}}, "[::1]", "", false},
		{[]Rule{{Host: "0.0.0.0/0", Private: true}}, "10.0.0.5", "", true},
		{[]Rule{{Host: "10.0.0.5"}}, "10.0.0.5", "", true},
		{[]Rule{{Host: "169.254.0.0/16"}}, "169.254.169.254", "", true},
	} {
		w := newWorld(t, map[string][]string{"a.test": {c.address}}, nil)
		s := w.session(Rules{Allow: c.rules})
		raw(t, s, egresstest.Connect(c.host+":443"))
		d := w.last()
		if refused := d.Verdict == Refused; refused == c.ok {
			t.Errorf("%+v %s %s: %+v", c.rules, c.host, c.address, d)
		}
		if dialled := len(w.dials()) > 0; dialled != c.ok {
			t.Errorf("%+v %s %s: dialled %v", c.rules, c.host, c.address, dialled)
		}
	}
	for _, a := range own {
		if kindOf(a, own) == public {
			t.Errorf("%v of this machine counts as public", a)
		}
	}
}

// FuzzMatchedIsDialled: for whatever target, the address that is dialled
// is one that the resolver gave for the one spelling that the rule matched.
func FuzzMatchedIsDialled(f *testing.F) {
	for _, s := range []string{"api.test", "API.test.", "api.test\x00", "[::ffff:127.0.0.1]", "user@api.test", "api。test", "0x7f.1", "x.api.test"} {
		f.Add(s, uint16(443))
	}
	var dialled []netip.AddrPort
	zone := &zone{names: map[string][]string{"api.test": {goodAddr}, "x.api.test": {evilAddr}}}
	p, err := New(Config{Resolver: zone, Dial: func(_ context.Context, to netip.AddrPort) (net.Conn, error) {
		dialled = append(dialled, to)
		return nil, io.EOF
	}})
	if err != nil {
		f.Fatal(err)
	}
	tab, err := compile(Rules{Allow: []Rule{{Host: "api.test"}}})
	if err != nil {
		f.Fatal(err)
	}
	s := &Session{proxy: p, table: tab}
	f.Fuzz(func(t *testing.T, host string, port uint16) {
		dialled = nil
		to, err := TargetOf(host, port)
		if err != nil {
			return
		}
		r, no := s.judge(to)
		if no != nil {
			return
		}
		_, _ = s.dial(t.Context(), to, r)
		if to.Host != "api.test" || port != 80 && port != 443 || len(dialled) != 1 || dialled[0] != netip.AddrPortFrom(netip.MustParseAddr(goodAddr), port) {
			t.Fatalf("%q:%d is %v and dials %v", host, port, to, dialled)
		}
	})
}
