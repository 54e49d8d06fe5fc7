// Package client is a typed HTTP client for the Managed Agents API, as far as
// Berth's command line and worker need it: environments, the work queue,
// agents, sessions, events with their stream, models and keys. It speaks to
// Berth's control plane and to Anthropic's alike.
//
// Every method may be called from many goroutines at once. A call is tried up
// to three times by the rules of the official clients (see Client.WithRetries),
// ends with its context, and fails with an *Error when the server answered
// with a status that is not 2xx.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/berthdev/berth/api"
)

// DefaultRetries is how often a failed call is tried again.
const DefaultRetries = 2

// Credential is sent with every request: an API key as x-api-key, anything
// else as a bearer. The zero value sends none.
type Credential struct {
	header, value string
}

// APIKey is a workspace's API key.
func APIKey(key string) Credential { return Credential{"X-Api-Key", key} }

// Bearer is an environment key, a sessions token or an OAuth token.
func Bearer(token string) Credential { return Credential{"Authorization", "Bearer " + token} }

// String hides the secret.
func (c Credential) String() string {
	if c.value == "" {
		return "no credential"
	}
	return c.header + " (hidden)"
}

// GoString hides the secret too.
func (c Credential) GoString() string { return c.String() }

// Client calls one server with one credential. Safe for concurrent use; the
// With methods give a changed copy that shares the connections.
type Client struct {
	base       *url.URL
	baseErr    error
	credential Credential
	http       *http.Client
	retries    int
	timeout    time.Duration
	headers    http.Header
}

// New makes a client for a server. base is its origin, with a path prefix if
// it has one; a base that is no http or https URL is reported by every call.
// hc is nil for a client of its own; it is copied, and redirects to another
// origin are refused, so that the credential never leaves base.
func New(base string, credential Credential, hc *http.Client) *Client {
	c := &Client{credential: credential, retries: DefaultRetries, timeout: 10 * time.Minute}
	c.base, c.baseErr = url.Parse(strings.TrimRight(base, "/"))
	if c.baseErr == nil && (c.base.Scheme != "http" && c.base.Scheme != "https" || c.base.Host == "") {
		c.baseErr = fmt.Errorf("base URL %q: want http://host or https://host", base)
	}
	if hc == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost = 64
		t.MaxResponseHeaderBytes = maxHeader
		hc = &http.Client{Transport: t}
	}
	if c.baseErr == nil {
		c.base.Host = strings.TrimSuffix(c.base.Host, ":")
	}
	own := *hc
	inner := own.CheckRedirect
	own.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if from := via[0].URL; from.Scheme != req.URL.Scheme || from.Host != req.URL.Host {
			return &redirected{req.URL}
		}
		if inner != nil {
			return inner(req, via)
		}
		if len(via) >= 10 {
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}
	c.http = &own
	return c
}

// WithRetries is c with another number of retries; 0 tries once. Connection
// errors, 408, 409, 429 and 5xx are retried unless the answer's
// x-should-retry says otherwise; the pause is the answer's Retry-After-Ms or
// Retry-After, else 0.5 s doubling up to 8 s, less up to a quarter.
func (c *Client) WithRetries(n int) *Client {
	d := *c
	d.retries = max(n, 0)
	return &d
}

// WithTimeout is c with another limit for each try of a call (not of a
// stream); the default is 10 minutes.
func (c *Client) WithTimeout(d time.Duration) *Client {
	e := *c
	e.timeout = d
	return &e
}

// WithCredential is c with another credential.
func (c *Client) WithCredential(cred Credential) *Client {
	d := *c
	d.credential = cred
	return &d
}

// WithHeader is c with one more header on every request.
func (c *Client) WithHeader(name, value string) *Client {
	d := *c
	d.headers = c.headers.Clone()
	if d.headers == nil {
		d.headers = http.Header{}
	}
	d.headers.Set(name, value)
	return &d
}

// BaseURL is the server's address, without user information.
func (c *Client) BaseURL() string {
	if c.base == nil {
		return ""
	}
	u := *c.base
	u.User = nil
	return u.String()
}

// CloseIdleConnections closes connections that serve no call.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }

// request is one call before it is tried.
type request struct {
	method string
	path   []string // segments after /v1, unescaped
	query  url.Values
	body   any // nil sends none
	header http.Header
	limit  int64             // bytes of the answer, 0 for maxAnswer
	heard  func(http.Header) // told the header of the answer; nil for nobody
}

