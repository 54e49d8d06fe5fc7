// Package tracing tells an OpenTelemetry collector of a worker's spans: which
// items and calls there were, how long they took and how they ended, and
// nothing of what went into them or came out. A collector that is slow or gone
// costs spans and never holds up the worker.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/worker"
)

const (
	farewell   = 2 * time.Second // for the last spans
	complainIn = 5 * time.Minute // between two words on a collector that fails
)

// Config says where spans go.
type Config struct {
	Collector Collector
	Version   string // of this program
	WorkerID  string // "" when it is not known
	Log       *slog.Logger
}

// Tracer is a worker.Tracer. Safe for concurrent use.
type Tracer struct {
	provider   *sdktrace.TracerProvider
	tracer     trace.Tracer
	complaints *complaints
}

// New makes a tracer. What it samples, how it batches and what else it says of
// this process, the SDK takes from its own variables (OTEL_TRACES_SAMPLER,
// OTEL_BSP_…, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES).
func New(c Config) (*Tracer, error) {
	up, err := newUploader(c.Collector)
	if err != nil {
		return nil, err
	}
	exporter, err := otlptrace.New(context.Background(), up)
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	// What the variables say of the process wins.
	own := resource.NewSchemaless(attribute.String("service.name", "berth-worker"), attribute.String("service.version", c.Version))
	if c.WorkerID != "" {
		own, _ = resource.Merge(own, resource.NewSchemaless(attribute.String("service.instance.id", c.WorkerID)))
	}
	said, err := resource.New(context.Background(), resource.WithFromEnv(), resource.WithTelemetrySDK())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, fmt.Errorf("tracing: what is said of this process: %w", err)
	}
	all, err := resource.Merge(own, said)
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	heard := &complaints{log: c.Log}
	otel.SetErrorHandler(heard)
	p := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(all))
	return &Tracer{provider: p, tracer: p.Tracer("github.com/berthdev/berth/worker"), complaints: heard}, nil
}

// Close sends what is left, for a bounded time.
func (t *Tracer) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		t.complaints.Handle(err)
	}
}

// Begin begins a span; see worker.Tracer.
func (t *Tracer) Begin(ctx context.Context, s worker.Span) (context.Context, func(worker.SpanEnd)) {
	attrs := []attribute.KeyValue{attribute.String(attrWork, s.WorkID), attribute.String(attrConversation, s.SessionID)}
	kind := trace.SpanKindInternal
	switch s.Kind {
	case worker.SpanItem:
		kind = trace.SpanKindConsumer
	case worker.SpanClaim, worker.SpanPost:
		kind = trace.SpanKindClient
	case worker.SpanCall:
		attrs = append(attrs, attribute.String(attrOperation, executeTool))
	}
	if s.Call.ID != "" {
		form := "extension"
		if s.Call.Custom {
			form = "function"
		}
		attrs = append(attrs, attribute.String(attrTool, tool(s)), attribute.String(attrCall, s.Call.ID), attribute.String(attrToolType, form))
	}
	options := []trace.SpanStartOption{trace.WithSpanKind(kind), trace.WithAttributes(attrs...)}
	if s.Link != "" {
		from := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": s.Link})
		if sc := trace.SpanContextFromContext(from); sc.IsValid() {
			options = append(options, trace.WithLinks(trace.Link{SpanContext: sc}))
		}
	}
	ctx, span := t.tracer.Start(ctx, spanName(s), options...)
	return ctx, func(e worker.SpanEnd) {
		span.SetAttributes(attribute.String(attrOutcome, e.Outcome))
		if e.Err != nil {
			span.SetAttributes(attribute.String(attrErrorType, errorType(e.Err)))
			span.SetStatus(codes.Error, "")
		}
		span.End()
	}
}

// errorType is what kind of error it is: its text may hold what no collector
// is to know, and is in the log.
func errorType(err error) string {
	var open *worker.OpenError
	switch status := client.StatusOf(err); {
	case status != 0:
		return strconv.Itoa(status)
	case errors.Is(err, worker.ErrTool):
		return "tool_error"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.As(err, &open):
		return "sandbox_refused"
	}
	for u := errors.Unwrap(err); u != nil; u = errors.Unwrap(err) {
		err = u
	}
	return strings.TrimPrefix(fmt.Sprintf("%T", err), "*")
}

// complaints puts the SDK's errors into the log, now and then.
type complaints struct {
	log *slog.Logger

	mu   sync.Mutex
	next time.Time
}

func (c *complaints) Handle(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.After(c.next) {
		c.next = now.Add(complainIn)
		c.log.Warn("spans cannot be sent and are dropped", "err", err)
	}
}
