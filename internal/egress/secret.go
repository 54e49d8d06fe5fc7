package egress

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// intercepted are the targets that get a secret.
func (t *table) intercepted() []Target {
	var all []Target
	for s := range t.holders {
		to, err := ParseTarget(s, 0)
		if err == nil { // it has been a target's own spelling
			all = append(all, to)
		}
	}
	slices.SortFunc(all, func(a, b Target) int { return strings.Compare(a.String(), b.String()) })
	return all
}

// holdsAny says whether a target gets a secret.
func (t *table) holdsAny(to Target) bool { return len(t.holders[to.String()]) > 0 }

// swap is text and what comes in its place.
type swap struct{ from, to []byte }

// cover is what keeps a request's secrets from coming back in the answer.
type cover struct {
	names []string // of the secrets that were put in
	swaps []swap   // secret to placeholder, the longest first
}

// dress puts the secrets of a target into a request for it, which travels in
// an intercepted connection.
func (s *Session) dress(out *http.Request, t Target) (*cover, error) {
	c := &cover{}
	// A secret that comes back shall be found: not compressed, and whole.
	out.Header.Set("Accept-Encoding", "identity")
	out.Header.Del("Range")
	out.Header.Del("If-Range")
	for _, secret := range s.table.secrets {
		c.hide(secret.Value.text, secret.Stand())
	}
	for _, secret := range s.table.holds(t) {
		used := false
		if secret.Header != "" {
			out.Header.Set(secret.Header, secret.headerValue())
			used = true
		} else {
			used = c.fillHeaders(out.Header, secret)
		}
		if secret.Query && strings.Contains(out.URL.RawQuery, secret.Stand()) {
			out.URL.RawQuery = strings.ReplaceAll(out.URL.RawQuery, secret.Stand(), url.QueryEscape(secret.Value.text))
			used = true
		}
		if secret.Body && out.Body != http.NoBody {
			if err := fillBody(out, secret); err != nil {
				return nil, err
			}
			used = true
		}
		if used {
			c.names = append(c.names, secret.Name)
		}
	}
	slices.SortStableFunc(c.swaps, func(a, b swap) int { return len(b.from) - len(a.from) })
	return c, nil
}

func (s Secret) headerValue() string {
	if s.Template == "" {
		return s.Value.text
	}
	return strings.ReplaceAll(s.Template, "{secret}", s.Value.text)
}

// fillHeaders replaces the placeholder in every header, also where it is part
// of Basic credentials.
func (c *cover) fillHeaders(h http.Header, s Secret) (used bool) {
	for name, values := range h {
		for i, v := range values {
			if strings.Contains(v, s.Stand()) {
				values[i], used = strings.ReplaceAll(v, s.Stand(), s.Value.text), true
			}
			if name == "Authorization" {
				if filled, ok := c.fillBasic(values[i], s); ok {
					values[i], used = filled, true
				}
			}
		}
	}
	return used
}

func (c *cover) fillBasic(v string, s Secret) (string, bool) {
	const scheme = "basic "
	if len(v) < len(scheme) || !strings.EqualFold(v[:len(scheme)], scheme) {
		return "", false
	}
	code := strings.TrimSpace(v[len(scheme):])
	b, err := base64.StdEncoding.DecodeString(code)
	if err != nil || !bytes.Contains(b, []byte(s.Stand())) {
		return "", false
	}
	filled := base64.StdEncoding.EncodeToString(bytes.ReplaceAll(b, []byte(s.Stand()), []byte(s.Value.text)))
	c.add(filled, code)
	return "Basic " + filled, true
}

// wholeBody is how large a body may be that keeps a known length when a secret
// is put into it.
const wholeBody = 1 << 20

// fillBody replaces the placeholder in a body, written as its type asks for.
func fillBody(out *http.Request, s Secret) error {
	value := s.Value.text
	switch kind, _, _ := strings.Cut(out.Header.Get("Content-Type"), ";"); {
	case strings.Contains(kind, "json"):
		value = jsonText(value)
	case strings.EqualFold(strings.TrimSpace(kind), "application/x-www-form-urlencoded"):
		value = url.QueryEscape(value)
	}
	body := out.Body
	filled := &replacer{from: body, swaps: []swap{{[]byte(s.Stand()), []byte(value)}}}
	start, err := io.ReadAll(io.LimitReader(filled, wholeBody))
	if err != nil {
		return &malformed{http.StatusBadRequest, "the body did not come whole"}
	}
	var rest io.Reader = bytes.NewReader(start)
	out.ContentLength = int64(len(start))
	if len(start) == wholeBody {
		rest, out.ContentLength = io.MultiReader(rest, filled), -1
	}
	out.Body = struct {
		io.Reader
		io.Closer
	}{rest, body}
	return nil
}