// name is the call for people.
func (r request) name() string { return r.method + " /v1/" + strings.Join(r.path, "/") }

func (c *Client) newRequest(ctx context.Context, r request, body []byte) (*http.Request, error) {
	if c.baseErr != nil {
		return nil, c.baseErr
	}
	u := *c.base
	path, escaped := strings.Builder{}, strings.Builder{}
	path.WriteString(u.Path + "/v1")
	escaped.WriteString(u.EscapedPath() + "/v1")
	for _, s := range r.path {
		if s == "" || s == "." || s == ".." {
			return nil, fmt.Errorf("%s: %q is no id", r.name(), s)
		}
		path.WriteString("/" + s)
		escaped.WriteString("/" + url.PathEscape(s))
	}
	u.Path, u.RawPath = path.String(), escaped.String()
	q := u.Query()
	for k, v := range r.query {
		q[k] = v
	}
	q.Set("beta", "true")
	u.RawQuery = q.Encode()
	var rd io.Reader
	if body != nil {
		rd = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, "", rd)
	if err != nil {
		return nil, err
	}
	req.URL, req.Host = &u, u.Host
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Anthropic-Version", "2023-06-01")
	req.Header.Set("Anthropic-Beta", "managed-agents-2026-04-01")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, more := range []http.Header{c.headers, r.header} {
		for k, v := range more {
			req.Header[k] = v
		}
	}
	if c.credential.value != "" {
		req.Header.Set(c.credential.header, c.credential.value)
	}
	return req, nil
}

// call does r and decodes the answer into out. ok is false when the server sent
// none: 204, an empty body or JSON null.
func (c *Client) call(ctx context.Context, r request, out any) (ok bool, err error) {
	var body []byte
	if r.body != nil {
		if body, err = json.Marshal(r.body); err != nil {
			return false, fmt.Errorf("encode the request: %w", err)
		}
	}
	raw, header, err := c.do(ctx, r, body)
	if err != nil {
		return false, err
	}
	return c.decode(r, raw, header, out)
}

// must is call for an answer that has to be there.
func must[T any](ctx context.Context, c *Client, r request) (*T, error) {
	out := new(T)
	ok, err := c.call(ctx, r, out)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, &unexpected{r.name(), "it is empty"}
	}
	return out, nil
}

// do tries r until it succeeds, fails for good or has been tried enough.
func (c *Client) do(ctx context.Context, r request, body []byte) ([]byte, http.Header, error) {
	for try := 0; ; try++ {
		raw, header, err := c.once(ctx, r, body, try)
		if err == nil {
			if r.heard != nil {
				r.heard(header)
			}
			return raw, header, nil
		}
		if try >= c.retries || !retryable(ctx, err, header) {
			return nil, nil, err
		}
		t := time.NewTimer(pause(header, try))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, nil, fmt.Errorf("%w (last failure: %w)", context.Cause(ctx), err)
		}
	}
}

func (c *Client) once(ctx context.Context, r request, body []byte, try int) ([]byte, http.Header, error) {
	if c.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	req, err := c.newRequest(ctx, r, body)
	if err != nil {
		return nil, nil, permanent{err}
	}
	req.Header.Set("X-Stainless-Retry-Count", strconv.Itoa(try))
	res, err := c.send(req)
	if err != nil {
		return nil, header(res), err
	}
	defer res.Body.Close()
	limit := r.limit
	if limit == 0 {
		limit = maxAnswer
	}
	raw, err := readAnswer(res.Body, limit)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", r.name(), err)
	}
	return raw, res.Header, nil
}

// send sends a request. With an *Error, for an answer that is not 2xx, the
// answer is there and its body closed.
func (c *Client) send(req *http.Request) (*http.Response, error) {
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		defer res.Body.Close()
		return res, c.errorFrom(res)
	}
	return res, nil
}

func header(res *http.Response) http.Header {
	if res == nil {
		return nil
	}
	return res.Header
}

// permanent marks a failure that no repeat can help.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

func retryable(ctx context.Context, err error, h http.Header) bool {
	if ctx.Err() != nil {
		return false
	}
	if _, ok := errors.AsType[*redirected](err); ok {
		return false
	}
	if _, ok := errors.AsType[permanent](err); ok {
		return false
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return true // the connection failed
	}
	switch h.Get("X-Should-Retry") {
	case "true":
		return true
	case "false":
		return false
	}
	return e.Temporary()
}

