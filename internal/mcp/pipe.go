package mcp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/berthdev/berth/toolset"
)

// Bounds of what a server may say.
const (
	maxLine     = 8 << 20  // of one message
	maxSaid     = 16 << 20 // between two calls, and during one
	maxRequests = 200      // of the server's own, likewise
	maxNotes    = 10_000   // notifications, likewise
)

// pipe is a server's connection: a message a line. It is the SDK's transport
// and connection at once, and hands on answers and requests, but no
// notification.
type pipe struct {
	proc toolset.Process

	lines   *bufio.Reader // the reader's
	writing sync.Mutex

	mu       sync.Mutex
	said     int
	requests int
	notes    int
	changed  bool  // its list of tools is another now
	err      error // why it is over, nil while it is not
}

func newPipe(proc toolset.Process) *pipe {
	p := &pipe{proc: proc}
	p.lines = bufio.NewReaderSize(counted{p}, 64<<10)
	return p
}

func (p *pipe) Connect(context.Context) (sdk.Connection, error) { return p, nil }

// SessionID is that of other transports.
func (p *pipe) SessionID() string { return "" }

// allow lets the server say as much again; changed says whether it has another
// list of tools since the last time.
func (p *pipe) allow() (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said, p.requests, p.notes = 0, 0, 0
	changed, p.changed = p.changed, false
	return changed
}

// over is why the connection is over, nil while it is not.
func (p *pipe) over() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

func (p *pipe) fail(err error) error {
	p.mu.Lock()
	if p.err == nil {
		p.err = err
	}
	err = p.err
	p.mu.Unlock()
	p.proc.Close()
	return err
}

// Read gives the next message that the SDK has to see.
func (p *pipe) Read(context.Context) (jsonrpc.Message, error) {
	for {
		line, err := p.line()
		if err != nil {
			return nil, p.fail(err)
		}
		if line = bytes.TrimSpace(line); len(line) == 0 || line[0] != '{' {
			continue // a note to nobody, as careless servers print them
		}
		// This decoder follows 10,000 levels and no more, whatever the SDK's does.
		if !json.Valid(line) {
			return nil, p.fail(errors.New("it wrote a line that is no JSON"))
		}
		m, err := jsonrpc.DecodeMessage(line)
		if err != nil {
			return nil, p.fail(errors.New("it wrote a line that is no JSON-RPC message"))
		}
		pass, err := p.admit(m)
		if err != nil {
			return nil, p.fail(err)
		}
		if pass {
			return m, nil
		}
	}
}

// admit says whether the SDK has to see a message.
func (p *pipe) admit(m jsonrpc.Message) (bool, error) {
	r, ok := m.(*jsonrpc.Request)
	if !ok {
		return true, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !r.IsCall() {
		if p.notes++; p.notes > maxNotes {
			return false, fmt.Errorf("it sent more than %d notifications for one call", maxNotes)
		}
		p.changed = p.changed || r.Method == "notifications/tools/list_changed"
		return false, nil
	}
	if p.requests++; p.requests > maxRequests {
		return false, fmt.Errorf("it made more than %d requests of its own", maxRequests)
	}
	return true, nil
}

// line reads one line. It is good until the next.
func (p *pipe) line() ([]byte, error) {
	line, err := p.lines.ReadSlice('\n')
	if err == nil || !errors.Is(err, bufio.ErrBufferFull) {
		return line, err
	}
	whole := bytes.Clone(line)
	for errors.Is(err, bufio.ErrBufferFull) {
		if len(whole) > maxLine {
			return nil, fmt.Errorf("it wrote a line of more than %d MiB", maxLine>>20)
		}
		line, err = p.lines.ReadSlice('\n')
		whole = append(whole, line...)
	}
	return whole, err
}

// counted is the server's standard output, as far as it is let speak.
type counted struct{ *pipe }

func (c counted) Read(b []byte) (int, error) {
	n, err := c.proc.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.said += n; c.said > maxSaid {
		return 0, fmt.Errorf("it wrote more than %d MiB for one call", maxSaid>>20)
	}
	return n, err
}

func (p *pipe) Write(_ context.Context, m jsonrpc.Message) error {
	b, err := jsonrpc.EncodeMessage(m)
	if err != nil {
		return err
	}
	p.writing.Lock()
	defer p.writing.Unlock()
	if _, err = p.proc.Write(append(b, '\n')); err != nil {
		return p.fail(err)
	}
	return nil
}

// Close ends the server.
func (p *pipe) Close() error {
	_ = p.fail(errors.New("it was ended"))
	return nil
}
