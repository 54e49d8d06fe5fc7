package agent

import (
	"fmt"
	"time"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
)

// fileTime bounds one operation with a file.
const fileTime = time.Minute

// File has the agent do an operation with a path; see agentwire.FileOp. The
// reply's Errno is for the caller to read.
func (l *Live) File(r agentwire.FileRequest) (agentwire.FileReply, error) {
	k, err := l.connection()
	if err != nil {
		return agentwire.FileReply{}, err
	}
	l.mu.Lock()
	l.asked++
	r.ID = l.asked
	l.mu.Unlock()
	ch := make(chan agentwire.FileReply, 1)
	k.mu.Lock()
	k.files[r.ID] = ch
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		delete(k.files, r.ID)
		k.mu.Unlock()
	}()
	if err := k.send(agentwire.KindFile, r.Encode()); err != nil {
		return agentwire.FileReply{}, fmt.Errorf("agent: files (%v): %w", err, sandbox.ErrGone)
	}
	t := time.NewTimer(fileTime)
	defer t.Stop()
	select {
	case reply := <-ch:
		return reply, nil
	case <-k.done:
		return agentwire.FileReply{}, fmt.Errorf("agent: files: the connection broke: %w", sandbox.ErrGone)
	case <-t.C:
		return agentwire.FileReply{}, errStuck
	}
}

// Ping tells an agent on a pipe that somebody is there.
func (l *Live) Ping() error {
	k, err := l.connection()
	if err != nil {
		return err
	}
	return k.send(agentwire.KindPing, nil)
}
