package stage

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"syscall"
	"time"

	"github.com/berthdev/berth/internal/egress"
)

const (
	dialTime     = 15 * time.Second
	headerTime   = 60 * time.Second
	stallTime    = 60 * time.Second // without a byte
	maxRedirects = 5
	userAgent    = "berth-stage"
)

// web fetches over https. It has no credential, no cookie and no proxy: the
// address that is checked is the one that is dialled.
type web struct {
	client *http.Client
	stall  time.Duration
}

// errNotPublic is why an address is not dialled.
type errNotPublic struct{ what string }

func (e *errNotPublic) Error() string {
	return "its address is " + e.what + ", which the worker does not reach for inputs (--input-private)"
}

func newWeb(cfg Config) (*web, error) {
	roots, err := authorities(cfg.CA)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: dialTime}
	if !cfg.Private {
		dialer.Control = func(_, address string, _ syscall.RawConn) error { return checkAddress(address) }
	}
	return &web{stall: stallTime, client: &http.Client{
		Transport: &http.Transport{
			DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: dialTime, ResponseHeaderTimeout: headerTime, MaxResponseHeaderBytes: 64 << 10,
			DisableCompression: true, ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute, MaxIdleConns: 16,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if r.URL.Scheme != "https" || r.URL.User != nil {
				return refused("it is redirected to something that is no plain https: URL")
			}
			if len(via) > maxRedirects {
				return refused("it is redirected more than %d times", maxRedirects)
			}
			return nil
		},
	}}, nil
}

// authorities are the system's and those of a file; nil is the system's alone.
func authorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("stage: the authorities for inputs: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("stage: %s holds no certificate", file)
	}
	return pool, nil
}

func checkAddress(address string) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return &errNotPublic{"none of the internet"}
	}
	if ok, what := egress.Public(a.Addr()); !ok {
		return &errNotPublic{what}
	}
	return nil
}

func (w *web) fetch(ctx context.Context, in Input, j *load) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, in.URL.String(), nil)
	if err != nil {
		return refused("its URL cannot be asked for")
	}
	req.Header.Set("User-Agent", userAgent)
	res, err := w.client.Do(req)
	if err != nil {
		return webFailure(err)
	}
	defer res.Body.Close()
	switch code := res.StatusCode; {
	case code == http.StatusOK:
	case code == http.StatusTooManyRequests || code == http.StatusRequestTimeout || code >= 500:
		return passing("the server answered %d", code)
	default:
		return refused("the server answered %d", code)
	}
	if res.ContentLength > j.total.left.Load() {
		return j.take(res.ContentLength)
	}
	stall := time.AfterFunc(w.stall, func() { cancel(passing("nothing came for %s", w.stall)) })
	defer stall.Stop()
	err = j.write(in, res.Body, func() { stall.Reset(w.stall) })
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// webFailure words why a request failed, without its URL.
func webFailure(err error) error {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	if e, ok := errors.AsType[*errNotPublic](err); ok {
		return refused("%s", e)
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	if de, ok := errors.AsType[*net.DNSError](err); ok {
		if de.IsNotFound {
			return refused("its host does not exist")
		}
		return passing("its host could not be looked up")
	}
	if ce, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return refused("its server's certificate is not trusted: %s", ce.Err)
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	if oe, ok := errors.AsType[*net.OpError](err); ok {
		err = oe.Err
	}
	return passing("the server could not be asked: %s", err)
}
