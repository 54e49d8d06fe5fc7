package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthdev/berth/worker/memory"
)

// memoryCounters count what is done with memory stores. They fulfil
// memory.Counters.
type memoryCounters struct {
	syncs   *prometheus.CounterVec
	took    prometheus.Histogram
	changes *prometheus.CounterVec
}

// Memory gives the counters of memory stores.
func (w *Worker) Memory() memory.Counters { return w.memory }

func newMemoryCounters(w *Worker) *memoryCounters {
	m := &memoryCounters{
		syncs:   w.vec("memory_syncs_total", "Syncs of one memory store, by outcome.", "outcome"),
		changes: w.vec("memory_changes_total", "Memories, by what was done with them.", "change"),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{Name: prefix + "memory_sync_seconds", Help: "How long a sync of one memory store took.",
			Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}}),
	}
	w.registry.MustRegister(m.took)
	for _, o := range []string{"ok", "error"} {
		m.syncs.WithLabelValues(o)
	}
	for _, c := range memory.Changes {
		m.changes.WithLabelValues(string(c))
	}
	return m
}

// Synced counts a sync.
func (m *memoryCounters) Synced(ok bool, took time.Duration) {
	outcome := "ok"
	if !ok {
		outcome = "error"
	}
	m.syncs.WithLabelValues(outcome).Inc()
	m.took.Observe(took.Seconds())
}

// Changed counts a memory.
func (m *memoryCounters) Changed(c memory.Change) { m.changes.WithLabelValues(string(c)).Inc() }
