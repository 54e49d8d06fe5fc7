package app

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/outputs"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/mock"
)

type notes []string

func (n *notes) Event(api.Event) {}
func (n *notes) Note(s string)   { *n = append(*n, s) }

// TestOutputsOfAHostileSession: what a session left among its outputs harms
// neither the disk nor the terminal of who collects them.
func TestOutputsOfAHostileSession(t *testing.T) {
	state, to := t.TempDir(), filepath.Join(t.TempDir(), "out")
	folder := filepath.Join(state, "sandboxes", sandbox.Folder("sesn_1"))
	left := filepath.Join(folder, "tree", outputs.Dir)
	if err := os.MkdirAll(filepath.Join(left, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		path := filepath.Join(left, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("sub/good", "good")
	if err := os.Truncate(write("holes", "x"), 1<<43); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(left, "\x1b[2Jpipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(left, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(left, "linked")); err != nil {
		t.Fatal(err)
	}
	if err := keepOutputs(state, slog.New(slog.DiscardHandler))(t.Context(), "sesn_1", folder); err != nil {
		t.Fatal(err)
	}
	var said notes
	var res RunResult
	if err := deliverOutputs(state, "sesn_1", RunConfig{Outputs: to}, &res, &said); err != nil {
		t.Fatal(err)
	}
	if len(res.Outputs) != 1 || res.Outputs[0].Path != filepath.Join(to, "sub/good") {
		t.Errorf("copied %+v", res.Outputs)
	}
	if len(said) != 4 || strings.Contains(strings.Join(said, ""), "\x1b") {
		t.Errorf("said %q", said)
	}
}

// TestOutputsAfterAPowerFailure: what the disk has lost of a session's mark
// costs no other session what it left.
func TestOutputsAfterAPowerFailure(t *testing.T) {
	state := t.TempDir()
	keep := keepOutputs(state, slog.New(slog.DiscardHandler))
	leave := func(session, mark string) (folder string) {
		t.Helper()
		folder = filepath.Join(state, "sandboxes", sandbox.Folder(session))
		left := filepath.Join(folder, "tree", outputs.Dir)
		err := os.MkdirAll(left, 0o755)
		for path, text := range map[string]string{filepath.Join(left, session): session, filepath.Join(folder, "unsettled"): mark} {
			if err == nil {
				err = os.WriteFile(path, []byte(text), 0o644)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		return folder
	}
	for _, step := range []map[string]string{{"sesn_1": "sesn_1", "sesn_2": "sesn_2"}, {"sesn_3": ""}} {
		for session, mark := range step {
			leave(session, mark)
		}
		k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: mock.New(mock.Knobs{}), Dir: filepath.Join(state, "sandboxes"), Ended: keep})
		if err == nil {
			err = errors.Join(k.Start(t.Context()), k.Stop(t.Context()))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, session := range []string{"sesn_1", "sesn_2", "sesn_3"} {
		m, err := outputs.Read(outputsOf(state, session))
		if err != nil || len(m.Files) != 1 || string(m.Files[0].Path) != session {
			t.Errorf("%s: %+v %v", session, m.Files, err)
		}
	}
}
