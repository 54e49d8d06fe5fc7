package app

import (
	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/tracing"
)

// openTracer makes the tracer of a worker, nil where there is no collector.
func openTracer(c WorkerConfig) (*tracing.Tracer, error) {
	if !c.Trace.On() {
		return nil, nil
	}
	t, err := tracing.New(tracing.Config{
		Collector: tracing.Collector{
			URL: c.Trace.URL(), Headers: c.Trace.Headers(), Timeout: c.Trace.Timeout(),
			Gzip: c.Trace.OTLPCompression == "gzip", CAFile: c.Trace.OTLPCertificate,
		},
		Version: config.Version, WorkerID: c.WorkerID, Log: c.Log.With("part", "spans"),
	})
	if err != nil {
		return nil, &config.Error{Problem: err.Error(), Cure: "docs/tracing.md says what the variables take"}
	}
	return t, nil
}
