// Package metrics shows a worker from outside: counters for Prometheus, health
// for whoever restarts it, and a page that says what each session is doing.
// Nothing it shows names a credential; the counters name no session either.
package metrics

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/berthdev/berth/worker"
)

// Worker counts what a worker does, as its worker.Counters. Safe for
// concurrent use.
type Worker struct {
	registry *prometheus.Registry

	polls      *prometheus.CounterVec
	claims     prometheus.Counter
	ended      *prometheus.CounterVec
	held       prometheus.Histogram
	calls      *prometheus.CounterVec
	ran        *prometheus.HistogramVec
	reconnects prometheus.Counter
	warnings   prometheus.Counter
	memory     *memoryCounters

	mu       sync.Mutex
	polled   time.Time // when a poll last succeeded
	failing  bool      // the last poll failed
	draining bool
}

// Label values, each of which is there from the start.
var (
	pollOutcomes = []string{"item", "empty", "error"}
	ends         = []worker.End{worker.EndIdle, worker.EndTerminated, worker.EndRoom, worker.EndStopping, worker.EndStopped, worker.EndLost, worker.EndDrained, worker.EndCancelled, worker.EndFailed}
	outcomes     = []worker.CallOutcome{worker.CallAnswered, worker.CallRefused, worker.CallUnsent, worker.CallInterrupted}
	states       = []worker.SlotState{worker.StateClaiming, worker.StateStarting, worker.StateQueued, worker.StateTurn, worker.StateRunning, worker.StatePosting, worker.StateParked, worker.StateClosing}
	tools        = []string{"bash", "read", "write", "edit", "glob", "grep", otherTool}
)

// otherTool stands for every tool that is not built in: a name that a model or
// an agent's author chose is no label.
const otherTool = "other"

// NewWorker makes the counters, all at zero.
func NewWorker(version string) *Worker {
	w := &Worker{registry: prometheus.NewRegistry()}
	w.polls = w.vec("polls_total", "Polls of the queue, by outcome.", "outcome")
	w.claims = w.counter("claims_total", "Work items whose ack was accepted.")
	w.ended = w.vec("sessions_ended_total", "Sessions let go, by reason.", "reason")
	w.held = prometheus.NewHistogram(prometheus.HistogramOpts{Name: prefix + "session_held_seconds", Help: "How long a session was attached.",
		Buckets: []float64{.1, .5, 1, 5, 15, 60, 300, 900, 3600, 14400}})
	w.calls = w.vec("calls_total", "Tool calls, by tool and outcome.", "tool", "outcome")
	w.ran = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: prefix + "call_seconds", Help: "How long a tool call took, its result posted.",
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 120, 600}}, []string{"tool"})
	w.reconnects = w.counter("stream_reconnects_total", "Event streams opened anew.")
	w.warnings = w.counter("warnings_total", "Warnings that sessions were told with their results.")
	w.memory = newMemoryCounters(w)
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + "info", Help: "Always 1; its label is the version.", ConstLabels: prometheus.Labels{"version": version}})
	info.Set(1)
	w.registry.MustRegister(w.held, w.ran, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, o := range pollOutcomes {
		w.polls.WithLabelValues(o)
	}
	for _, e := range ends {
		w.ended.WithLabelValues(string(e))
	}
	for _, t := range tools {
		w.ran.WithLabelValues(t)
		for _, o := range outcomes {
			w.calls.WithLabelValues(t, string(o))
		}
	}
	return w
}

const prefix = "berth_worker_"

func (w *Worker) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
	w.registry.MustRegister(c)
	return c
}

func (w *Worker) vec(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels)
	w.registry.MustRegister(c)
	return c
}

// Polled counts a poll.
func (w *Worker) Polled(outcome string) {
	w.polls.WithLabelValues(outcome).Inc()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failing = outcome == "error"; !w.failing {
		w.polled = time.Now()
	}
}

// Claimed counts a claim.
func (w *Worker) Claimed() { w.claims.Inc() }

// Ended counts a session that was let go.
func (w *Worker) Ended(reason worker.End, held time.Duration) {
	w.ended.WithLabelValues(string(reason)).Inc()
	w.held.Observe(held.Seconds())
}

// Called counts a tool call.
func (w *Worker) Called(tool string, outcome worker.CallOutcome, ran time.Duration) {
	if !slices.Contains(tools, tool) {
		tool = otherTool
	}
	w.calls.WithLabelValues(tool, string(outcome)).Inc()
	w.ran.WithLabelValues(tool).Observe(ran.Seconds())
}

// Reconnected counts a stream opened anew.
func (w *Worker) Reconnected() { w.reconnects.Inc() }

// Warned counts a warning.
func (w *Worker) Warned() { w.warnings.Inc() }

// Drain says that no more work is taken.
func (w *Worker) Drain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.draining = true
}

// pollAge is how old the last successful poll of a ready worker may be.
const pollAge = time.Minute

// unready is why the worker is not ready, "" when it is. A worker that waits
// to be woken, or is full, polls when there is reason to.
func (w *Worker) unready(waits bool, now time.Time) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.draining:
		return "draining"
	case w.polled.IsZero():
		return "no poll has succeeded yet"
	case w.failing && (waits || now.Sub(w.polled) > pollAge):
		return "polls fail"
	case !waits && now.Sub(w.polled) > pollAge:
		return "no poll has succeeded for a minute"
	}
	return ""
}
