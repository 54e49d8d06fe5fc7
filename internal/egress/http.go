package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// malformed is a request that makes no sense to a proxy.
type malformed struct {
	status int
	why    string
}

func (e *malformed) Error() string { return e.why }

// http serves requests one after the other. Inside an intercepted connection
// inside is its host, and requests are of the origin form; otherwise they are
// CONNECT or of the absolute form.
func (s *Session) http(c *client, inside *Target) {
	for first := true; s.ctx.Err() == nil; first = false {
		if first {
			c.within(headTime)
		} else {
			c.within(keepTime)
		}
		if _, err := c.br.Peek(1); err != nil {
			return
		}
		c.within(headTime)
		h, err := peekHead(c)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				s.refuse(c, via(inside), err)
			}
			return
		}
		if h.method == http.MethodConnect && inside == nil {
			s.connect(c, h)
			return
		}
		if !s.request(c, h, inside) {
			return
		}
	}
}

func via(inside *Target) string {
	if inside != nil {
		return "tls"
	}
	return "http"
}

// refuse answers a request that has no target that could be read.
func (s *Session) refuse(c *client, via string, err error) {
	status := http.StatusBadRequest
	var m *malformed
	if errors.As(err, &m) {
		status = m.status
	}
	if errors.Is(err, errHeadSize) {
		status = http.StatusRequestHeaderFieldsTooLarge
	}
	var bad *BadHost
	d := Decision{Via: via, Verdict: Refused, Reason: err.Error()}
	if errors.As(err, &bad) {
		d = d.outcome(err)
		status = http.StatusForbidden
	}
	s.tell(d)
	c.answer(status, err.Error())
}

// connect serves CONNECT, after which the connection is a tunnel.
func (s *Session) connect(c *client, h head) {
	t, err := ParseTarget(h.target, 0)
	if err == nil && h.hasHost {
		err = sameHost(h.host, t, t.Port)
	}
	if err == nil && h.body {
		err = &malformed{http.StatusBadRequest, "CONNECT has no body"}
	}
	if err != nil {
		s.refuse(c, "connect", err)
		return
	}
	_, _ = c.br.Discard(h.length)
	s.tunnel(c, "connect", t, func(err error) bool {
		if err != nil {
			c.answer(statusOf(err), err.Error())
			return false
		}
		_, _ = c.bw.WriteString("HTTP/1.1 200 Connection established\r\n\r\n")
		return c.bw.Flush() == nil
	})
}

// sameHost holds a Host header against the target of its request.
func sameHost(header string, t Target, port uint16) error {
	got, err := ParseTarget(header, port)
	if err != nil {
		return err
	}
	if got != t {
		return &malformed{http.StatusForbidden, fmt.Sprintf("the request is for %s and its Host header says %s; one of them must go", t, got)}
	}
	return nil
}

// statusOf is the answer to a request that got no connection.
func statusOf(err error) int {
	var no *Refusal
	if errors.As(err, &no) {
		return http.StatusForbidden
	}
	return http.StatusBadGateway
}

// where gives a request's target and what it asks of it.
func where(h head, inside *Target) (t Target, path string, err error) {
	if inside != nil {
		if !strings.HasPrefix(h.target, "/") {
			return t, "", &malformed{http.StatusBadRequest, "inside a connection to a host a request names a path"}
		}
		if !h.hasHost {
			return t, "", &malformed{http.StatusBadRequest, "the request has no Host header"}
		}
		return *inside, h.target, sameHost(h.host, *inside, 443)
	}
	const scheme = "http://"
	if len(h.target) < len(scheme) || !strings.EqualFold(h.target[:len(scheme)], scheme) {
		return t, "", &malformed{http.StatusBadRequest, "this is a proxy: it takes CONNECT host:port, and requests for http://host/path"}
	}
	rest := h.target[len(scheme):]
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	if t, err = ParseTarget(rest[:end], 80); err != nil {
		return t, "", err
	}
	if path = rest[end:]; !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	if h.hasHost {
		err = sameHost(h.host, t, 80)
	}
	return t, path, err
}

// request serves one request; false ends the connection.
func (s *Session) request(c *client, h head, inside *Target) bool {
	scheme := "http"
	if inside != nil {
		scheme = "https"
	}
	t, path, err := where(h, inside)
	if err != nil {
		s.refuse(c, via(inside), err)
		return false
	}
	r, no := s.judge(t)
	if no != nil {
		s.tell(decision(via(inside), t).outcome(no))
		c.answer(http.StatusForbidden, no.Error())
		return false
	}
	in, err := http.ReadRequest(c.br)
	if err != nil {
		s.refuse(c, via(inside), &malformed{http.StatusBadRequest, "the request cannot be read"})
		return false
	}
	c.within(0)
	ask, err := url.ParseRequestURI(path)
	if err != nil || strings.Contains(path, "#") {
		s.refuse(c, via(inside), &malformed{http.StatusBadRequest, "the path cannot be read"})
		return false
	}
	ask.Scheme, ask.Host = scheme, t.authority(scheme)
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	out := &http.Request{
		Method: in.Method, URL: ask, Host: ask.Host, Header: onward(in.Header),
		ProtoMajor: 1, ProtoMinor: 1, ContentLength: in.ContentLength, Body: http.NoBody,
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil // none is added
	}
	body := newUpload(in.Body)
	if h.body {
		out.Body = body
		if strings.EqualFold(in.Header.Get("Expect"), "100-continue") {
			_, _ = c.bw.WriteString("HTTP/1.1 100 Continue\r\n\r\n")
			if c.bw.Flush() != nil {
				return false
			}
		}
	} else {
		body.Close()
	}
	d := decision(via(inside), t)
	d.Rule = r.id
	var cover *cover
	if inside != nil {
		if cover, err = s.dress(out, t); err != nil {
			body.Close()
			s.refuse(c, via(inside), err)
			return false
		}
		d.Secrets = cover.names
	}
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { d.Addr = addrOf(netConn(i.Conn)) }}
	resp, err := s.transport.RoundTrip(out.WithContext(httptrace.WithClientTrace(ctx, trace)))
	if err == nil && resp.StatusCode == http.StatusSwitchingProtocols {
		err = &unreachable{t.String(), "it speaks another protocol than was asked for", nil}
	}
	if err == nil {
		err = cover.undress(resp)
	}
	if err != nil {
		if resp != nil {
			resp.Body.Close()
		}
		d = d.outcome(err)
		s.tell(d)
		status := statusOf(err)
		var no *Refusal
		var gone *unreachable
		if !errors.As(err, &no) && !errors.As(err, &gone) {
			err = &unreachable{t.String(), d.Reason, err}
		}
		c.answer(status, err.Error())
		return s.letGo(c, body, cancel) && status == http.StatusBadGateway
	}
	d.Verdict = Allowed
	s.tell(d)
	keep := c.respond(resp, in, cover != nil)
	resp.Body.Close()
	return s.letGo(c, body, cancel) && keep
}

