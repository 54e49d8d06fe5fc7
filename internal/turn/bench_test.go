package turn_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/model"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

// echo is a model that notes when it is asked and calls bash each time.
type echo struct{ asked chan time.Time }

func (e echo) Stream(context.Context, model.Request, model.Sink) (model.Response, error) {
	e.asked <- time.Now()
	return model.Response{Stop: model.StopTools, Blocks: []model.Block{{Kind: model.ToolUse, Name: "bash", Input: []byte(`{}`)}}}, nil
}

// BenchmarkResultToRequest measures from the moment a tool result is accepted,
// durably, to the next model request: one transaction with its fsync and what
// we add to it. ms/p50 and ms/p99 are of that; accept-ms is what the result's
// own transaction takes.
func BenchmarkResultToRequest(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) { resultToRequest(b, storetest.SQLite(b)) })
	b.Run("postgres", func(b *testing.B) { resultToRequest(b, storetest.Postgres(b)) })
}

func resultToRequest(b *testing.B, st store.Store) {
	e := echo{asked: make(chan time.Time, 1)}
	w := newWorld(b, st)
	w.stop()
	w.cfg.Models = &model.Registry{}
	w.cfg.Models.AddPrefix("", e)
	w.start()
	id := w.create(actor(), "hi")
	<-e.asked
	next := func() string {
		w.until(id, "a call", func(_ []api.Event, s plane.Session) bool { return s.Turn == plane.TurnCalls })
		var calls []plane.Call
		must(b, w.st.View(b.Context(), func(rd store.Reader) (err error) { calls, err = rd.OpenCalls(id); return err }))
		return calls[0].ID
	}
	var gaps, accepts []time.Duration
	b.ResetTimer()
	for b.Loop() {
		b.StopTimer()
		call := next()
		b.StartTimer()
		begin := time.Now()
		w.send(id, result(call, "ok"))
		accepted := time.Now()
		gaps = append(gaps, (<-e.asked).Sub(accepted))
		accepts = append(accepts, accepted.Sub(begin))
	}
	slices.Sort(gaps)
	slices.Sort(accepts)
	at := func(d []time.Duration, q int) float64 {
		return float64(d[min(len(d)*q/100, len(d)-1)].Microseconds()) / 1000
	}
	b.ReportMetric(at(gaps, 50), "p50-ms")
	b.ReportMetric(at(gaps, 99), "p99-ms")
	b.ReportMetric(at(accepts, 50), "accept-p50-ms")
}
