package agent

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

// TestStuckAgent has an agent that takes frames and never answers, as one does
// that a command has stopped: nothing waits for it for ever.
func TestStuckAgent(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	go io.Copy(io.Discard, far)
	l := &Live{conn: newConn(near), turn: make(chan struct{}, 1), late: 20 * time.Millisecond}
	defer l.Close()
	done := make(chan error, 2)
	go func() {
		_, err := l.Bash(t.Context(), toolset.Command{ID: "a", Text: "true", Timeout: time.Millisecond})
		done <- err
	}()
	go func() { done <- l.Restart(t.Context()) }()
	for range 2 {
		select {
		case err := <-done:
			if !errors.Is(err, sandbox.ErrGone) {
				t.Errorf("got %v, want that it is gone", err)
			}
		case <-time.After(time.Minute):
			t.Fatal("it waits for an agent that is stuck")
		}
	}
}
