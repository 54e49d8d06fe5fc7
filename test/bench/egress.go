package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/egress"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/toolset"
)

// The egress rows run one client, this program itself, on the host and inside
// a sandbox: the same requests to the same servers on loopback, straight and
// through the agent's helper, the session's socket and the proxy.

// asking is how a client asks.
type asking struct {
	URL   string `json:"url"`
	Proxy string `json:"proxy"` // "" is straight
	Dial  string `json:"dial"`  // where the host really is, when it is asked straight
	CA    string `json:"ca"`    // a PEM file
	Keep  bool   `json:"keep"`
	Count int    `json:"count"`
}

// egressClient is the client's main: it prints how long each request took, in
// nanoseconds.
func egressClient(arg string) int {
	var a asking
	if err := json.Unmarshal([]byte(arg), &a); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	took, err := a.run()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := json.NewEncoder(os.Stdout).Encode(took); err != nil {
		return 1
	}
	return 0
}

func (a asking) run() ([]time.Duration, error) {
	transport := &http.Transport{DisableKeepAlives: !a.Keep, TLSClientConfig: &tls.Config{}}
	if a.CA != "" {
		b, err := os.ReadFile(a.CA)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(b)
	}
	if a.Proxy != "" {
		u, err := url.Parse(a.Proxy)
		if err != nil {
			return nil, err
		}
		transport.Proxy = http.ProxyURL(u)
	} else {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", a.Dial)
		}
	}
	client := &http.Client{Transport: transport}
	const warm = 20
	var took []time.Duration
	for i := range a.Count + warm {
		began := time.Now()
		resp, err := client.Get(a.URL)
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 {
			return nil, fmt.Errorf("%s: %s %v", resp.Status, b, err)
		}
		if i >= warm {
			took = append(took, time.Since(began))
		}
	}
	return took, nil
}

// loopbackNames resolves every name to this machine.
type loopbackNames struct{}

func (loopbackNames) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

// egressLatency measures what the proxy adds to a request.
func egressLatency(ctx context.Context) (_ []figure, err error) {
	b, err := newBoxes()
	if err != nil {
		return nil, err
	}
	defer b.close()
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", 1000)) })
	plain, secure, secret := httptest.NewServer(answer), httptest.NewTLSServer(answer), httptest.NewTLSServer(answer)
	defer plain.Close()
	defer secure.Close()
	defer secret.Close()
	at := func(s *httptest.Server) string {
		return "example.com:" + strconv.Itoa(s.Listener.Addr().(*net.TCPAddr).Port)
	}
	roots := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	ca := filepath.Join(b.dir, "roots.pem")
	if err := os.WriteFile(ca, roots, 0o644); err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(roots)
	proxy, err := egress.New(egress.Config{Resolver: loopbackNames{}, Roots: pool, RootsPEM: roots})
	if err != nil {
		return nil, err
	}
	defer proxy.Close()
	spec, err := b.spec()
	if err != nil {
		return nil, err
	}
	way, err := proxy.Session(spec.SessionID, filepath.Join(spec.Dir, sandbox.EgressDirName), egress.Rules{
		Allow:   []egress.Rule{{Host: at(plain), Private: true}, {Host: at(secure), Private: true}, {Host: at(secret), Private: true}},
		Secrets: []egress.Secret{{Name: "token", Hosts: []string{at(secret)}, Header: "Authorization", Value: egress.Hide("a secret of the bench")}},
	})
	if err != nil {
		return nil, err
	}
	spec.Network = sandbox.Network{Mode: sandbox.NetworkAllow, Socket: way.Socket(), CA: way.CA(), Bundle: way.Bundle()}
	if err := putSelf(spec.Tree); err != nil {
		return nil, err
	}
	sb, err := b.driver.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sb.Stop(context.WithoutCancel(ctx))) }()

	var figures []figure
	for _, m := range []struct {
		what   string
		server *httptest.Server
		scheme string
		keep   bool
		bar    bool
	}{
		{"egress proxy: added per request, connections kept, p50", plain, "http://", true, true},
		{"egress proxy: added per request, a connection each, p50", plain, "http://", false, true},
		{"egress proxy: added per request in a tunnel of TLS, p50", secure, "https://", true, true},
		{"egress proxy: added per request with a secret put in, p50", secret, "https://", true, true},
		{"egress proxy: added per tunnel of TLS, handshake included, p50", secure, "https://", false, false},
		{"egress proxy: added per intercepted connection, p50", secret, "https://", false, false},
	} {
		a := asking{URL: m.scheme + at(m.server) + "/", Dial: m.server.Listener.Addr().String(), CA: ca, Keep: m.keep, Count: 200}
		through := a
		through.Proxy, through.Dial, through.CA = "http://127.0.0.1:3128", "", agent.EgressDir+"/bundle.pem"
		var direct, proxied []time.Duration
		for range 4 { // in turns, so that both meet the same machine
			d, err := a.onHost(ctx)
			if err != nil {
				return nil, err
			}
			p, err := through.inside(ctx, sb)
			if err != nil {
				return nil, err
			}
			direct, proxied = append(direct, d...), append(proxied, p...)
		}
		straight, by := quantile(direct, .5), quantile(proxied, .5)
		f := figure{m.what, fmt.Sprintf("%.2f ms (%.2f to %.2f)", millis(by-straight), millis(straight), millis(by)), "≤ 1 ms", by-straight <= time.Millisecond}
		if !m.bar {
			f.bar, f.ok = "none", true
		}
		figures = append(figures, f)
	}
	return figures, nil
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// putSelf puts this program into a session's workspace.
func putSelf(tree string) error {
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	dir := filepath.Join(tree, "workspace")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "client"), b, 0o755)
}

func (a asking) arg() string {
	b, err := json.Marshal(a)
	if err != nil {
		panic(err) // it is made of strings and numbers
	}
	return string(b)
}

func (a asking) onHost(ctx context.Context) (took []time.Duration, err error) {
	out, err := exec.CommandContext(ctx, "/proc/self/exe", "egress-client", a.arg()).Output()
	if err != nil {
		return nil, fmt.Errorf("the client on the host: %w", err)
	}
	return took, json.Unmarshal(out, &took)
}

func (a asking) inside(ctx context.Context, sb sandbox.Sandbox) (took []time.Duration, err error) {
	r, err := sb.Bash(ctx, toolset.Command{Text: "/workspace/client egress-client '" + a.arg() + "'"})
	if err != nil || r.ExitCode != 0 {
		return nil, fmt.Errorf("the client inside: %d %s %w", r.ExitCode, r.Head, err)
	}
	return took, json.Unmarshal(r.Head, &took)
}
