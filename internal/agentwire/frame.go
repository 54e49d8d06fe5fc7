// Package agentwire is what a supervisor and the agent inside its sandbox say
// to each other: length-prefixed frames over a stream. The format is in
// docs/design/0002-agent-frames.md. It has no dependency but the standard
// library's smallest packages, because the agent must stay small.
package agentwire

import (
	"encoding/binary"
	"errors"
	"io"
)

const (
	// Version is the protocol's; a frame of another version is refused.
	Version = 1
	// MaxFrame is the largest frame, without its length.
	MaxFrame = 32 << 20
	// MaxText is the longest command text, in bytes.
	MaxText = 16 << 20
	// MaxOutput is the most output that a result carries.
	MaxOutput = 16 << 20
	// MaxPosture is the largest posture, encoded.
	MaxPosture = 256 << 10
)

// Kind is what a frame says.
type Kind byte

// The kinds; see the design page for who sends them and when.
const (
	KindBoot Kind = iota + 1
	KindReady
	KindFailed
	KindRun
	KindAsk
	KindAck
	KindInterrupt
	KindRestart
	KindEnd
	KindResult
	KindRunning
	KindUnknown
	KindRestarted
	KindRefused
	KindProbe
	KindPosture
	KindOutput
	KindFile
	KindFileReply
	KindPing
	KindStart
	KindInput
	KindGrant
	KindQuit
	KindData
	KindEnded
)

// Errors of a stream that does not follow the format.
var (
	ErrVersion  = errors.New("agentwire: the other side speaks another version")
	ErrTooLarge = errors.New("agentwire: frame too large")
	ErrBad      = errors.New("agentwire: malformed frame")
)

// Frame is one message: its kind and its undecoded fields.
type Frame struct {
	Kind Kind
	Body []byte
}

// headerLen is the length, the version and the kind.
const headerLen = 6

// Append adds a whole frame to b. It fails only when the body is too large.
func Append(b []byte, k Kind, body []byte) ([]byte, error) {
	if len(body)+2 > MaxFrame {
		return b, ErrTooLarge
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)+2))
	b = append(b, Version, byte(k))
	return append(b, body...), nil
}

// Next takes the first frame off b. n is its length on the wire; 0 means that
// b does not hold a whole frame yet. The body shares b's memory.
func Next(b []byte) (f Frame, n int, err error) {
	if len(b) < 4 {
		return Frame{}, 0, nil
	}
	size := binary.BigEndian.Uint32(b)
	if size > MaxFrame {
		return Frame{}, 0, ErrTooLarge
	}
	if size < 2 {
		return Frame{}, 0, ErrBad
	}
	if len(b) > 4 && b[4] != Version {
		return Frame{}, 0, ErrVersion
	}
	if uint32(len(b)-4) < size {
		return Frame{}, 0, nil
	}
	n = 4 + int(size)
	return Frame{Kind: Kind(b[5]), Body: b[headerLen:n]}, n, nil
}

// Read reads one frame. Memory is taken as the bytes arrive, not as the
// length promises.
func Read(r io.Reader) (Frame, error) {
	var h [headerLen]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return Frame{}, err
	}
	size := binary.BigEndian.Uint32(h[:])
	switch {
	case size > MaxFrame:
		return Frame{}, ErrTooLarge
	case size < 2:
		return Frame{}, ErrBad
	case h[4] != Version:
		return Frame{}, ErrVersion
	}
	left := int(size) - 2
	body := make([]byte, 0, min(left, 64<<10))
	for left > 0 {
		n := min(left, 64<<10)
		at := len(body)
		body = append(body, make([]byte, n)...)
		if _, err := io.ReadFull(r, body[at:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return Frame{}, err
		}
		left -= n
	}
	return Frame{Kind: Kind(h[5]), Body: body}, nil
}

// fields writes a body.
type fields []byte

func (f *fields) num(v uint64) { *f = binary.AppendUvarint(*f, v) }

func (f *fields) bool(v bool) {
	if v {
		f.num(1)
	} else {
		f.num(0)
	}
}

func (f *fields) bytes(b []byte) {
	f.num(uint64(len(b)))
	*f = append(*f, b...)
}

func (f *fields) str(s string) {
	f.num(uint64(len(s)))
	*f = append(*f, s...)
}

func (f *fields) strs(list []string) {
	f.num(uint64(len(list)))
	for _, s := range list {
		f.str(s)
	}
}

// parser reads a body; the first violation sticks.
type parser struct {
	b   []byte
	bad bool
}

func (p *parser) num() uint64 {
	v, n := binary.Uvarint(p.b)
	if n <= 0 {
		p.bad, p.b = true, nil
		return 0
	}
	p.b = p.b[n:]
	return v
}

func (p *parser) num32() uint32 {
	v := p.num()
	if v > 1<<32-1 {
		p.bad = true
	}
	return uint32(v)
}

func (p *parser) bool() bool {
	v := p.num()
	if v > 1 {
		p.bad = true
	}
	return v == 1
}

func (p *parser) bytes() []byte {
	n := p.num()
	if n > uint64(len(p.b)) {
		p.bad, p.b = true, nil
		return nil
	}
	v := p.b[:n:n]
	p.b = p.b[n:]
	return v
}

func (p *parser) str() string { return string(p.bytes()) }

func (p *parser) strs() (list []string) {
	for range p.count() {
		list = append(list, p.str())
	}
	return list
}

// count reads a list's length; each element takes at least one byte.
func (p *parser) count() int {
	n := p.num()
	if n > uint64(len(p.b)) {
		p.bad, p.b = true, nil
		return 0
	}
	return int(n)
}

func (p *parser) end() error {
	if p.bad || len(p.b) != 0 {
		return ErrBad
	}
	return nil
}
