package egress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// zone is a resolver with a few names, which counts what it was asked.
type zone struct {
	mu    sync.Mutex
	names map[string][]string
	asked map[string]int
}

func (z *zone) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	host, rooted := strings.CutSuffix(host, ".")
	if !rooted {
		return nil, errors.New("a search domain could be put behind it")
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.asked == nil {
		z.asked = map[string]int{}
	}
	z.asked[host]++
	var addrs []netip.Addr
	for _, a := range z.names[host] {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	if addrs == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return addrs, nil
}

// world is a proxy whose dials and decisions are on record.
type world struct {
	t     testing.TB
	proxy *Proxy
	zone  *zone
	log   *bytes.Buffer // under mu

	mu        sync.Mutex
	dialled   []netip.AddrPort
	reroute   map[netip.AddrPort]string // where a checked address really leads in the test
	decisions []Decision
}

func newWorld(t testing.TB, names map[string][]string, roots *x509.CertPool) *world {
	t.Helper()
	w := &world{t: t, zone: &zone{names: names}, log: &bytes.Buffer{}, reroute: map[netip.AddrPort]string{}}
	p, err := New(Config{
		Resolver: w.zone, Roots: roots, RootsPEM: []byte("# nobody\n"),
		Dial: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			w.mu.Lock()
			w.dialled = append(w.dialled, to)
			addr := to.String()
			if other, ok := w.reroute[to]; ok {
				addr = other
			} else if !to.Addr().IsLoopback() {
				w.mu.Unlock()
				return nil, errors.New("the test has no such network")
			}
			w.mu.Unlock()
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		},
		Observe: func(d Decision) {
			w.mu.Lock()
			w.decisions = append(w.decisions, d)
			w.mu.Unlock()
		},
		Log: slog.New(slog.NewTextHandler(lockedWriter{w}, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.proxy = p
	t.Cleanup(func() { p.Close() })
	return w
}

type lockedWriter struct{ w *world }

func (l lockedWriter) Write(b []byte) (int, error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	return l.w.log.Write(b)
}

func (w *world) session(rules Rules) *Session {
	w.t.Helper()
	s, err := w.proxy.Session("sesn_test", filepath.Join(w.t.TempDir(), "egress"), rules)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// last gives the newest decision and forgets all.
func (w *world) last() Decision {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.decisions) == 0 {
		w.t.Fatal("nothing was decided")
	}
	d := w.decisions[len(w.decisions)-1]
	w.decisions = nil
	return d
}

func (w *world) dials() []netip.AddrPort {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.dialled
	w.dialled = nil
	return d
}

func (w *world) logged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

// raw speaks to the proxy as it likes: sends, and reads all that comes.
func raw(t testing.TB, s *Session, send string) string {
	t.Helper()
	c, err := net.Dial("unix", s.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, send); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.UnixConn).CloseWrite()
	b, _ := io.ReadAll(c)
	return string(b)
}

// open asks for a tunnel and gives the connection after a 200.
func open(t testing.TB, s *Session, target string) (net.Conn, error) {
	t.Helper()
	c, err := net.Dial("unix", s.Socket())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
	resp, err := http.ReadResponse(bufio.NewReaderSize(&oneByte{c}, 16), &http.Request{Method: "CONNECT"})
	if err != nil {
		c.Close()
		return nil, err
	}
	if resp.StatusCode != 200 {
		b, _ := io.ReadAll(resp.Body)
		c.Close()
		return nil, fmt.Errorf("%d %s", resp.StatusCode, b)
	}
	return c, nil
}

// oneByte keeps a buffered reader from taking what follows.
type oneByte struct{ r io.Reader }

func (o *oneByte) Read(b []byte) (int, error) { return o.r.Read(b[:1]) }

// browser is an HTTP client behind the session's proxy.
func browser(s *Session, roots *x509.CertPool) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.invalid:3128"}),
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", s.Socket())
			},
			TLSClientConfig: &tls.Config{RootCAs: roots},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func poolOf(t testing.TB, file string) *x509.CertPool {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		t.Fatalf("%s holds no certificate", file)
	}
	return pool
}

// named makes a TLS server for names, with an authority of its own.
func named(t testing.TB, h http.Handler, names ...string) (*httptest.Server, *x509.CertPool) {
	t.Helper()
	ca, err := openAuthority("")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{NextProtos: []string{"h2", "http/1.1"}}
	var holders []Target
	for _, n := range names {
		to, err := ParseTarget(n, 443)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := ca.forHost(to)
		if err != nil {
			t.Fatal(err)
		}
		s.TLS.Certificates = append(s.TLS.Certificates, *cert)
		holders = append(holders, to)
	}
	tab := &table{holders: map[string][]int{}}
	for _, to := range holders {
		tab.holders[to.String()] = []int{0}
	}
	b, err := ca.certificate(tab)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, pool
}

func portOf(t testing.TB, s *httptest.Server) string {
	t.Helper()
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
