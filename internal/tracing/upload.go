package tracing

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Collector is an OTLP receiver that takes protobuf over HTTP.
type Collector struct {
	URL     string // to which spans are posted
	Headers map[string]string
	Timeout time.Duration // of one batch, with its retries
	Gzip    bool
	CAFile  string // PEM with the authorities to trust; "" for the system's
}

const (
	maxAnswer   = 64 << 10
	uploadTries = 3
)

// uploader posts spans. The exporters of OpenTelemetry link all of gRPC; this
// one is an otlptrace.Client of a page.
type uploader struct {
	to   Collector
	http *http.Client
}

func newUploader(c Collector) (*uploader, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("tracing: the collector's authorities: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tracing: %s holds no certificate", c.CAFile)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	// The headers may hold a credential, which is for this address alone.
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &uploader{to: c, http: &http.Client{Transport: t, CheckRedirect: stay}}, nil
}

func (u *uploader) Start(context.Context) error { return nil }

func (u *uploader) Stop(context.Context) error {
	u.http.CloseIdleConnections()
	return nil
}

// UploadTraces posts spans. What the collector may take later is tried again.
func (u *uploader) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	// On the wire this is an ExportTraceServiceRequest.
	body, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err != nil {
		return err
	}
	if u.to.Gzip {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		if _, err := z.Write(body); err != nil {
			return err
		}
		if err := z.Close(); err != nil {
			return err
		}
		body = b.Bytes()
	}
	ctx, cancel := context.WithTimeout(ctx, u.to.Timeout)
	defer cancel()
	for try := 1; ; try++ {
		again, err := u.post(ctx, body)
		if err == nil || !again || try == uploadTries {
			return err
		}
		t := time.NewTimer(time.Duration(try)*time.Second/2 + rand.N(time.Second/2))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}

func (u *uploader) post(ctx context.Context, body []byte) (again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.to.URL, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	for k, v := range u.to.Headers {
		req.Header.Set(k, v)
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("User-Agent", "berth")
	if u.to.Gzip {
		req.Header.Set("Content-Encoding", "gzip")
	}
	res, err := u.http.Do(req)
	if err != nil {
		return true, err
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer))
	switch res.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		again = true
	}
	if res.StatusCode/100 != 2 {
		return again, errors.New("the collector answers " + res.Status)
	}
	return false, nil
}