// hide has a secret replaced however it comes back: as it is, and in the
// encodings in which programs show what they were sent.
func (c *cover) hide(secret, stand string) {
	c.add(secret, stand)
	for _, enc := range []func(string) string{
		url.QueryEscape, url.PathEscape, jsonText,
		func(s string) string { return base64.RawStdEncoding.EncodeToString([]byte(s)) },
		func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
		func(s string) string { return hex.EncodeToString([]byte(s)) },
		func(s string) string { return strings.ToUpper(hex.EncodeToString([]byte(s))) },
	} {
		c.add(enc(secret), stand)
	}
}

func (c *cover) add(from, to string) {
	if from == to || slices.ContainsFunc(c.swaps, func(s swap) bool { return string(s.from) == from }) {
		return
	}
	c.swaps = append(c.swaps, swap{[]byte(from), []byte(to)})
}

func jsonText(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		return s
	}
	return string(b[1 : len(b)-1])
}

// undress takes the secrets out of an answer. A nil cover does nothing.
func (c *cover) undress(resp *http.Response) error {
	if c == nil {
		return nil
	}
	clean := http.Header{}
	for name, values := range resp.Header {
		for _, v := range values {
			clean.Add(string(c.replace([]byte(name))), string(c.replace([]byte(v))))
		}
	}
	resp.Header, resp.Trailer = clean, nil
	body := io.Reader(resp.Body)
	switch code := strings.ToLower(strings.Join(resp.Header.Values("Content-Encoding"), ",")); {
	case code == "" || code == "identity" || resp.Request.Method == http.MethodHead:
	case code == "gzip":
		resp.Header.Del("Content-Encoding")
		body = &unzipper{from: body}
	default:
		return &unreachable{resp.Request.URL.Host, "its answer is compressed in a way that cannot be searched for the secret", nil}
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{&replacer{from: body, swaps: c.swaps}, resp.Body}
	return nil
}

func (c *cover) replace(b []byte) []byte {
	for _, s := range c.swaps {
		b = bytes.ReplaceAll(b, s.from, s.to)
	}
	return b
}

// unzipper decompresses once there is something to read.
type unzipper struct {
	from io.Reader
	zip  *gzip.Reader
}

func (u *unzipper) Read(b []byte) (n int, err error) {
	if u.zip == nil {
		if u.zip, err = gzip.NewReader(u.from); err != nil {
			return 0, err // an empty body ends here, as it should
		}
	}
	return u.zip.Read(b)
}

// replacer replaces texts in a stream, also where they lie across reads. It
// holds back only what may be the beginning of one.
type replacer struct {
	from  io.Reader
	swaps []swap

	raw   []byte // read, not yet looked through
	ready []byte // looked through
	spare []byte // ready's memory
	err   error
}

func (r *replacer) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for len(r.ready) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		r.fill()
	}
	n := copy(b, r.ready)
	r.ready = r.ready[n:]
	return n, nil
}

func (r *replacer) fill() {
	const size = 16 << 10
	have := len(r.raw)
	r.raw = slices.Grow(r.raw, size)
	n, err := r.from.Read(r.raw[have : have+size])
	r.raw, r.err = r.raw[:have+n], err
	out, rest := r.spare[:0], r.raw
	for {
		begun := len(rest)
		if err == nil {
			begun -= r.begun(rest)
		}
		s, at := r.next(rest)
		if s == nil || begun <= at { // a longer text may begin before this one
			out = append(out, rest[:begun]...)
			r.raw = append(r.raw[:0], rest[begun:]...)
			break
		}
		out = append(append(out, rest[:at]...), s.to...)
		rest = rest[at+len(s.from):]
	}
	r.ready, r.spare = out, out
}

// next finds the first of the texts, of those that begin at one place the one
// that comes first in swaps.
func (r *replacer) next(b []byte) (found *swap, at int) {
	for i := range r.swaps {
		s := &r.swaps[i]
		end := len(b)
		if found != nil {
			end = min(len(b), at+len(s.from)-1) // only one that begins earlier is of interest
		}
		if k := bytes.Index(b[:end], s.from); k >= 0 {
			found, at = s, k
		}
	}
	return found, at
}

// begun is how many of the last bytes may be the beginning of a text.
func (r *replacer) begun(b []byte) (most int) {
	for _, s := range r.swaps {
		for k := min(len(s.from)-1, len(b)); k > most; k-- {
			if b[len(b)-k] == s.from[0] && bytes.HasPrefix(s.from, b[len(b)-k:]) {
				most = k
				break
			}
		}
	}
	return most
}
