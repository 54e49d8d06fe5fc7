package test

import (
	"compress/gzip"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/berthdev/berth/test/testenv"
)

// collector receives spans by OTLP over HTTP.
type collector struct {
	*httptest.Server
	mu      sync.Mutex
	spans   []*tracepb.Span
	process map[string]string // what is said of the sender
	raw     strings.Builder   // all that came
	keys    []string          // of the requests
}

func newCollector(t *testing.T) *collector {
	c := &collector{process: map[string]string{}}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body io.Reader = r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(r.Body)
			if err != nil {
				t.Error(err)
				return
			}
			body = z
		}
		b, err := io.ReadAll(body)
		var m tracepb.TracesData
		if err == nil {
			err = proto.Unmarshal(b, &m)
		}
		if err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%s %s: %v", r.URL.Path, r.Header.Get("Content-Type"), err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.raw.Write(b)
		c.keys = append(c.keys, r.Header.Get("X-Key"))
		for _, of := range m.ResourceSpans {
			for _, a := range of.Resource.Attributes {
				c.process[a.Key] = a.Value.GetStringValue()
			}
			for _, s := range of.ScopeSpans {
				c.spans = append(c.spans, s.Spans...)
			}
		}
	}))
	t.Cleanup(c.Close)
	return c
}

// attributes are a span's.
func attributes(all []*commonpb.KeyValue) map[string]string {
	m := map[string]string{}
	for _, a := range all {
		m[a.Key] = a.Value.GetStringValue()
	}
	return m
}

func traceWorker(t *testing.T, w *testenv.World, base, endpoint string, args ...string) *testenv.Process {
	return testenv.Run(t, []string{
		"ANTHROPIC_BASE_URL=" + base, "ANTHROPIC_ENVIRONMENT_ID=" + w.EnvironmentID, "ANTHROPIC_ENVIRONMENT_KEY=" + w.EnvKey,
		"OTEL_EXPORTER_OTLP_ENDPOINT=" + endpoint, "OTEL_EXPORTER_OTLP_HEADERS=x-key=sekret%20one", "OTEL_SERVICE_NAME=dock",
		"OTEL_EXPORTER_OTLP_COMPRESSION=gzip", "OTEL_RESOURCE_ATTRIBUTES=team=ships",
	}, append([]string{"worker", "poll", "--drain", "--max-idle", "50ms", "--sandbox", "process", "--state-dir", t.TempDir()}, args...)...)
}

