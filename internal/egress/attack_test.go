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
)

const (
	goodAddr = "93.184.216.34"
	evilAddr = "93.184.216.66"
)

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
	w := newWorld(t, map[string][]string{"api.test": {goodAddr}, "evil.test": {evilAddr}, "api.test.evil.test": {evilAddr}}, nil)
	w.reroute[netip.MustParseAddrPort(goodAddr+":80")] = plain.Listener.Addr().String()
	w.reroute[netip.MustParseAddrPort(goodAddr+":443")] = secure.Listener.Addr().String()
	return w, w.session(Rules{Allow: []Rule{{ID: "the api", Host: "api.test"}}})
}

func get(host, header string) string {
	return "GET http://" + host + "/ HTTP/1.1\r\nHost: " + header + "\r\nConnection: close\r\n\r\n"
}

func connect(host string) string {
	return "CONNECT " + host + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n"
}

func socks(kind byte, addr string, port uint16) string {
	return "\x05\x01\x00\x05\x01\x00" + string([]byte{kind}) + addr + string([]byte{byte(port >> 8), byte(port)})
}

func socksFor(name string, port uint16) string {
	return socks(socksName, string([]byte{byte(len(name))})+name, port)
}

// TestAttack13: ways around an allow-list, each tried on the real proxy. What
// is refused is refused before a name is looked up or an address dialled, and
// it is in the log.
func TestAttack13(t *testing.T) {
	const post = "POST http://api.test/ HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n"
	for name, send := range map[string]string{
		"NUL before":                          get("evil.test\x00.api.test", "api.test"),
		"NUL behind":                          get("api.test\x00.evil.test", "api.test"),
		"NUL, CONNECT":                        connect("api.test\x00.evil.test:443"),
		"NUL, SOCKS":                          socksFor("evil.test\x00api.test", 443),
		"NUL, SOCKS, swapped":                 socksFor("api.test\x00.evil.test", 443),
		"percent NUL":                         get("api.test%00.evil.test", "api.test"),
		"percent dot":                         get("evil%2etest", "evil.test"),
		"suffix":                              get("api.test.evil.test", "api.test.evil.test"),
		"suffix, SOCKS":                       socksFor("api.test.evil.test", 80),
		"prefix":                              get("evilapi.test", "evilapi.test"),
		"two dots":                            get("api.test..", "api.test.."),
		"subdomain":                           get("x.api.test", "x.api.test"),
		"data in labels":                      get("c2VjcmV0.data.api.test", "c2VjcmV0.data.api.test"),
		"homoglyph":                           get("аpi.test", "аpi.test"),
		"its punycode":                        get("xn--pi-6kc.test", "xn--pi-6kc.test"),
		"bad punycode":                        get("xn--a.test", "xn--a.test"),
		"userinfo":                            get("api.test@evil.test", "evil.test"),
		"userinfo with port":                  get("api.test:80@evil.test", "evil.test"),
		"userinfo of the allowed":             get("evil.test@api.test", "api.test"),
		"userinfo, CONNECT":                   connect("api.test:443@evil.test:443"),
		"backslash":                           get(`evil.test\@api.test`, "api.test"),
		"backslash, other way":                get(`api.test\.evil.test`, "api.test"),
		"fragment":                            "GET http://evil.test#@api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n",
		"question mark":                       "GET http://evil.test?@api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n",
		"tab":                                 get("api.test\t.evil.test", "api.test"),
		"loopback":                            get("127.0.0.1", "127.0.0.1"),
		"the address itself":                  get(goodAddr, goodAddr),
		"the address, SOCKS":                  socks(socksIPv4, "\x5d\xb8\xd8\x22", 80),
		"loopback as one number":              get("2130706433", "2130706433"),
		"loopback in hexadecimal":             get("0x7f000001", "0x7f000001"),
		"loopback in octal":                   get("0177.0.0.1", "0177.0.0.1"),
		"loopback cut short":                  get("127.1", "127.1"),
		"loopback, a number by name in SOCKS": socksFor("2130706433", 80),
		"metadata":                            get("169.254.169.254", "169.254.169.254"),
		"metadata, mapped":                    get("[::ffff:169.254.169.254]", "[::ffff:169.254.169.254]"),
		"metadata, mapped, SOCKS":             socks(socksIPv6, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xa9\xfe\xa9\xfe", 80),
		"metadata, IPv6":                      connect("[fd00:ec2::254]:80"),
		"a zone id":                           connect("[fe80::1%25eth0]:80"),
		"full-width digits":                   get("１６９.254.169.254", "169.254.169.254"),
		"Host is another":                     get("api.test", "evil.test"),
		"Host is another, port":               get("api.test", "api.test:8080"),
		"Host is another, CONNECT":            "CONNECT api.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n",
		"CONNECT with a body":                 "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\nContent-Length: 3\r\n\r\nabc",
		"two Hosts":                           "GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nHost: evil.test\r\n\r\n",
		"no Host":                             "GET http://api.test/ HTTP/1.1\r\n\r\n",
		"port 22":                             connect("api.test:22"),
		"port 22, SOCKS":                      socksFor("api.test", 22),
		"port 22, plain":                      get("api.test:22", "api.test:22"),
		"port beyond":                         connect("api.test:65979"),
		"port with zeros":                     connect("api.test:0443"),
		"another scheme":                      "GET https://api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n",
		"no scheme":                           "GET / HTTP/1.1\r\nHost: api.test\r\n\r\n",
		"length and chunks":                   post + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /",
		"chunks and length":                   post + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET /",
		"two lengths":                         post + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
		"a list of lengths":                   post + "Content-Length: 5, 5\r\n\r\nhello",
		"a signed length":                     post + "Content-Length: +5\r\n\r\nhello",
		"two encodings":                       post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
		"an odd encoding":                     post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"a hidden encoding":                   post + "Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
		"a folded header":                     post + "X: a\r\n Content-Length: 5\r\n\r\nhello",
		"a bare LF":                           "GET http://api.test/ HTTP/1.1\nHost: api.test\n\n",
		"a bare CR":                           "GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nX: a\rHost: evil.test\r\n\r\n",
		"a NUL in a header":                   "GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nX: a\x00\r\n\r\n",
		"a space in the path":                 "GET http://api.test/ HTTP/1.1 HTTP/1.1\r\nHost: api.test\r\n\r\n",
		"HTTP/2 from the start":               "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"HTTP/0.9":                            "GET http://api.test/\r\n\r\n",
		"headers of 100 KB":                   "GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nX: " + strings.Repeat("x", 100<<10) + "\r\n\r\n",
		"SOCKS4":                              "\x04\x01\x00\x50\x00\x00\x00\x01\x00evil.test\x00",
	} {
		t.Run(name, func(t *testing.T) {
			w, s := attackWorld(t)
			got := raw(t, s, send)
			switch {
			case strings.HasPrefix(send, "\x05"):
				if !strings.HasPrefix(got, "\x05\x00\x05\x02") {
					t.Errorf("answered %q", got)
				}
			case !strings.HasPrefix(got, "HTTP/1.1 4"):
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
	for name, send := range map[string]string{
		"plain": get("api.test", "api.test"), "upper case": get("API.TEST", "Api.Test"), "trailing dot": get("api.test.", "api.test"),
		"the usual port": get("api.test:80", "api.test"), "wide dot": get("api．test", "api.test"), "SOCKS": socksFor("API.test.", 80) + get("", "api.test")[0:0] + "GET / HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n",
	} {
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
		if got := raw(t, s, get("api.test", "api.test")); !strings.Contains(got, "reached as") {
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
		if got := raw(t, s, get("api.test", "api.test")); !strings.HasPrefix(got, "HTTP/1.1 403") || !strings.Contains(got, "its address is") {
			t.Errorf("%s: %q", inner, got)
		}
		if got := raw(t, s, connect("api.test:443")); !strings.HasPrefix(got, "HTTP/1.1 403") {
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
		raw(t, s, connect(c.host+":443"))
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
