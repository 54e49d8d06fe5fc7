package egress

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
)

// head is what a request's head says about where it goes and where it ends,
// read strictly: what two programs might read in two ways is refused.
type head struct {
	method, target string
	host           string // "" when there is none
	hasHost        bool
	body           bool // a length or an encoding is named
	length         int  // of the head in bytes
}

var (
	errHeadSize = errors.New("the head of the request is larger than " + strconv.Itoa(maxHead>>10) + " KiB")
	errLine     = errors.New("a line of the head does not end in CR LF, or holds a control character")
)

const maxHeaders = 200

// peekHead waits until the whole head of a request is in the client's buffer
// and reads it there. io.EOF means that there is no further request.
func peekHead(c *client) (head, error) {
	for have := 0; ; {
		b, _ := c.br.Peek(c.br.Buffered())
		if at := bytes.Index(b[max(0, have-3):], []byte("\r\n\r\n")); at >= 0 {
			return parseHead(b[:max(0, have-3)+at+4])
		}
		// What is no request is told before its time is up.
		if len(b) > 0 && !isToken(string(b[:1])) || bytes.Contains(b, []byte("\n\n")) || bytes.Contains(b, []byte("\n\r\n")) && !bytes.Contains(b, []byte("\r\n\r\n")) {
			return head{}, errLine
		}
		if len(b) == maxHead {
			return head{}, errHeadSize
		}
		have = len(b)
		if _, err := c.br.Peek(have + 1); err != nil {
			if have == 0 {
				return head{}, io.EOF
			}
			return head{}, io.ErrUnexpectedEOF
		}
	}
}

// parseHead reads a head that ends in an empty line.
func parseHead(b []byte) (head, error) {
	h := head{length: len(b)}
	lines := strings.Split(string(b[:len(b)-4]), "\r\n")
	if len(lines) > maxHeaders {
		return h, errors.New("the request has too many headers")
	}
	for _, line := range lines {
		for _, c := range []byte(line) {
			if c < ' ' && c != '\t' || c == 0x7f {
				return h, errLine
			}
		}
	}
	var version string
	first := strings.Split(lines[0], " ")
	if len(first) == 3 {
		h.method, h.target, version = first[0], first[1], first[2]
	}
	if !isToken(h.method) || h.target == "" || strings.Contains(h.target, "\t") || version != "HTTP/1.1" && version != "HTTP/1.0" {
		return h, errors.New("the first line is no request of HTTP/1.1")
	}
	length, encoding := false, false
	for _, line := range lines[1:] {
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isToken(name) { // a folded line begins with a space
			return h, errors.New("a header has no proper name, or is folded")
		}
		value = strings.Trim(value, " \t")
		switch strings.ToLower(name) {
		case "host":
			if h.hasHost {
				return h, errors.New("the request has two Host headers")
			}
			h.host, h.hasHost = value, true
		case "content-length":
			if length || !isNumber(value) {
				return h, errors.New("the length of the body is not one number")
			}
			length = true
			h.body = h.body || value != "0"
		case "transfer-encoding":
			if encoding || value != "chunked" || version == "HTTP/1.0" {
				return h, errors.New("the body is encoded in another way than chunked")
			}
			encoding, h.body = true, true
		}
	}
	switch {
	case length && encoding:
		return h, errors.New("the body has both a length and an encoding")
	case !h.hasHost && version == "HTTP/1.1":
		return h, errors.New("the request has no Host header")
	}
	return h, nil
}

func isNumber(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != "" && len(s) <= 18
}
