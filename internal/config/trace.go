package config

import (
	"net/url"
	"strings"
	"time"
)

// Trace is where a worker's spans go. The variables are OpenTelemetry's own;
// those of the SDK (sampler, batches, the process's name) it reads itself.
type Trace struct {
	OTLPEndpoint       string `name:"otlp-endpoint" help:"Send spans to this OpenTelemetry collector, as protobuf over HTTP at /v1/traces below this address (docs/tracing.md); none by default." env:"OTEL_EXPORTER_OTLP_ENDPOINT" placeholder:"URL"`
	OTLPTracesEndpoint string `name:"otlp-traces-endpoint" help:"The same, at this address as it is." env:"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" placeholder:"URL"`
	OTLPHeaders        Secret `name:"otlp-headers" help:"Headers for the collector, name=value with commas between them; better given as the variable than as a flag." env:"OTEL_EXPORTER_OTLP_TRACES_HEADERS,OTEL_EXPORTER_OTLP_HEADERS" placeholder:"HEADERS"`
	OTLPProtocol       string `name:"otlp-protocol" help:"What the collector takes; only http/protobuf is spoken." env:"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,OTEL_EXPORTER_OTLP_PROTOCOL" default:"http/protobuf" placeholder:"PROTOCOL"`
	OTLPCompression    string `name:"otlp-compression" help:"none or gzip." env:"OTEL_EXPORTER_OTLP_TRACES_COMPRESSION,OTEL_EXPORTER_OTLP_COMPRESSION" default:"none" placeholder:"WAY"`
	OTLPTimeout        int64  `name:"otlp-timeout" help:"Milliseconds that a batch may take to be sent." env:"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT,OTEL_EXPORTER_OTLP_TIMEOUT" default:"10000" placeholder:"MS"`
	OTLPCertificate    string `name:"otlp-certificate" help:"PEM file with the authorities that the collector's certificate may come from." type:"path" env:"OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE,OTEL_EXPORTER_OTLP_CERTIFICATE" placeholder:"FILE"`
	TracesExporter     string `name:"traces-exporter" help:"otlp, or none for no spans whatever else is set." env:"OTEL_TRACES_EXPORTER" default:"otlp" placeholder:"NAME"`
	SDKDisabled        string `name:"otel-sdk-disabled" help:"true for no spans whatever else is set." env:"OTEL_SDK_DISABLED" default:"false" placeholder:"BOOL"`
}

// On says whether there is a collector.
func (t Trace) On() bool {
	return (t.OTLPEndpoint != "" || t.OTLPTracesEndpoint != "") && t.TracesExporter != "none" && !strings.EqualFold(t.SDKDisabled, "true")
}

// URL is where spans are posted.
func (t Trace) URL() string {
	if t.OTLPTracesEndpoint != "" {
		return t.OTLPTracesEndpoint
	}
	return strings.TrimRight(t.OTLPEndpoint, "/") + "/v1/traces"
}

// Timeout is how long a batch may take.
func (t Trace) Timeout() time.Duration { return time.Duration(t.OTLPTimeout) * time.Millisecond }

// Headers are those for the collector. The values are as in a URL.
func (t Trace) Headers() map[string]string {
	h := map[string]string{}
	for pair := range strings.SplitSeq(t.OTLPHeaders.Reveal(), ",") {
		name, value, ok := strings.Cut(pair, "=")
		if plain, err := url.PathUnescape(strings.TrimSpace(value)); ok && err == nil {
			h[strings.TrimSpace(name)] = plain
		}
	}
	return h
}

// Validate checks what is said of a collector, if there is one.
func (t Trace) Validate() error {
	if !t.On() {
		return nil
	}
	if err := httpURL("OTEL_EXPORTER_OTLP_ENDPOINT", t.URL()); err != nil {
		return err
	}
	switch {
	case t.TracesExporter != "otlp":
		return wrong("set it to otlp or none", "OTEL_TRACES_EXPORTER is %q", t.TracesExporter)
	case t.OTLPProtocol != "http/protobuf":
		return wrong("set OTEL_EXPORTER_OTLP_PROTOCOL to http/protobuf; collectors take it at port 4318", "spans cannot be sent by %q", t.OTLPProtocol)
	case t.OTLPCompression != "none" && t.OTLPCompression != "gzip":
		return wrong("set OTEL_EXPORTER_OTLP_COMPRESSION to none or gzip", "spans cannot be compressed by %q", t.OTLPCompression)
	case t.OTLPTimeout <= 0 || t.OTLPTimeout > 600_000:
		return wrong("give milliseconds, 1 to 600000", "OTEL_EXPORTER_OTLP_TIMEOUT %d cannot be", t.OTLPTimeout)
	}
	return nil
}
