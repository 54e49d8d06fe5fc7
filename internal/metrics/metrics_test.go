package metrics_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/metrics"
	"github.com/berthdev/berth/toolset"
	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/workertest"
)

// room gives every session the same sandbox, which does nothing.
type room struct{}

func (room) Open(context.Context, worker.Opening) (worker.Sandbox, bool, error) {
	return room{}, false, nil
}
func (room) Bash(context.Context, toolset.Command) (toolset.Result, error) {
	return toolset.Result{}, nil
}
func (room) Restart(context.Context) error     { return nil }
func (room) Files() toolset.Files              { return nil }
func (room) Workdir() string                   { return "/" }
func (room) Close(context.Context, bool) error { return nil }

// kit's tool "slow" waits until it is let go.
type kit struct{ entered, open chan struct{} }

func (kit) Owns(string, bool) bool { return true }

func (k kit) Run(_ context.Context, c worker.Call) ([]api.Block, bool) {
	if c.Name == "slow" {
		close(k.entered)
		<-k.open
	}
	return []api.Block{api.Text("ran")}, false
}

// warner has something to say to every session.
type warner struct{}

func (warner) Prepare(context.Context, worker.PrepareInput) (*worker.Prepared, error) {
	return &worker.Prepared{Warnings: []string{"a skill is missing"}}, nil
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// served is a server of a worker's counters.
func served(t *testing.T, counts *metrics.Worker, source metrics.Source) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := metrics.Serve(l, counts, source, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { s.Close() })
	return "http://" + l.Addr().String()
}

func TestAWorkerIsSeen(t *testing.T) {
	p := workertest.New(t)
	counts := metrics.NewWorker("test")
	k := kit{make(chan struct{}), make(chan struct{})}
	w, err := worker.New(worker.Config{
		BaseURL: p.URL, EnvironmentID: workertest.EnvironmentID, EnvironmentKey: workertest.EnvironmentKey,
		Sandboxes: room{}, Tools: func(toolset.Host) worker.Tools { return k }, Counters: counts, MaxIdle: -1, Preparer: warner{},
	})
	if err != nil {
		t.Fatal(err)
	}
	url := served(t, counts, metrics.Source{
		Status: w.Status, Sandboxes: func() metrics.Sandboxes { return metrics.Sandboxes{Live: 1, Ready: 2} },
		Egress: func() metrics.Egress { return metrics.Egress{Allowed: 3, Sent: 4} },
	})
	if code, why := get(t, url+"/readyz"); code != 503 || !strings.Contains(why, "no poll") {
		t.Errorf("before the first poll: %d %s", code, why)
	}
	if code, _ := get(t, url+"/healthz"); code != 200 {
		t.Errorf("healthz: %d", code)
	}
	_, before := get(t, url+"/metrics")
	for _, zero := range []string{
		`berth_worker_polls_total{outcome="error"} 0`, `berth_worker_calls_total{outcome="refused",tool="other"} 0`,
		`berth_worker_sessions_ended_total{reason="lost"} 0`, `berth_worker_sessions{state="running"} 0`, "berth_worker_warnings_total 0",
	} {
		if !strings.Contains(before, zero+"\n") {
			t.Errorf("not there at the start: %s", zero)
		}
	}

	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx, context.Background()) }()
	s := p.Session(workertest.Calls("slow", "bash"))
	<-k.entered
	if code, why := get(t, url+"/readyz"); code != 200 {
		t.Errorf("at work: %d %s", code, why)
	}
	var page struct {
		Ready    bool
		Sessions []struct{ Session, State, Tool string }
	}
	if _, body := get(t, url+"/?format=json"); json.Unmarshal([]byte(body), &page) != nil || len(page.Sessions) != 1 ||
		page.Sessions[0].Session != s.ID || page.Sessions[0].State != "running" || page.Sessions[0].Tool != "slow" {
		t.Errorf("status %s", body)
	}
	if _, body := get(t, url+"/"); !strings.Contains(body, s.ID) || !strings.Contains(body, "running slow") {
		t.Errorf("page %s", body)
	}
	close(k.open)
	p.Wait(t, "the end", time.Minute, s.Done)
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	_, after := get(t, url+"/metrics")
	for _, line := range []string{
		`berth_worker_polls_total{outcome="item"} 1`, "berth_worker_claims_total 1", `berth_worker_sessions_ended_total{reason="drained"} 1`,
		`berth_worker_calls_total{outcome="answered",tool="other"} 1`, `berth_worker_calls_total{outcome="answered",tool="bash"} 1`,
		`berth_worker_sandboxes{state="ready"} 2`, `berth_worker_egress_requests_total{verdict="allowed"} 3`, "berth_worker_session_held_seconds_count 1",
		"berth_worker_warnings_total 1",
	} {
		if !strings.Contains(after, line+"\n") {
			t.Errorf("missing: %s", line)
		}
	}
	for _, no := range []string{s.ID, workertest.EnvironmentKey, workertest.EnvironmentID} {
		if strings.Contains(after, no) {
			t.Errorf("the metrics hold %s", no)
		}
	}
	counts.Drain()
	if code, why := get(t, url+"/readyz"); code != 503 || why != "draining\n" {
		t.Errorf("draining: %d %s", code, why)
	}
}

func TestReadyFollowsThePolls(t *testing.T) {
	counts := metrics.NewWorker("test")
	url := served(t, counts, metrics.Source{Woken: true})
	counts.Polled("empty")
	if code, _ := get(t, url+"/readyz"); code != 200 {
		t.Errorf("after a poll: %d", code)
	}
	counts.Polled("error")
	if code, _ := get(t, url+"/readyz"); code != 503 {
		t.Errorf("woken, and its last poll failed: %d", code)
	}
}

func TestThePageNamesEveryMetric(t *testing.T) {
	_, body := get(t, served(t, metrics.NewWorker("test"), metrics.Source{})+"/metrics")
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	names := func(pattern, text string) []string {
		var all []string
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			all = append(all, m[1])
		}
		slices.Sort(all)
		return slices.Compact(all)
	}
	have, named := names(`(?m)^# TYPE (berth_\w+)`, body), names("(?m)^\\| `(berth_\\w+)`", string(page))
	if !slices.Equal(have, named) {
		t.Errorf("docs/metrics.md names\n%v\nthe worker has\n%v", named, have)
	}
}