// lateTime is how long a host's answer may be ahead of the end of the request.
const lateTime = 50 * time.Millisecond

// letGo waits until nobody reads the request's body any more, which the
// client's buffer is under. false means that the connection had to be closed
// for that.
func (s *Session) letGo(c *client, body *upload, cancel context.CancelFunc) bool {
	select {
	case <-body.done:
		return body.ended
	default:
	}
	late := time.NewTimer(lateTime)
	defer late.Stop()
	select {
	case <-body.done:
		return body.ended
	case <-late.C:
	}
	cancel()
	c.conn.Close()
	<-body.done
	return false
}

// upload is a request's body on its way to a host. Its reader closes it.
type upload struct {
	from  io.Reader
	ended bool          // read to its end; valid when done is closed
	done  chan struct{} // closed when nobody reads it any more
	once  sync.Once
}

func newUpload(from io.Reader) *upload {
	return &upload{from: from, done: make(chan struct{}), ended: from == http.NoBody}
}

func (u *upload) Read(b []byte) (int, error) {
	n, err := u.from.Read(b)
	u.ended = u.ended || err == io.EOF
	return n, err
}

func (u *upload) Close() error {
	u.once.Do(func() { close(u.done) })
	return nil
}

// onward is a request's or an answer's headers without those of one hop.
func onward(in http.Header) http.Header {
	out := in.Clone()
	for _, line := range in["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			out.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range hopHeaders {
		out.Del(name)
	}
	out.Del("Expect")
	out.Del("Content-Length")
	out.Del("Host")
	return out
}

// netConn is the connection below TLS.
func netConn(c net.Conn) net.Conn {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		return t.NetConn()
	}
	return c
}

// dialPlain is the transport's way out.
func (s *Session) dialPlain(ctx context.Context, _, addr string) (net.Conn, error) {
	t, err := ParseTarget(addr, 0)
	if err != nil {
		return nil, err
	}
	r, no := s.judge(t)
	if no != nil {
		return nil, no
	}
	return s.dial(ctx, t, r)
}

// answer is the proxy's own answer; the connection ends after it.
func (c *client) answer(status int, text string) {
	text = "berth: " + text + "\n"
	fmt.Fprintf(c.bw, "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		status, http.StatusText(status), len(text), text)
	_ = c.bw.Flush()
}

// respond sends a host's answer on. false means that the connection ends with
// it. again says that the body may have another length than the host said.
func (c *client) respond(resp *http.Response, in *http.Request, again bool) bool {
	h := onward(resp.Header)
	keep := in.ProtoAtLeast(1, 1) && !slices.ContainsFunc(in.Header["Connection"], func(v string) bool { return strings.Contains(strings.ToLower(v), "close") })
	bare := in.Method == http.MethodHead || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified
	chunked := false
	fmt.Fprintf(c.bw, "HTTP/1.1 %03d %s\r\n", resp.StatusCode, http.StatusText(resp.StatusCode))
	_ = h.Write(c.bw)
	switch length := resp.ContentLength; {
	case bare:
		if in.Method == http.MethodHead && length >= 0 && !again {
			fmt.Fprintf(c.bw, "Content-Length: %d\r\n", length)
		}
	case length >= 0 && (!again || length == 0):
		fmt.Fprintf(c.bw, "Content-Length: %d\r\n", length)
	case in.ProtoAtLeast(1, 1):
		chunked = true
		_, _ = c.bw.WriteString("Transfer-Encoding: chunked\r\n")
	default:
		keep = false
	}
	if !keep {
		_, _ = c.bw.WriteString("Connection: close\r\n")
	}
	_, _ = c.bw.WriteString("\r\n")
	if bare {
		return c.bw.Flush() == nil && keep
	}
	return c.copyBody(resp.Body, chunked) && keep
}

// copyBody sends a body on as it comes. false means that it did not come
// whole.
func (c *client) copyBody(body io.Reader, chunked bool) bool {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	if c.bw.Flush() != nil {
		return false
	}
	for {
		n, err := body.Read(*buf)
		if n > 0 {
			if chunked {
				fmt.Fprintf(c.bw, "%x\r\n", n)
			}
			_, _ = c.bw.Write((*buf)[:n])
			if chunked {
				_, _ = c.bw.WriteString("\r\n")
			}
			if c.bw.Flush() != nil {
				return false
			}
		}
		if err == io.EOF {
			if chunked {
				_, _ = c.bw.WriteString("0\r\n\r\n")
			}
			return c.bw.Flush() == nil
		}
		if err != nil {
			return false
		}
	}
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}
