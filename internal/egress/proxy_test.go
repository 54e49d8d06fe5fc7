package egress

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestRequestsAndTunnels(t *testing.T) {
	plainServer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s|%s|%v", r.Method, r.Host, r.RequestURI, b, r.Header["Proxy-Connection"])
	}))
	defer plainServer.Close()
	port := portOf(t, plainServer)
	secure, pool := named(t, plainServer.Config.Handler, "api.test")
	tlsPort := portOf(t, secure)
	w := newWorld(t, map[string][]string{"api.test": {"127.0.0.1"}}, nil)
	s := w.session(Rules{Allow: []Rule{{ID: "api", Host: "api.test:" + port, Private: true}, {Host: "api.test:" + tlsPort, Private: true}}})
	web := browser(s, pool)
	for range 3 { // the second and third over kept connections
		resp, err := web.Post("http://API.test.:"+port+"/a%2Fb//c?q=1", "text/plain", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := "POST api.test:" + port + " /a%2Fb//c?q=1|hello|[]"; string(b) != want {
			t.Errorf("%q, want %q", b, want)
		}
		if d := w.last(); d.Rule != "api" || d.Verdict != Allowed || d.Addr.String() != "127.0.0.1" || d.Host != "api.test" {
			t.Errorf("%+v", d)
		}
	}
	if n := len(w.dials()); n != 1 {
		t.Errorf("%d connections for three requests", n)
	}
	resp, err := web.Get("https://api.test:" + tlsPort + "/x")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 200 || !strings.HasPrefix(string(b), "GET api.test:"+tlsPort+" /x") {
		t.Errorf("%d %q", resp.StatusCode, b)
	}
	// Long bodies both ways, chunked.
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	resp, err = web.Post("http://api.test:"+port+"/", "", io.MultiReader(bytes.NewReader(big)))
	if err != nil {
		t.Fatal(err)
	}
	b, _ = io.ReadAll(resp.Body)
	resp.Body.Close()
	if !bytes.Contains(b, big) {
		t.Errorf("%d bytes came back", len(b))
	}
	resp, err = web.Get("http://other.test/")
	if err != nil {
		t.Fatal(err)
	}
	b, _ = io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 403 || !strings.Contains(string(b), `"other.test" under network.allow in the policy would allow it`) || !strings.Contains(string(b), "api") {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
	if w.zone.asked["other.test"] != 0 {
		t.Error("a name was looked up that no rule names")
	}
	st := w.proxy.Stats()
	if st.Sessions != 1 || st.Allowed != 5 || st.Refused != 1 || st.Sent < 1<<20 || st.Received < 1<<20 {
		t.Errorf("%+v", st)
	}
	for _, line := range []string{"egress allowed", "session=sesn_test", "rule=api", "egress refused", "host=other.test"} {
		if !strings.Contains(w.logged(), line) {
			t.Errorf("the log lacks %q:\n%s", line, w.logged())
		}
	}
	if strings.Contains(w.logged(), "q=1") || strings.Contains(w.logged(), "a%2Fb") {
		t.Errorf("the log holds a path:\n%s", w.logged())
	}
}

func TestSOCKS(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.Copy(c, c)
			c.Close()
		}
	}()
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	w := newWorld(t, map[string][]string{"echo.test": {"127.0.0.1"}}, nil)
	s := w.session(Rules{Allow: []Rule{{Host: fmt.Sprintf("echo.test:%d", port), Private: true}}})
	ask := func(kind byte, addr string, port uint16, then string) string {
		return raw(t, s, "\x05\x01\x00\x05\x01\x00"+string([]byte{kind})+addr+string([]byte{byte(port >> 8), byte(port)})+then)
	}
	name := func(n string) string { return string([]byte{byte(len(n))}) + n }
	const done = "\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
	if got := ask(3, name("ECHO.test"), port, "hello"); got != done+"hello" {
		t.Errorf("%q", got)
	}
	for what, request := range map[string]struct {
		kind byte
		addr string
		port uint16
	}{
		"another name":   {3, name("evil.test"), port},
		"a NUL":          {3, name("echo.test\x00.evil.test"), port},
		"a NUL, swapped": {3, name("evil.test\x00.echo.test"), port},
		"an address":     {1, "\x7f\x00\x00\x01", port},
		"IPv6":           {4, strings.Repeat("\x00", 15) + "\x01", port},
		"mapped":         {4, strings.Repeat("\x00", 10) + "\xff\xff\x7f\x00\x00\x01", port},
		"another port":   {3, name("echo.test"), 22},
	} {
		if got := ask(request.kind, request.addr, request.port, ""); got != "\x05\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00" {
			t.Errorf("%s: %q", what, got)
		}
		if d := w.last(); d.Verdict != Refused || d.Via != "socks" {
			t.Errorf("%s: %+v", what, d)
		}
	}
	if got := raw(t, s, "\x05\x01\x02"); got != "\x05\xff" {
		t.Errorf("a password was asked for: %q", got)
	}
	if got := raw(t, s, "\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50"); !strings.HasPrefix(got, "\x05\x00\x05\x07") {
		t.Errorf("BIND: %q", got)
	}
	if n := len(w.dials()); n != 1 {
		t.Errorf("%d connections", n)
	}
}

