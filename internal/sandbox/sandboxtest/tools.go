package sandboxtest

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/berthdev/berth/internal/egress"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

// theToken is what hosts get and sandboxes do not.
const theToken = "tok_" + secretA + "/" + secretB + "+=&"

// hosts are two servers behind example.com: one that wants the token, and one
// that has no secret.
type hosts struct {
	secret, open *httptest.Server
	granted      atomic.Int64 // requests that came with the token
}

func newHosts(t testing.TB) *hosts {
	t.Helper()
	h := &hosts{}
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+theToken {
			http.Error(w, "this is not the token", http.StatusUnauthorized)
			return
		}
		h.granted.Add(1)
		w.Header().Set("X-You-Sent", r.Header.Get("Authorization"))
		_ = json.NewEncoder(w).Encode(r.Header)
	})
	mux.Handle("/repo.git/", h.git(t))
	h.secret = httptest.NewTLSServer(mux)
	h.open = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(r.Header)
	}))
	t.Cleanup(h.secret.Close)
	t.Cleanup(h.open.Close)
	return h
}

// git serves a repository to those with the token.
func (h *hosts) git(t testing.TB) http.Handler {
	dir := t.TempDir()
	script := `cd "$0" && git init -q --bare repo.git && git -C repo.git config http.receivepack true && git init -q -b main work && cd work &&
		echo hello >file && git add file && git -c user.name=a -c user.email=a@b commit -qm first && git push -q ../repo.git main && git -C ../repo.git symbolic-ref HEAD refs/heads/main`
	if out, err := exec.Command("sh", "-c", script, dir).CombinedOutput(); err != nil {
		t.Skipf("git is not here (apt-get install git): %v %s", err, out)
	}
	core, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	backend := &cgi.Handler{Path: filepath.Join(strings.TrimSpace(string(core)), "git-http-backend"),
		Env: []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if password != theToken {
			w.Header().Set("WWW-Authenticate", "Basic realm=git")
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
		h.granted.Add(1)
		r.Header.Set("Remote-User", user)
		backend.ServeHTTP(w, r)
	})
}

// Node gives a Node of a version that reads the proxy's variables, installed
// from npm once for this machine, by one of the tests that run beside each other.
func Node(t testing.TB) string {
	t.Helper()
	const version = "22.23.3"
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "berth-test", "node-"+version)
	node := filepath.Join(dir, "node_modules", "node", "bin", "node")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err == nil {
		defer lock.Close()
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(node); err == nil {
		return node
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Skip("npm is not here (apt-get install npm)")
	}
	cmd := exec.Command(npm, "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", dir, "node@"+version)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("npm install failed: %v %s", err, out)
	}
	return node
}

