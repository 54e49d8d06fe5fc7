package sandboxtest

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/berthdev/berth/internal/egress"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

// here resolves a few names to this machine.
type here []string

func (h here) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if slices.Contains(h, strings.TrimSuffix(host, ".")) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// Way is a session's way out under test: a proxy for names that lead to this
// machine, and what it decided.
type Way struct {
	t       testing.TB
	cfg     egress.Config
	rules   egress.Rules
	proxy   *egress.Proxy
	session *egress.Session

	mu        sync.Mutex
	decisions []egress.Decision
}

// NewWay makes one. Servers' own certificates are trusted, by the proxy and
// inside.
func NewWay(t testing.TB, rules egress.Rules, servers ...*httptest.Server) *Way {
	t.Helper()
	w := &Way{t: t, rules: rules}
	w.cfg = egress.Config{Dir: t.TempDir(), Resolver: here{"example.com", "other.test"}, RootsPEM: []byte("\n"), Observe: w.observe}
	for _, s := range servers {
		w.cfg.Roots = s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
		w.cfg.RootsPEM = append(w.cfg.RootsPEM, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})...)
	}
	w.open()
	t.Cleanup(func() { w.proxy.Close() })
	return w
}

func (w *Way) observe(d egress.Decision) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.decisions = append(w.decisions, d)
}

// open makes the proxy, also in the place of one that is gone.
func (w *Way) open() {
	w.t.Helper()
	proxy, err := egress.New(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.proxy = proxy
}

// join makes the session's proxy in its folder and puts it into the spec.
func (w *Way) join(s *sandbox.Spec) {
	w.t.Helper()
	session, err := w.proxy.Session(s.SessionID, filepath.Join(s.Dir, sandbox.EgressDirName), w.rules)
	if err != nil {
		w.t.Fatal(err)
	}
	w.session = session
	s.Network = sandbox.Network{Mode: sandbox.NetworkAllow, Socket: session.Socket(), CA: session.CA(), Bundle: session.Bundle()}
	s.Env = w.rules.Env()
}

// Start starts a sandbox with this way out.
func (w *Way) Start(d sandbox.Driver) *World {
	w.t.Helper()
	return Start(w.t, d, w.join)
}

// Last gives the newest decision.
func (w *Way) Last() egress.Decision {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.decisions) == 0 {
		return egress.Decision{}
	}
	return w.decisions[len(w.decisions)-1]
}

func portOf(s *httptest.Server) string {
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	return port
}

// ask defines `ask REQUEST`, which says something to the proxy and shows what
// comes back, with nothing but bash.
const ask = `ask() { exec 9<>/dev/tcp/127.0.0.1/3128 && printf "$1" >&9 && cat <&9; exec 9>&-; }; `

// testEgress is the way out as a sandbox has it.
func testEgress(t *testing.T, driver func() sandbox.Driver) {
	d := driver()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %s %d", r.Host, r.URL.Path, n)
	}))
	defer server.Close()
	port := portOf(server)
	way := NewWay(t, egress.Rules{Allow: []egress.Rule{{ID: "there", Host: "example.com:" + port, Private: true}}})
	w := way.Start(d)
	get := ask + `ask "GET http://example.com:` + port + `/a HTTP/1.1\r\nHost: example.com:` + port + `\r\nConnection: close\r\n\r\n" | tail -n 1`
	w.Want(get, "example.com:"+port+" /a 0", toolset.Exited, 0)
	if l := way.Last(); l.Rule != "there" || l.Session != w.Spec.SessionID {
		t.Errorf("%+v", l)
	}
	t.Run("refused", func(t *testing.T) {
		for _, host := range []string{"evil.test", "example.com", "127.0.0.1:" + port, "169.254.169.254", "example.com:22"} {
			out := Output(w.Do(ask + `ask "GET http://` + host + `/ HTTP/1.1\r\nHost: ` + host + `\r\n\r\n"`))
			if !strings.HasPrefix(out, "HTTP/1.1 403") || !strings.Contains(out, "would allow it") {
				t.Errorf("%s: %s", host, out)
			}
		}
		if out := Output(w.Do("getent hosts example.com; (exec 3<>/dev/tcp/example.com/" + port + ") 2>&1")); !strings.Contains(out, "example.com") || strings.Contains(out, "127.0.0.1") {
			t.Errorf("there is a resolver: %s", out)
		}
	})
	t.Run("many at once", func(t *testing.T) {
		w.Want(ask+`for i in $(seq 100); do (ask "POST http://example.com:`+port+`/$i HTTP/1.1\r\nHost: example.com:`+port+
			`\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n$(head -c 100000 /dev/zero | tr '\0' x)" | tail -n 1; echo) & done | grep -o ' 100000' | wc -l; wait`, "100\n", toolset.Exited, 0)
	})
	t.Run("the folder is read-only", func(t *testing.T) {
		w.Want("rm -f /run/egress/proxy.sock 2>&-; echo x 2>&- >/run/egress/x; ls /run/egress", "proxy.sock\n", toolset.Exited, 0)
	})
	t.Run("a killed helper comes back", func(t *testing.T) {
		const helpers = `helpers() { for p in /proc/[0-9]*; do tr '\0' ' ' 2>&- <$p/cmdline | grep -q '^berth-agent forward ' && echo ${p#/proc/}; done; }; `
		w.Want(helpers+"[ $(helpers | wc -l) = 1 ] && for i in 1 2 3; do kill -9 $(helpers) 2>&-; done; true", "", toolset.Exited, 0)
		w.Want(get, "example.com:"+port+" /a 0", toolset.Exited, 0)
		if err := w.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.Want(get, "example.com:"+port+" /a 0", toolset.Exited, 0)
	})
	if !d.Capabilities().Recover {
		return
	}
	t.Run("another worker", func(t *testing.T) {
		way.proxy.Close() // as a worker that ends; what it leaves of a killed one is the same but for the socket
		way.open()
		w.Sandbox.(forgetter).Close()
		back, err := driver().Recover(t.Context(), w.Record())
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := back.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		}()
		spec := back.Record().Spec
		way.join(&spec)
		if spec.Network != w.Record().Spec.Network {
			t.Errorf("%+v became %+v", w.Record().Spec.Network, spec.Network)
		}
		r, err := back.Bash(t.Context(), toolset.Command{Text: get})
		if err != nil || Output(r) != "example.com:"+port+" /a 0" {
			t.Errorf("%q %v", Output(r), err)
		}
	})
}

// testNoEgressByVariable: the variables alone open nothing.
func testNoEgressByVariable(t *testing.T, d sandbox.Driver) {
	w := Start(t, d, func(s *sandbox.Spec) {
		s.Env = map[string]string{"HTTPS_PROXY": "http://127.0.0.1:3128", "http_proxy": "http://127.0.0.1:3128"}
	})
	w.Want("(exec 3<>/dev/tcp/127.0.0.1/3128) 2>&-; ls -d /run/egress 2>&-", "", toolset.Exited, 2)
}
