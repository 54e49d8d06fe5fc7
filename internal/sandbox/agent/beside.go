package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

// besideWindow is how much of a program's output may be on its way to whoever
// reads it.
const besideWindow = 256 << 10

// Start runs a program beside the shell; see toolset.Starter. It ends with the
// connection to the agent, so also with this process.
func (l *Live) Start(_ context.Context, p toolset.Program) (toolset.Process, error) {
	if len(p.Args) == 0 {
		return nil, errors.New("agent: a program without a name")
	}
	k, err := l.connection()
	if err != nil {
		return nil, err
	}
	m := agentwire.Start{Args: p.Args}
	for name, value := range p.Env {
		m.Env = append(m.Env, name+"="+value)
	}
	b := &beside{conn: k}
	b.changed.L = &b.mu
	k.mu.Lock()
	k.started++
	m.Num, b.num = k.started, k.started
	if k.err == nil {
		k.beside[b.num] = b
	}
	k.mu.Unlock()
	if err := k.send(agentwire.KindStart, m.Encode()); err != nil {
		return nil, fmt.Errorf("agent: start a program (%v): %w", err, sandbox.ErrGone)
	}
	if err := k.send(agentwire.KindGrant, agentwire.Grant{Num: b.num, Bytes: besideWindow}.Encode()); err != nil {
		return nil, fmt.Errorf("agent: start a program (%v): %w", err, sandbox.ErrGone)
	}
	return b, nil
}

// beside is a program beside the shell.
type beside struct {
	conn *conn
	num  uint64

	mu      sync.Mutex
	changed sync.Cond
	got     []byte // not read yet
	used    int    // read since the last grant
	end     *toolset.ProcessEnd
}

// deliver takes what the program has written. An agent that sends more than it
// was let is no agent.
func (b *beside) deliver(data []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.end != nil {
		return nil
	}
	if len(b.got)+b.used+len(data) > besideWindow {
		return errors.New("agent: a program's output goes beyond what was granted")
	}
	b.got = append(b.got, data...)
	b.changed.Broadcast()
	return nil
}

func (b *beside) ended(e toolset.ProcessEnd) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.end == nil {
		b.end = &e
		b.changed.Broadcast()
	}
}

func (b *beside) Read(p []byte) (int, error) {
	n, grant, err := b.take(p)
	if grant > 0 {
		// A connection that is lost shows at the next Read.
		_ = b.conn.send(agentwire.KindGrant, agentwire.Grant{Num: b.num, Bytes: grant}.Encode())
	}
	return n, err
}

// take waits for output; grant is what the program may be let write anew.
func (b *beside) take(p []byte) (n, grant int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.got) == 0 && b.end == nil {
		b.changed.Wait()
	}
	if len(b.got) == 0 {
		return 0, 0, b.end
	}
	n = copy(p, b.got)
	if b.got = b.got[n:]; len(b.got) == 0 {
		b.got = nil
	}
	if b.used += n; b.used >= besideWindow/2 && b.end == nil {
		grant, b.used = b.used, 0
	}
	return n, grant, nil
}

func (b *beside) Write(p []byte) (int, error) {
	sent := 0
	for sent < len(p) {
		b.mu.Lock()
		end := b.end
		b.mu.Unlock()
		if end != nil {
			return sent, end
		}
		part := p[sent:min(len(p), sent+agentwire.MaxData)]
		if err := b.conn.send(agentwire.KindInput, agentwire.Input{Num: b.num, Data: part}.Encode()); err != nil {
			return sent, fmt.Errorf("agent: write to a program (%v): %w", err, sandbox.ErrGone)
		}
		sent += len(part)
	}
	return sent, nil
}

// Close ends the program. What it was about to say is lost.
func (b *beside) Close() error {
	b.mu.Lock()
	over := b.end != nil
	b.mu.Unlock()
	if !over {
		_ = b.conn.send(agentwire.KindQuit, agentwire.EncodeNum(b.num)) // a lost connection ends it, too
		b.ended(toolset.ProcessEnd{Code: -1, Reason: "it was told to end"})
	}
	b.mu.Lock()
	b.got = nil
	b.mu.Unlock()
	return nil
}
