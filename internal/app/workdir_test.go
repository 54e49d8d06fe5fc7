package app

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/process"
	"github.com/berthdev/berth/internal/stage"
	"github.com/berthdev/berth/worker"
)

// plain is a driver that has no views.
type plain struct{ sandbox.Driver }

func (p plain) Capabilities() sandbox.Capabilities {
	c := p.Driver.Capabilities()
	c.View = false
	return c
}

// TestWorkdirIsCopied where views of it cannot be mounted.
func TestWorkdirIsCopied(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{"file": "before", "sub/deep": "deep"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("sub/deep", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	d := plain{process.New(process.Config{Log: log, Plain: true})}
	k, copied, err := newKeeper(t.Context(), config.Engine{Workdir: dir}, sandbox.Spec{}, nil, d, "", state, 0, log)
	if err != nil || copied != dir {
		t.Fatalf("copied %q, %v", copied, err)
	}
	stager, err := stage.New(stage.Config{})
	if err != nil {
		t.Fatal(err)
	}
	h := hosts{Keeper: k, stager: stager, copied: copied, log: log}
	open := func() worker.Sandbox {
		t.Helper()
		sb, _, err := h.Open(t.Context(), worker.Opening{Session: api.Session{ID: "sesn_1"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { sb.Close(context.Background(), false) })
		return sb
	}
	sb := open()
	tree := filepath.Join(state, "sandboxes", "sesn_1", "tree", dir)
	for name, want := range map[string]string{"file": "before", "link": "deep"} {
		if b, err := os.ReadFile(filepath.Join(tree, name)); string(b) != want {
			t.Errorf("%s is %q, %v", name, b, err)
		}
	}
	if err := sb.Files().WriteFile("file", []byte("after")); err != nil {
		t.Fatal(err)
	}
	if err := sb.Close(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	open()
	if b, _ := os.ReadFile(filepath.Join(tree, "file")); string(b) != "after" {
		t.Errorf("the next item finds %q", b)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "file")); string(b) != "before" {
		t.Errorf("on the host it is %q", b)
	}

	if err := os.Truncate(filepath.Join(dir, "file"), maxCopyBytes+1); err != nil {
		t.Fatal(err)
	}
	_, _, err = newKeeper(t.Context(), config.Engine{Workdir: dir}, sandbox.Spec{}, nil, d, "", t.TempDir(), 0, log)
	if ce, ok := errors.AsType[*config.Error](err); !ok || !strings.Contains(ce.Error(), "--workdir-mode share") {
		t.Errorf("too much to copy: %v", err)
	}
}
