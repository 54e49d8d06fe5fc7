package test

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/berthdev/berth/test/testenv"
)

// A worker that signs serves a session through a gateway that lets in nothing
// else; neither the environment's key nor an item's token leaves it.
func TestAWorkerThatSignsServesASession(t *testing.T) {
	w := testenv.Start(t, testenv.Options{})
	plane, err := url.Parse(w.BaseURL)
	if err != nil {
		t.Fatal(err)
	}
	var wrong atomic.Int64
	gate := &httputil.ReverseProxy{FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(plane)
		r.Out.Header.Set("Authorization", "Bearer "+w.EnvKey)
	}}
	gateway := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		sent := r.Header.Get("Authorization")
		if !strings.HasPrefix(sent, "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/") || !strings.Contains(sent, "/eu-west-3/aws-external-anthropic/aws4_request") ||
			r.Header.Get("Anthropic-Workspace-Id") != "wrkspc_1" {
			wrong.Add(1)
			http.Error(rw, "not signed", http.StatusForbidden)
			return
		}
		gate.ServeHTTP(rw, r)
	}))
	defer gateway.Close()
	session := w.Session(w.Agent(), testenv.Script(
		testenv.Say("go", testenv.Bash("echo signed; env | grep -c -e AWS -e AKID")), testenv.Say("done")))
	p := testenv.Run(t, []string{
		"ANTHROPIC_BASE_URL=" + gateway.URL, "ANTHROPIC_ENVIRONMENT_ID=" + w.EnvironmentID, "ANTHROPIC_AWS_WORKSPACE_ID=wrkspc_1",
		"AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY=sekret", "AWS_REGION=eu-west-3", "AWS_EC2_METADATA_DISABLED=true",
	}, "worker", "poll", "--auth", "aws", "--drain", "--max-idle", "50ms", "--sandbox", "process", "--state-dir", t.TempDir())
	events := w.Ended(session)
	if code := p.Wait(); code != 0 {
		t.Errorf("status %d", code)
	}
	if said := testenv.Dump(testenv.Of(events, "user.tool_result")); !strings.Contains(said, `signed\n0`) {
		t.Errorf("bash said %s", said)
	}
	if n := wrong.Load(); n != 0 {
		t.Errorf("%d requests were not signed", n)
	}
}