// TestSpans has a worker serve a session whose poll names a trace, and looks at
// every span that comes of it.
func TestSpans(t *testing.T) {
	w := testenv.Start(t, testenv.Options{})
	plane, err := url.Parse(w.BaseURL)
	if err != nil {
		t.Fatal(err)
	}
	gateway := httptest.NewServer(&httputil.ReverseProxy{
		FlushInterval: -1,
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(plane) },
		ModifyResponse: func(r *http.Response) error {
			if strings.HasSuffix(r.Request.URL.Path, "/poll") {
				r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
			}
			return nil
		},
	})
	defer gateway.Close()
	c := newCollector(t)
	session := w.Session(w.Agent(), testenv.Script(
		testenv.Say("go", testenv.Bash("echo marker-in-an-output; env | grep -c -e OTEL -e sekret; true"), testenv.Bash("exit 3")), testenv.Say("done")))
	p := traceWorker(t, w, gateway.URL, c.URL)
	events := w.Ended(session)
	if code := p.Wait(); code != 0 {
		t.Errorf("status %d", code)
	}
	if said := testenv.Dump(testenv.Of(events, "user.tool_result")); !strings.Contains(said, `marker-in-an-output\n0`) {
		t.Errorf("bash said %s", said)
	}
	if log := p.Log(); strings.Contains(log, "sekret") || strings.Contains(log, "spans cannot") {
		t.Errorf("the log has\n%s", log)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process["service.name"] != "dock" || c.process["team"] != "ships" || c.process["service.version"] == "" || slices.Contains(c.keys, "") || c.keys[0] != "sekret one" {
		t.Errorf("the sender is %v, its headers %q", c.process, c.keys)
	}
	for _, secret := range []string{"marker-in-an-output", "exit 3", w.EnvKey, "sk-berth", "sekret"} {
		if strings.Contains(c.raw.String(), secret) {
			t.Errorf("the spans hold %q", secret)
		}
	}
	byName := map[string][]*tracepb.Span{}
	for _, s := range c.spans {
		byName[s.Name] = append(byName[s.Name], s)
	}
	items := byName["serve_session"]
	if len(items) != 1 || len(c.spans) != 1+1+1+2+2 {
		t.Fatalf("%d spans: %v", len(c.spans), byName)
	}
	item := items[0]
	if len(item.ParentSpanId) != 0 || len(item.Links) != 1 || hex.EncodeToString(item.Links[0].TraceId) != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("the item: %v", item)
	}
	for _, s := range c.spans {
		a := attributes(s.Attributes)
		if !strings.HasPrefix(a["berth.work.id"], "work_") || a["gen_ai.conversation.id"] != session || a["berth.outcome"] == "" {
			t.Errorf("%s has %v", s.Name, a)
		}
		if s != item && (string(s.ParentSpanId) != string(item.SpanId) || string(s.TraceId) != string(item.TraceId)) {
			t.Errorf("%s is not below the item", s.Name)
		}
		if s.StartTimeUnixNano < item.StartTimeUnixNano || s.EndTimeUnixNano > item.EndTimeUnixNano || s.EndTimeUnixNano < s.StartTimeUnixNano {
			t.Errorf("%s lasts from %d to %d", s.Name, s.StartTimeUnixNano, s.EndTimeUnixNano)
		}
	}
	// A drained worker lets a parked session go when the queue is empty.
	if end := attributes(item.Attributes)["berth.outcome"]; end != "idle" && end != "room" || item.Status.GetCode() != tracepb.Status_STATUS_CODE_UNSET {
		t.Errorf("the item ended with %q, %v", end, item.Status)
	}
	calls := byName["execute_tool bash"]
	for i, want := range []struct {
		outcome, kind string
		code          tracepb.Status_StatusCode
	}{{"ok", "", tracepb.Status_STATUS_CODE_UNSET}, {"error", "tool_error", tracepb.Status_STATUS_CODE_ERROR}} {
		a := attributes(calls[i].Attributes)
		if a["berth.outcome"] != want.outcome || a["error.type"] != want.kind || calls[i].Status.GetCode() != want.code || a["gen_ai.tool.name"] != "bash" || a["gen_ai.operation.name"] != "execute_tool" {
			t.Errorf("call %d has %v, %v", i, a, calls[i].Status)
		}
	}
	for _, name := range []string{"claim_work", "start_sandbox", "post_result"} {
		if len(byName[name]) == 0 {
			t.Errorf("no %s", name)
		}
	}
}

// TestADeadCollectorHoldsNothingUp: one that takes connections and says
// nothing, and none at all.
func TestADeadCollectorHoldsNothingUp(t *testing.T) {
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	w := testenv.Start(t, testenv.Options{})
	agent := w.Agent()
	for name, at := range map[string]string{"mute": mute.Addr().String(), "gone": "127.0.0.1:1"} {
		session := w.Session(agent, testenv.Script(testenv.Say("go", testenv.Bash("echo served")), testenv.Say("done")))
		p := traceWorker(t, w, w.BaseURL, "http://"+at)
		if said := testenv.Dump(testenv.Of(w.Ended(session), "user.tool_result")); !strings.Contains(said, "served") {
			t.Errorf("%s: bash said %s", name, said)
		}
		began := time.Now()
		if code := p.Wait(); code != 0 {
			t.Errorf("%s: status %d", name, code)
		}
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("%s: the worker took %v to end", name, took)
		}
		if !strings.Contains(p.Log(), "spans cannot be sent") {
			t.Errorf("%s: the log says nothing of it:\n%s", name, p.Log())
		}
	}
}
