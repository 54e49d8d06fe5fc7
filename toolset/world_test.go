package toolset_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox/tree"
	"github.com/berthdev/berth/toolset"
)

// world is a session's tree on disk, a scripted shell, and the tools on both.
type world struct {
	*toolset.Set
	t     testing.TB
	root  string
	files toolset.Files
	sh    *shell
}

// shell answers commands as the test says and remembers what it was asked.
type shell struct {
	commands []toolset.Command
	restarts int
	answer   func(ctx context.Context, c toolset.Command) (toolset.Result, error)
}

func (s *shell) Bash(ctx context.Context, c toolset.Command) (toolset.Result, error) {
	s.commands = append(s.commands, c)
	return s.answer(ctx, c)
}

func (s *shell) Restart(context.Context) error { s.restarts++; return nil }

type host struct {
	*shell
	files toolset.Files
}

func (h host) Files() toolset.Files { return h.files }
func (h host) Workdir() string      { return "/workspace" }

func newWorld(t testing.TB, opts toolset.Options) *world {
	w := &world{t: t, root: t.TempDir(), sh: &shell{}}
	files, err := tree.Open(tree.Config{Root: w.root, UID: -1, GID: -1, ReadOnly: []string{"/mnt/memory/shared"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { files.Close() })
	w.files = files
	w.Set = toolset.New(host{w.sh, files}, opts)
	return w
}

func (w *world) put(name, content string) {
	w.t.Helper()
	p := filepath.Join(w.root, "workspace", name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// at makes the file as old as the number says, so that order can be told.
func (w *world) at(name string, age int) {
	w.t.Helper()
	when := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(-time.Duration(age) * time.Hour)
	if err := os.Chtimes(filepath.Join(w.root, "workspace", name), when, when); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) content(name string) string {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join(w.root, "workspace", name))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

type args map[string]any

// call runs a tool and gives its only text; errors begin with "ERROR ".
func (w *world) call(name string, in args) string {
	w.t.Helper()
	raw, err := json.Marshal(in)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.raw(name, string(raw))
}

func (w *world) raw(name, input string) string {
	w.t.Helper()
	blocks, isError := w.Run(w.t.Context(), "sevt_1", name, json.RawMessage(input))
	if len(blocks) != 1 || blocks[0].Type != "text" || blocks[0].Text == "" {
		w.t.Fatalf("%s %s: not one block of text: %+v", name, input, blocks)
	}
	text := blocks[0].Text
	if strings.Contains(text, w.root) {
		w.t.Errorf("%s %s names the host: %q", name, input, text)
	}
	if isError {
		text = "ERROR " + text
	}
	return text
}

// step is one call and what must come of it.
type step struct {
	in   args
	want string
}

func (w *world) run(tool string, steps []step) {
	w.t.Helper()
	for _, s := range steps {
		if got := w.call(tool, s.in); got != s.want {
			w.t.Errorf("%s %.200v\n got %.400q\nwant %.400q", tool, s.in, got, s.want)
		}
	}
}