const theSecret = `sk-real/secret+"value"=42`

// echo answers with everything it was sent, the headers in JSON's way too.
func echo(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	w.Header().Set("X-Echo", r.Header.Get("Authorization"))
	w.Header().Set("X-Range", r.Header.Get("Range"))
	fmt.Fprintf(w, "host %s uri %s\nheaders %q\nbody %s\n", r.Host, r.RequestURI, r.Header, b)
	fmt.Fprintf(w, "b64 %s", base64.StdEncoding.EncodeToString([]byte(r.Header.Get("X-Token"))))
	if f, ok := w.(http.Flusher); ok {
		for _, c := range []byte("\nslowly " + r.Header.Get("X-Token")) { // one byte at a time
			w.Write([]byte{c})
			f.Flush()
		}
	}
}

func secretWorld(t *testing.T, secret Secret) (*world, *Session, *http.Client, string, func() http.Header) {
	t.Helper()
	var seen http.Header
	server, pool := named(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header.Clone()
		seen.Set("X-Uri", r.RequestURI)
		if r.Body != nil {
			b, _ := io.ReadAll(r.Body)
			seen.Set("X-Body", string(b))
			r.Body = io.NopCloser(bytes.NewReader(b))
		}
		echo(w, r)
	}), "api.test")
	port := portOf(t, server)
	w := newWorld(t, map[string][]string{"api.test": {"127.0.0.1"}, "other.test": {"127.0.0.1"}}, pool)
	secret.Name, secret.Hosts, secret.Value = "token", []string{"api.test:" + port}, Hide(theSecret)
	s := w.session(Rules{Allow: []Rule{{Host: "api.test:" + port, Private: true}, {Host: "other.test:" + port, Private: true}}, Secrets: []Secret{secret}})
	return w, s, browser(s, poolOf(t, s.CA())), "https://api.test:" + port, func() http.Header { return seen }
}

// everything is an answer as its reader gets it.
func everything(t *testing.T, resp *http.Response, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s %q %s", resp.Status, resp.Header, b)
}

