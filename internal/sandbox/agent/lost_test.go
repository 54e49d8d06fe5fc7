package agent

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
)

// While somebody listens in a sandbox's folder, wherever its driver has the socket,
// the sandbox is not gone and its record is read again.
func TestASandboxThatMayLiveIsNotGone(t *testing.T) {
	dir := t.TempDir()
	spec := sandbox.Spec{Dir: dir, Tree: filepath.Join(dir, "tree")}
	record := filepath.Join(dir, "record.json")
	for _, d := range []string{"run/door", "tree"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(record, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	deaf, err := net.Listen("unix", sandbox.SocketPath(filepath.Join(dir, "run/door")))
	if err != nil {
		t.Fatal(err)
	}
	sessions, err := net.Listen("unix", sandbox.SocketPath(spec.Tree)) // whatever a session has in its tree
	if err != nil {
		t.Fatal(err)
	}
	defer sessions.Close()
	why := errors.New("no handle")
	lose := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		return Lost(ctx, spec, why, func(context.Context) error { return nil })
	}
	if err := lose(); errors.Is(err, sandbox.ErrGone) || !errors.Is(err, sandbox.ErrRecord) {
		t.Errorf("with one who listens: %v", err)
	}
	if _, err := os.Stat(record); err != nil {
		t.Error(err)
	}
	deaf.Close()
	if err := lose(); !errors.Is(err, sandbox.ErrGone) || !errors.Is(err, sandbox.ErrRecord) || !errors.Is(err, why) {
		t.Errorf("with nobody: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "record.unread")); err != nil {
		t.Error(err)
	}
}