// pause is how long to wait before try+1.
func pause(h http.Header, try int) time.Duration {
	if d, ok := retryAfter(h); ok {
		return d
	}
	d := min(500*time.Millisecond<<min(try, 10), 8*time.Second)
	return d - time.Duration(rand.Int64N(int64(d)/4+1))
}

// retryAfter is the pause that an answer asks for.
func retryAfter(h http.Header) (time.Duration, bool) {
	if ms, err := strconv.ParseFloat(h.Get("Retry-After-Ms"), 64); err == nil && ms > 0 {
		return longest(ms * float64(time.Millisecond)), true
	}
	if after := h.Get("Retry-After"); after != "" {
		if s, err := strconv.ParseFloat(after, 64); err == nil && s > 0 {
			return longest(s * float64(time.Second)), true
		}
		if at, err := http.ParseTime(after); err == nil {
			if d := longest(float64(time.Until(at))); d > 0 {
				return d, true
			}
		}
	}
	return 0, false
}

// longest bounds a pause by an hour.
func longest(d float64) time.Duration { return time.Duration(min(d, float64(time.Hour))) }

// Error is an answer that is not 2xx, or an error frame on a stream (Status is
// then the stream's, 200).
type Error struct {
	Status    int
	Type      api.ErrorType
	Message   string
	Code      string          // details.error_code
	Details   json.RawMessage // error.details as it came, nil if none
	RequestID string
	// NoRetry says that the answer forbids a repeat (x-should-retry: false),
	// whatever its status.
	NoRetry bool
	// RetryAfter is the pause the answer asks for, 0 if it asks for none.
	RetryAfter time.Duration
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d", e.Status)
	if e.Type != "" {
		fmt.Fprintf(&b, " %s", e.Type)
	}
	if e.Message != "" {
		fmt.Fprintf(&b, ": %s", e.Message)
	}
	if e.RequestID != "" {
		fmt.Fprintf(&b, " (request %s)", e.RequestID)
	}
	return b.String()
}

// Temporary says that the same request may succeed later: 408, 409, 429, 5xx
// and error frames on a stream, unless the answer forbids a repeat.
func (e *Error) Temporary() bool {
	if e.NoRetry {
		return false
	}
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests:
		return true
	}
	return e.Status >= 500 || e.Status < 300
}

// Lease is the lease as a failed beat (412) found it; false when the answer
// did not say.
func (e *Error) Lease() (api.LeaseState, bool) {
	var d struct {
		CurrentState *api.LeaseState `json:"current_state"`
	}
	if e.Details == nil || json.Unmarshal(e.Details, &d) != nil || d.CurrentState == nil {
		return api.LeaseState{}, false
	}
	return *d.CurrentState, true
}

// StatusOf is the status of the *Error in err's chain, 0 if there is none.
func StatusOf(err error) int {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Status
	}
	return 0
}

func (c *Client) errorFrom(res *http.Response) *Error {
	raw, _ := io.ReadAll(io.LimitReader(res.Body, maxError)) // what came is enough
	e := c.parseError(raw)
	e.Status = res.StatusCode
	if id := res.Header.Get("Request-Id"); id != "" {
		e.RequestID = c.plain(id)
	}
	if e.Message == "" {
		e.Message = http.StatusText(res.StatusCode)
	}
	e.NoRetry = res.Header.Get("X-Should-Retry") == "false"
	e.RetryAfter, _ = retryAfter(res.Header)
	return e
}

func (c *Client) parseError(raw []byte) *Error {
	var body struct {
		Error struct {
			Type    api.ErrorType   `json:"type"`
			Message string          `json:"message"`
			Details json.RawMessage `json:"details"`
		} `json:"error"`
		RequestID string `json:"request_id"`
	}
	if json.Unmarshal(raw, &body) != nil {
		return &Error{}
	}
	e := &Error{Type: api.ErrorType(c.plain(string(body.Error.Type))), Message: c.plain(body.Error.Message), RequestID: c.plain(body.RequestID)}
	if d := body.Error.Details; len(d) > 0 && string(d) != "null" {
		e.Details = d
		var code struct {
			ErrorCode string `json:"error_code"`
		}
		if json.Unmarshal(d, &code) == nil {
			e.Code = c.plain(code.ErrorCode)
		}
	}
	return e
}
