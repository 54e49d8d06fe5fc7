package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthdev/berth/worker"
)

// Source is what is looked at when somebody asks. Its funcs are safe for
// concurrent use; nil ones say nothing.
type Source struct {
	Status    func() []worker.Attached
	Sandboxes func() Sandboxes
	Egress    func() Egress // nil also where no host is allowed
	// Woken says that the queue is polled only when a delivery comes.
	Woken bool
}

// Sandboxes are counts of the moment.
type Sandboxes struct {
	Live  int // of sessions, being started included
	Ready int // for sessions that are new
}

// Egress are counts since the start.
type Egress struct{ Allowed, Refused, Failed, Sent, Received int64 }

// attached lists what the worker holds.
func (s Source) attached() []worker.Attached {
	if s.Status == nil {
		return nil
	}
	return s.Status()
}

var (
	sessionsDesc    = prometheus.NewDesc(prefix+"sessions", "Sessions attached now, by what they are doing.", []string{"state"}, nil)
	sandboxesDesc   = prometheus.NewDesc(prefix+"sandboxes", "Sandboxes now: at work, parked with their sessions, or ready for new ones.", []string{"state"}, nil)
	egressDesc      = prometheus.NewDesc(prefix+"egress_requests_total", "Connections that sessions asked for, by verdict.", []string{"verdict"}, nil)
	egressBytesDesc = prometheus.NewDesc(prefix+"egress_bytes_total", "Bytes between sessions and hosts, by direction.", []string{"direction"}, nil)
)

// Describe names the gauges.
func (s Source) Describe(ch chan<- *prometheus.Desc) {
	ch <- sessionsDesc
	ch <- sandboxesDesc
	ch <- egressDesc
	ch <- egressBytesDesc
}

// Collect looks.
func (s Source) Collect(ch chan<- prometheus.Metric) {
	doing := map[worker.SlotState]int{}
	for _, a := range s.attached() {
		doing[a.State]++
	}
	for _, state := range states {
		ch <- prometheus.MustNewConstMetric(sessionsDesc, prometheus.GaugeValue, float64(doing[state]), string(state))
	}
	var boxes Sandboxes
	if s.Sandboxes != nil {
		boxes = s.Sandboxes()
	}
	parked := min(doing[worker.StateParked], boxes.Live)
	for state, n := range map[string]int{"live": boxes.Live - parked, "parked": parked, "ready": boxes.Ready} {
		ch <- prometheus.MustNewConstMetric(sandboxesDesc, prometheus.GaugeValue, float64(n), state)
	}
	var out Egress
	if s.Egress != nil {
		out = s.Egress()
	}
	for verdict, n := range map[string]int64{"allowed": out.Allowed, "refused": out.Refused, "failed": out.Failed} {
		ch <- prometheus.MustNewConstMetric(egressDesc, prometheus.CounterValue, float64(n), verdict)
	}
	for direction, n := range map[string]int64{"sent": out.Sent, "received": out.Received} {
		ch <- prometheus.MustNewConstMetric(egressBytesDesc, prometheus.CounterValue, float64(n), direction)
	}
}
