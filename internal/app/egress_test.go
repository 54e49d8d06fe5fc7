package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/child"
	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/policy"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/namespaces"
	"github.com/berthdev/berth/toolset"
	"github.com/berthdev/berth/worker/workertest"
)

func TestMain(m *testing.M) {
	child.Main()
	os.Exit(m.Run())
}

// TestWayOutOfASession: what a policy allows is reached from a session's
// sandbox, by the next worker's proxy too; under another policy the sandbox is
// not taken over.
func TestWayOutOfASession(t *testing.T) {
	driver := namespaces.New(namespaces.Config{})
	if p := driver.Probe(t.Context()); !p.OK {
		t.Skipf("namespaces cannot run here: %s", p.Reason)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "from ", r.URL.Path) }))
	defer server.Close()
	address := server.Listener.Addr().(*net.TCPAddr).String()
	t.Setenv("BERTH_TEST_TOKEN", "the real token of the test")
	read := func(more string) policy.Policy {
		p, err := policy.Parse("policy", []byte("network: {allow: ['"+address+"', api.example"+more+"]}\nsecrets: [{env: TOKEN, hosts: [api.example], from_env: BERTH_TEST_TOKEN}]\n"))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	state := t.TempDir()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	start := func(pol policy.Policy) *sandbox.Keeper {
		t.Helper()
		spec, _, err := policySpec(t.Context(), pol, driver, "", log)
		if err != nil {
			t.Fatal(err)
		}
		proxy, ways, err := openEgress(pol, state, log)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { proxy.Close() })
		k, _, err := newKeeper(t.Context(), config.Engine{}, spec, ways, driver, "", state, 0, log)
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		return k
	}
	run := func(k *sandbox.Keeper, command string) string {
		t.Helper()
		h, _, err := k.Open(t.Context(), "sesn_1")
		if err != nil {
			t.Fatal(err)
		}
		r, err := h.Bash(t.Context(), toolset.Command{Text: command})
		if err != nil {
			t.Fatal(err)
		}
		return string(r.Head)
	}
	ask := `exec 9<>/dev/tcp/127.0.0.1/3128 && printf 'GET http://` + address + `/a HTTP/1.1\r\nHost: ` + address + `\r\nConnection: close\r\n\r\n' >&9 && tail -n 1 <&9; exec 9>&-`
	pol := read("")
	first := start(pol)
	if got := run(first, "mark=1; "+ask+"; echo; echo $TOKEN $HTTPS_PROXY $NODE_EXTRA_CA_CERTS; ls /run/egress"); !strings.HasPrefix(got, "from /a\nberth-secret-TOKEN-") ||
		!strings.HasSuffix(got, " http://127.0.0.1:3128 /run/egress/ca.pem\nbundle.pem\nca.pem\nproxy.sock\n") {
		t.Errorf("%q", got)
	}
	if _, there := os.LookupEnv("BERTH_TEST_TOKEN"); there {
		t.Error("the token stays in the worker's environment")
	}
	record, err := os.ReadFile(filepath.Join(state, "sandboxes", "sesn_1", "record.json"))
	if err != nil || strings.Contains(string(record), "real token") {
		t.Errorf("the record: %s %v", record, err)
	}
	// The first worker is gone, and so is all that it held.
	t.Setenv("BERTH_TEST_TOKEN", "the real token of the test")
	second := start(pol)
	if got := run(second, "echo $mark; "+ask); got != "1\nfrom /a" {
		t.Errorf("after a restart: %q", got)
	}
	t.Setenv("BERTH_TEST_TOKEN", "the real token of the test")
	third := start(read(", other.example"))
	if got := run(third, "echo \"<$mark>\"; "+ask); got != "<>\nfrom /a" {
		t.Errorf("under another policy: %q", got)
	}
	if err := third.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(state, "sandboxes", "sesn_1", "egress*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	_ = first.Stop(t.Context()) // it knows of nothing that is alive
	_ = second.Stop(t.Context())
}

// TestWayOutOfAWarmSandbox: a sandbox that was ready has its way out with it
// when a session gets it, under the session's name.
func TestWayOutOfAWarmSandbox(t *testing.T) {
	driver := namespaces.New(namespaces.Config{})
	if p := driver.Probe(t.Context()); !p.OK {
		t.Skipf("namespaces cannot run here: %s", p.Reason)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "from ", r.URL.Path) }))
	defer server.Close()
	address := server.Listener.Addr().String()
	pol, err := policy.Parse("policy", []byte("network: {allow: ['"+address+"']}"))
	if err != nil {
		t.Fatal(err)
	}
	var lines workertest.Log
	state := t.TempDir()
	proxy, ways, err := openEgress(pol, state, slog.New(slog.NewTextHandler(&lines, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: driver, Dir: filepath.Join(state, "sandboxes"), Spec: pol.Spec(sandbox.Spec{}), Ways: ways, Warm: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer k.Stop(context.Background())
	handle := func(pattern string) string { // of the sandbox in a folder
		found, _ := filepath.Glob(filepath.Join(state, "sandboxes", pattern))
		for _, dir := range found {
			if rec, err := sandbox.ReadRecord(dir); err == nil {
				return string(rec.Handle)
			}
		}
		return ""
	}
	for i := range 50 { // until one was ready in time
		session := fmt.Sprintf("sesn_%d", i)
		var ready string
		for end := time.Now().Add(20 * time.Second); ready == "" && time.Now().Before(end); time.Sleep(time.Millisecond) {
			ready = handle("warm.*")
		}
		h, _, err := k.Open(t.Context(), session)
		if err != nil {
			t.Fatal(err)
		}
		r, err := h.Bash(t.Context(), toolset.Command{Text: `exec 9<>/dev/tcp/127.0.0.1/3128 && printf 'GET http://` + address + `/w HTTP/1.1\r\nHost: ` + address + `\r\nConnection: close\r\n\r\n' >&9 && tail -n 1 <&9`})
		if err != nil || string(r.Head) != "from /w" {
			t.Fatalf("%q %v", r.Head, err)
		}
		if !strings.Contains(lines.String(), "session="+session+" ") {
			t.Errorf("%s is not in the log:\n%s", session, lines.String())
		}
		warm := handle(session) == ready
		if err := h.Close(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		if warm {
			return
		}
	}
	t.Error("no sandbox was ready in time")
}