func holdsSecret(text string) bool {
	for _, s := range []string{theSecret, "sk-real", "secret+", base64.StdEncoding.EncodeToString([]byte(theSecret))[:20], `\"value\"`} {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// TestSecretGoesInAndNotOut: the host sees the secret, the session never.
func TestSecretGoesInAndNotOut(t *testing.T) {
	w, s, web, base, seen := secretWorld(t, Secret{Query: true, Body: true})
	stand := s.table.secrets[0].Stand()
	req, _ := http.NewRequest("POST", base+"/path?key="+stand, strings.NewReader(`{"key":"`+stand+`"}`))
	req.Header.Set("X-Token", stand)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Range", "bytes=0-3")
	req.SetBasicAuth("x-access-token", stand)
	resp, err := web.Do(req)
	got := everything(t, resp, err)
	if holdsSecret(got) {
		t.Errorf("the session sees it:\n%s", got)
	}
	if !strings.Contains(got, stand) {
		t.Errorf("the placeholder does not come back:\n%s", got)
	}
	h := seen()
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:"+theSecret))
	if h.Get("X-Token") != theSecret || h.Get("Authorization") != basic || h.Get("Range") != "" || h.Get("Accept-Encoding") != "identity" ||
		h.Get("X-Body") != `{"key":"sk-real/secret+\"value\"=42"}` || !strings.Contains(h.Get("X-Uri"), "key=sk-real%2Fsecret%2B%22value%22%3D42") {
		t.Errorf("the host saw %q", h)
	}
	if strings.Contains(got, basic) {
		t.Error("the credentials come back encoded")
	}
	if d := w.last(); d.Via != "tls" || len(d.Secrets) != 1 || d.Secrets[0] != "token" || d.Verdict != Allowed {
		t.Errorf("%+v", d)
	}
	if strings.Contains(w.logged(), "sk-real") {
		t.Error("the log has it")
	}
}

// TestNoSecretInClear: without TLS, and to another host, the placeholder stays
// what it is.
func TestNoSecretInClear(t *testing.T) {
	var seen string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.Header.Get("X-Token") }))
	defer server.Close()
	port := portOf(t, server)
	w := newWorld(t, map[string][]string{"api.test": {"127.0.0.1"}, "other.test": {"127.0.0.1"}}, nil)
	s := w.session(Rules{Allow: []Rule{{Host: "api.test:" + port, Private: true}, {Host: "other.test:" + port, Private: true}},
		Secrets: []Secret{{Name: "token", Hosts: []string{"api.test:" + port}, Value: Hide(theSecret)}}})
	for _, host := range []string{"api.test", "other.test"} {
		req, _ := http.NewRequest("GET", "http://"+host+":"+port, nil)
		req.Header.Set("X-Token", s.table.secrets[0].Stand())
		resp, err := browser(s, nil).Do(req)
		everything(t, resp, err)
		if seen != s.table.secrets[0].Stand() {
			t.Errorf("%s got %q", host, seen)
		}
	}
}

func TestSecretByHeader(t *testing.T) {
	_, s, web, base, seen := secretWorld(t, Secret{Header: "Authorization", Template: "Bearer {secret}"})
	req, _ := http.NewRequest("GET", base, nil)
	req.Header.Set("Authorization", "Bearer mine")
	req.Header.Set("X-Token", s.table.secrets[0].Stand())
	resp, err := web.Do(req)
	if got := everything(t, resp, err); holdsSecret(got) {
		t.Error(got)
	}
	if h := seen(); h.Get("Authorization") != "Bearer "+theSecret || h.Get("X-Token") != s.table.secrets[0].Stand() {
		t.Errorf("%q", h)
	}
}

// TestSecretComesBackAnyhow: a host that compresses what it was asked not to,
// and one that compresses in a way that we cannot search.
func TestCompressedAnswers(t *testing.T) {
	for _, code := range []string{"gzip", "br"} {
		server, pool := named(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", code)
			zip := gzipOf([]byte("it is " + r.Header.Get("X-Token")))
			w.Write(zip)
		}), "api.test")
		port := portOf(t, server)
		w := newWorld(t, map[string][]string{"api.test": {"127.0.0.1"}}, pool)
		s := w.session(Rules{Allow: []Rule{{Host: "api.test:" + port, Private: true}},
			Secrets: []Secret{{Name: "token", Hosts: []string{"api.test:" + port}, Value: Hide(theSecret)}}})
		req, _ := http.NewRequest("GET", "https://api.test:"+port, nil)
		req.Header.Set("X-Token", s.table.secrets[0].Stand())
		resp, err := browser(s, poolOf(t, s.CA())).Do(req)
		got := everything(t, resp, err)
		if code == "gzip" && !strings.Contains(got, "it is "+s.table.secrets[0].Stand()) || code == "br" && !strings.HasPrefix(got, "502") {
			t.Errorf("%s: %s", code, got)
		}
	}
}