// EgressTools has curl, git, Node and Python of this machine speak TLS through
// a session's proxy, to a host with a secret and to one without: the host sees
// the secret and the sandbox, wherever one looks, the placeholder.
func EgressTools(t *testing.T, d sandbox.Driver) {
	if p := d.Probe(t.Context()); !p.OK {
		t.Skipf("%s cannot run here: %s", d.Name(), p.Reason)
	}
	h := newHosts(t)
	secretHost, openHost := "example.com:"+portOf(h.secret), "example.com:"+portOf(h.open)
	way := NewWay(t, egress.Rules{
		Allow:   []egress.Rule{{Host: secretHost, Private: true}, {Host: openHost, Private: true}},
		Secrets: []egress.Secret{{Name: "token", Env: "API_TOKEN", Hosts: []string{secretHost}, Value: egress.Hide(theToken)}},
	}, h.secret, h.open)
	node, err := os.ReadFile(Node(t))
	if err != nil {
		t.Fatal(err)
	}
	w := Start(t, d, func(s *sandbox.Spec) {
		way.join(s)
		if err := os.MkdirAll(filepath.Join(s.Tree, "workspace"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.Tree, "workspace", "node"), node, 0o755); err != nil {
			t.Fatal(err)
		}
	})
	stand := Output(w.Do("echo -n $API_TOKEN"))
	if !strings.HasPrefix(stand, "berth-secret-token-") {
		t.Fatalf("the placeholder: %q", stand)
	}
	var shown bytes.Buffer // all that the sandbox has said
	try := func(t *testing.T, command string, parts ...string) {
		t.Helper()
		before := h.granted.Load()
		r := w.Do(command)
		out := Output(r)
		shown.WriteString(out)
		if r.ExitCode != 0 || r.End != toolset.Exited {
			t.Fatalf("%s: %s %d %s", command, r.End, r.ExitCode, out)
		}
		for _, p := range parts {
			if !strings.Contains(out, p) {
				t.Errorf("%s: it lacks %q:\n%s", command, p, out)
			}
		}
		if h.granted.Load() == before && strings.Contains(command, secretHost) {
			t.Errorf("%s: the host did not see the token", command)
		}
	}
	const header = "Authorization: Bearer $API_TOKEN"
	t.Run("curl", func(t *testing.T) {
		try(t, "curl -sSi -H \""+header+"\" https://"+secretHost+"/echo", stand, "X-You-Sent: Bearer "+stand)
		try(t, "curl -sS -H \""+header+"\" https://"+openHost+"/echo", stand)
		try(t, "curl -sS --proxy socks5h://127.0.0.1:3128 -H \""+header+"\" https://"+secretHost+"/echo", stand)
	})
	t.Run("git", func(t *testing.T) {
		try(t, "git clone -q https://x-access-token:$API_TOKEN@"+secretHost+"/repo.git r && cat r/file", "hello")
		try(t, "cd r && head -c 300000 /dev/urandom >big && git add big && git -c user.name=a -c user.email=a@b commit -qm second && git push -q origin HEAD && git ls-remote origin # "+secretHost+"\ncd ..", "refs/heads/main")
	})
	t.Run("Node", func(t *testing.T) {
		for _, host := range []string{secretHost, openHost} {
			// Node brings its own list of whom to trust; the test's open host is on
			// the machine's alone.
			more := ""
			if host == openHost {
				more = "NODE_EXTRA_CA_CERTS=$SSL_CERT_FILE "
			}
			try(t, more+`./node -e 'fetch("https://`+host+`/echo", {headers: {authorization: "Bearer " + process.env.API_TOKEN}}).then(r => r.text()).then(console.log)'`, stand)
		}
	})
	t.Run("Python", func(t *testing.T) {
		for _, host := range []string{secretHost, openHost} {
			try(t, `/usr/bin/python3 -c 'import os, urllib.request as u; print(u.urlopen(u.Request("https://`+host+`/echo", headers={"Authorization": "Bearer " + os.environ["API_TOKEN"]})).read())'`, stand)
		}
	})
	t.Run("Python requests", func(t *testing.T) {
		if w.Do("/usr/bin/python3 -c 'import requests'").ExitCode != 0 {
			t.Skip("requests is not here (apt-get install python3-requests)")
		}
		for _, host := range []string{secretHost, openHost} {
			try(t, `/usr/bin/python3 -c 'import os, requests; r = requests.get("https://`+host+`/echo", headers={"Authorization": "Bearer " + os.environ["API_TOKEN"]}); print(r.headers, r.text)'`, stand)
		}
	})
	t.Run("nobody else is vouched for", func(t *testing.T) {
		// The session's authority is good for its secret host alone.
		w.Want("openssl x509 -in /run/egress/ca.pem -noout -ext nameConstraints | grep -c 'DNS:example.com'", "1\n", toolset.Exited, 0)
	})
	t.Run("the token is nowhere", func(t *testing.T) {
		needle := theToken[:12]
		if strings.Contains(shown.String(), needle) {
			t.Error("the sandbox has shown it")
		}
		// The pattern is put together inside, so that the search does not find itself.
		w.Want("a="+needle[:6]+"; b="+needle[6:]+`; all=$(for p in /proc/[0-9]*; do tr '\0' '\n' 2>&- <$p/environ; tr '\0' '\n' 2>&- <$p/cmdline; done); `+
			`[[ $all == *"$a$b"* ]] && echo a process; grep -rlaF "$a$b" /workspace /tmp /home /run /dev/shm /mnt /etc 2>&-; true`, "", toolset.Exited, 0)
		err := filepath.WalkDir(w.Spec.Dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(path)
			if bytes.Contains(b, []byte(needle)) {
				t.Errorf("%s holds it", path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	for _, d := range way.decisions {
		if d.Verdict != egress.Allowed {
			t.Errorf("%+v", d)
		}
	}
}
