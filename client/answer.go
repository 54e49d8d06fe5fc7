package client

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"github.com/berthdev/berth/api"
)

// What is read of answers, in bytes, after decompression.
const (
	maxAnswer  = 16 << 20
	maxPage    = 64 << 20 // of a page of events
	maxError   = 64 << 10
	maxMessage = 1 << 10 // of what an answer says for people
	maxHeader  = 1 << 20
)

// ErrTooLong ends the reading of an answer that is longer than any should be:
// 64 MiB for a page of events, 16 MiB for others.
var ErrTooLong = errors.New("the answer is longer than it may be")

// readAnswer reads a body of at most limit bytes.
func readAnswer(body io.Reader, limit int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if int64(len(raw)) > limit {
		return nil, permanent{fmt.Errorf("%w: more than %d MiB", ErrTooLong, limit>>20)}
	}
	return raw, nil
}

// decode reads an answer's JSON. ok is false for none: 204, an empty body or
// JSON null.
func (c *Client) decode(r request, raw []byte, header http.Header, out any) (ok bool, err error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return false, nil
	}
	if err := api.DecodeAnswer(raw, out); err != nil {
		return false, &unexpected{r.name(), c.notJSON(header, err)}
	}
	return true, nil
}

// notJSON says what an answer is that could not be decoded.
func (c *Client) notJSON(header http.Header, err error) string {
	kind := mediaType(header)
	if kind != "" && kind != "application/json" {
		return fmt.Sprintf("it is %s, not JSON; if something stands between here and %s, look there, else at the base URL", nameOf(kind), c.BaseURL())
	}
	return c.plain(err.Error())
}

// unexpected is an answer of a shape that none should have.
type unexpected struct{ call, what string }

func (u *unexpected) Error() string {
	return u.call + ": the answer is not what was expected: " + u.what
}

// mediaType is an answer's content type without its parameters, "" for one that
// cannot be read.
func mediaType(h http.Header) string {
	kind, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return kind
}

// nameOf is a content type for an error. One that is not common may hold
// anything, this client's credential in small letters included.
func nameOf(kind string) string {
	switch kind {
	case "application/json", "application/octet-stream", "application/problem+json", "application/xml", "text/event-stream", "text/html", "text/plain", "text/xml":
		return kind
	}
	return "of an uncommon content type"
}

// plain is what a server said, fit for a log: without this client's credential,
// in one line and not long.
func (c *Client) plain(text string) string {
	if secret := strings.TrimPrefix(c.credential.value, "Bearer "); secret != "" {
		text = strings.ReplaceAll(text, secret, "(hidden)")
	}
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
}

// failure is a request that had no answer, told with its cure where there is
// one.
type failure struct {
	text string
	err  error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.err }

// explain makes a failed request's error one that says what to do.
func (c *Client) explain(err error) error {
	text := c.plain(err.Error())
	if cure := cureOf(err); cure != "" {
		text += " (" + cure + ")"
	}
	return &failure{text, err}
}

func cureOf(err error) string {
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		return "the server's certificate has to be renewed; or this machine's clock is wrong"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "nobody this machine trusts has signed the server's certificate; if it is yours, name its authority by SSL_CERT_FILE"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "the server's certificate is for another name; use that name in the base URL"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok || errors.Is(err, http.ErrSchemeMismatch) {
		return "the server does not speak TLS; the base URL may have to begin with http://"
	}
	return ""
}

// redirected is a redirect that was not followed.
type redirected struct{ to *url.URL }

func (r *redirected) Error() string {
	to := (&url.URL{Scheme: r.to.Scheme, Host: r.to.Host}).String()
	return fmt.Sprintf("the server redirects to another origin, %.100q; not followed, so that the credential stays here: if the control plane has moved there, make it the base URL", to)
}
