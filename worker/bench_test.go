package worker_test

import (
	"context"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/workertest"
)

// benchWorker runs a worker at a fake plane until the benchmark ends.
func benchWorker(b *testing.B, k *kit, change func(*worker.Config)) *workertest.Plane {
	p := workertest.New(b)
	hc := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	cfg := worker.Config{
		BaseURL: p.URL, HTTPClient: hc, EnvironmentID: workertest.EnvironmentID, EnvironmentKey: workertest.EnvironmentKey,
		Sandboxes: &boxes{}, Journal: newMemory(), Tools: k.tools,
	}
	change(&cfg)
	w, err := worker.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx, ctx) }()
	b.Cleanup(func() {
		cancel()
		<-done
		hc.CloseIdleConnections()
	})
	return p
}

// BenchmarkFirstCall is the time from a session's creation to the start of
// its first call, an idle worker waiting.
func BenchmarkFirstCall(b *testing.B) {
	k := newKit()
	began := make(chan time.Time, 1)
	k.result = func(worker.Call) ([]api.Block, bool) {
		began <- time.Now()
		return nil, false
	}
	p := benchWorker(b, k, func(c *worker.Config) { c.MaxIdle = time.Millisecond })
	var took []time.Duration
	for b.Loop() {
		created := time.Now()
		s := p.Session(workertest.Calls("a"))
		took = append(took, (<-began).Sub(created))
		p.Wait(b, "the end", soon, func() bool { return s.Done() && p.Live() == 0 })
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

// BenchmarkBacklog is 200 queued sessions of five calls each, whose turns end
// and which stay open.
func BenchmarkBacklog(b *testing.B) {
	const sessions = 200
	for b.Loop() {
		b.StopTimer()
		p := benchWorker(b, newKit(), func(c *worker.Config) { c.MaxSessions = 16 })
		var all []*workertest.Session
		b.StartTimer()
		for range sessions {
			all = append(all, p.Session(workertest.Calls("a"), workertest.Calls("a"), workertest.Calls("a"), workertest.Calls("a"), workertest.Calls("a"), workertest.Turn{}))
		}
		for _, s := range all {
			p.Wait(b, "the end", time.Minute, s.Done)
		}
	}
	b.ReportMetric(float64(sessions)*float64(b.N)/b.Elapsed().Seconds(), "sessions/s")
}
