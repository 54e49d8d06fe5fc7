package agent

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/berthdev/berth/internal/agentwire"
)

// TestHalfAFrame: an agent that stops in the middle of a frame for too long, as
// one does that a command has stopped, never reads a later one as its rest.
func TestHalfAFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		k := newConn(near)
		text := strings.Repeat("a", 1000)
		half := make([]byte, 500)
		go func() { _, _ = io.ReadFull(far, half) }()
		if err := k.send(agentwire.KindAsk, agentwire.EncodeText(text)); err == nil {
			t.Fatal("it was sent, and nobody has read it")
		}
		go func() {
			_ = k.send(agentwire.KindAsk, agentwire.EncodeText(text))
			near.Close()
		}()
		f, err := agentwire.Read(io.MultiReader(strings.NewReader(string(half)), far))
		if err == nil {
			t.Errorf("a frame of two was read: %q", f.Body)
		} else if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
		k.close()
	})
}
