package turn_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/model"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

// echo is a model that notes when it is asked and calls bash each time.
type echo struct{ asked chan time.Time }

func (e echo) Stream(context.Context, model.Request, model.Sink) (model.Response, error) {
	e.asked <- time.Now()
	return model.Response{Stop: model.StopTools, Blocks: []model.Block{{Kind: model.ToolUse, Name: "bash", Input: []byte(`{}`)}}}, nil
}

// BenchmarkResultToRequest measures from the arrival of a tool result to the
// next model request: one transaction with its fsync, which accepts the result
// and begins the request, and what we add to it.
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
	var gaps []time.Duration
	b.ResetTimer()
	for b.Loop() {
		b.StopTimer()
		call := w.open(id)
		b.StartTimer()
		begin := time.Now()
		w.send(id, result(call, "ok"))
		gaps = append(gaps, (<-e.asked).Sub(begin))
	}
	slices.Sort(gaps)
	at := func(d []time.Duration, q int) float64 {
		return float64(d[min(len(d)*q/100, len(d)-1)].Microseconds()) / 1000
	}
	b.ReportMetric(at(gaps, 50), "p50-ms")
	b.ReportMetric(at(gaps, 99), "p99-ms")
}
