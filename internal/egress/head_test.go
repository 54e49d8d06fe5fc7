package egress

import (
	"bufio"
	"bytes"
	"net/http"
	"strings"
	"testing"
)

// FuzzHead: what is accepted as a head is the same to net/http, which parses
// it again: method, host, and whether and how a body follows.
func FuzzHead(f *testing.F) {
	for _, s := range []string{
		"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc",
		"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n",
		"GET / HTTP/1.0\r\n\r\n",
		"GET / HTTP/1.1\r\nHost:\ta\r\nContent-Length:0\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		at := bytes.Index(b, []byte("\r\n\r\n"))
		if at < 0 || at > maxHead {
			return
		}
		h, err := parseHead(b[:at+4])
		if err != nil {
			return
		}
		if h.length != at+4 {
			t.Fatalf("%q ends at %d", b, h.length)
		}
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return // stricter still
		}
		if req.Method != h.method || req.RequestURI != h.target {
			t.Fatalf("%q: %s %s and %s %s", b, h.method, h.target, req.Method, req.RequestURI)
		}
		if req.URL.Host == "" && strings.Trim(req.Host, " \t") != h.host {
			t.Fatalf("%q: the host is %q and %q", b, h.host, req.Host)
		}
		if body := req.ContentLength != 0 || len(req.TransferEncoding) > 0; body != h.body && !zero(req) {
			t.Fatalf("%q: a body is %v and %v", b, h.body, body)
		}
	})
}

// zero says that a length of several noughts was named.
func zero(r *http.Request) bool { return r.ContentLength == 0 && len(r.TransferEncoding) == 0 }

// FuzzSOCKS: a request is read to its end or refused, and its target is one
// that the parser knows.
func FuzzSOCKS(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x03\x08api.test\x01\xbb"))
	f.Add([]byte("\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50"))
	f.Add([]byte("\x05\x01\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x7f\x00\x00\x01\x00\x50"))
	f.Fuzz(func(t *testing.T, b []byte) {
		to, _, err := socksTarget(bytes.NewReader(b))
		if err != nil {
			return
		}
		if again, err := ParseTarget(to.String(), 0); err != nil || again != to {
			t.Fatalf("%q is %v, which reads as %v, %v", b, to, again, err)
		}
	})
}