// TestAuthorityIsNarrow: the certificate that a session trusts is good for its
// hosts alone.
func TestAuthorityIsNarrow(t *testing.T) {
	w, s, _, base, _ := secretWorld(t, Secret{})
	other, err := w.proxy.ca.forHost(Target{Host: "bank.test", Port: 443})
	if err != nil {
		t.Fatal(err)
	}
	pool := poolOf(t, s.CA())
	if _, err := other.Leaf.Verify(verifyFor(pool, "bank.test")); err == nil || !strings.Contains(err.Error(), "not permitted") {
		t.Errorf("bank.test is vouched for: %v", err)
	}
	good, err := w.proxy.ca.forHost(Target{Host: "api.test", Port: 443})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := good.Leaf.Verify(verifyFor(pool, "api.test")); err != nil {
		t.Error(err)
	}
	// Nor is another host answered for in the tunnel of this one.
	c, err := open(t, s, strings.TrimPrefix(base, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := tls.Client(c, &tls.Config{ServerName: "bank.test", RootCAs: pool}).Handshake(); err == nil {
		t.Error("bank.test was answered for")
	}
	waitFor(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.decisions) > 0
	})
	if d := w.last(); d.Verdict != Refused || !strings.Contains(d.Reason, "bank.test") {
		t.Errorf("%+v", d)
	}
}

// TestAuthorityOutlivesTheWorker: another process with the same directory
// goes on under the certificate that the sandbox has.
func TestAuthorityOutlivesTheWorker(t *testing.T) {
	dir := t.TempDir()
	first, err := openAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	to := Target{Host: "api.test", Port: 443}
	pem, err := first.certificate(&table{holders: map[string][]int{to.String(): {0}}})
	if err != nil {
		t.Fatal(err)
	}
	second, err := openAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := second.forHost(to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leaf.Leaf.Verify(verifyFor(poolFrom(t, pem), "api.test")); err != nil {
		t.Error(err)
	}
}

// TestSessionComesBack: a new socket in the old one's place, in the same
// folder, and nothing of it after Close.
func TestSessionComesBack(t *testing.T) {
	w := newWorld(t, nil, nil)
	dir := t.TempDir() + "/" + strings.Repeat("long", 30)
	for range 2 {
		s, err := w.proxy.Session("a", dir, Rules{})
		if err != nil {
			t.Fatal(err)
		}
		d, err := s.root.Open(".")
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), SocketName))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
		b, _ := io.ReadAll(c)
		if !strings.Contains(string(b), "nothing is allowed") {
			t.Errorf("%s", b)
		}
		c.Close()
		d.Close()
		w.proxy.mu.Lock()
		delete(w.proxy.open, s) // as if its process had died
		w.proxy.mu.Unlock()
		t.Cleanup(func() { s.Close() })
	}
}

func TestBytesAreBounded(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write(make([]byte, 1<<20))
	}))
	defer server.Close()
	w := newWorld(t, nil, nil)
	s := w.session(Rules{Allow: []Rule{{Host: "127.0.0.1:" + portOf(t, server)}}, MaxBytes: 300 << 10})
	resp, err := browser(s, nil).Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err == nil || n > 300<<10 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestLogIsBounded(t *testing.T) {
	var b budget
	now := time.Now()
	for range linesAtOnce {
		if _, ok := b.take(now); !ok {
			t.Fatal("a line is missing")
		}
	}
	if _, ok := b.take(now); ok {
		t.Fatal("there is no bound")
	}
	if left, ok := b.take(now.Add(time.Second)); !ok || left != 1 {
		t.Error(left, ok)
	}
}
