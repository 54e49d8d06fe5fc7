package sandboxtest

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/view"
	"github.com/berthdev/berth/toolset"
)

// testView checks private views of a directory of the host: for the tools it
// is theirs, whoever it belongs to; the host sees nothing of what they do; and
// they find it again.
func testView(t *testing.T, driver func() sandbox.Driver) {
	d := driver()
	base := t.TempDir()
	for at := base; at != "/"; at = filepath.Dir(at) { // another user's files must be reachable by name
		if info, err := os.Stat(at); err == nil && info.Mode()&0o055 == 0 {
			must(t, os.Chmod(at, info.Mode().Perm()|0o055))
		}
	}
	lower := filepath.Join(base, "project, with: odd name")
	must(t, os.MkdirAll(filepath.Join(lower, "sub"), 0o755))
	for name, text := range map[string]string{"a": "a\n", "b": "b\n", "sub/c": "c\n"} {
		must(t, os.WriteFile(filepath.Join(lower, name), []byte(text), 0o644))
	}
	if os.Getuid() == 0 {
		for _, name := range []string{"", "a", "b", "sub", "sub/c"} {
			must(t, os.Chown(filepath.Join(lower, name), 12345, 12345))
		}
	}
	for _, workdir := range []string{lower, "/workspace", "/srv/project"} {
		t.Run(filepath.Base(workdir), func(t *testing.T) {
			ask := func(s *sandbox.Spec) { s.View, s.Workdir = lower, workdir }
			w := Start(t, d, ask)
			w.Want("cat a; echo changed >a; rm b; echo new >sub/new; mv sub/c sub/moved; ls . sub", "a\n.:\na\nsub\n\nsub:\nmoved\nnew\n", toolset.Exited, 0)
			if got := readFile(t, w, "a"); got != "changed\n" {
				t.Errorf("the file tools read %q", got)
			}
			must(t, w.Files().WriteFile("sub/new", []byte("by tool\n")))
			must(t, w.Files().WriteFile(workdir+"/deep/er", []byte("deeper\n")))
			w.Want("cat sub/new deep/er; echo more >>deep/er", "by tool\ndeeper\n", toolset.Exited, 0)
			other := Start(t, d, ask)
			other.Want("cat a b sub/c; ls sub", "a\nb\nc\nc\n", toolset.Exited, 0)

			must(t, w.Stop(t.Context()))
			if view.Mounted(w.Spec.Tree, w.Spec.Workdir) {
				t.Error("the view is there though its sandbox has ended")
			}
			again := Start(t, d, func(s *sandbox.Spec) { *s = w.Spec })
			again.Want("cat a sub/moved deep/er; ls b", "changed\nc\ndeeper\nmore\nls: cannot access 'b': No such file or directory\n", toolset.Exited, 2)

			// Its worker goes away, and it with it: the next one takes the view.
			if f, ok := again.Sandbox.(forgetter); ok && d.Capabilities().Recover {
				f.Close()
				sb, err := driver().Recover(t.Context(), again.Record())
				must(t, err)
				if got := readFile(t, &World{Sandbox: sb, T: t}, "a"); got != "changed\n" {
					t.Errorf("taken over, the file tools read %q", got)
				}
				must(t, sb.Stop(context.Background()))
			}
			for name, text := range map[string]string{"a": "a\n", "b": "b\n", "sub/c": "c\n"} {
				if b, err := os.ReadFile(filepath.Join(lower, name)); string(b) != text {
					t.Errorf("on the host %s is %q, %v", name, b, err)
				}
			}
			if _, err := os.Stat(filepath.Join(lower, "sub/new")); !errors.Is(err, fs.ErrNotExist) {
				t.Error("a new file shows on the host")
			}
		})
	}
	if left := view.Left(base); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	// What cannot be shown is no session.
	dir := filepath.Join(t.TempDir(), "sandbox")
	spec := sandbox.Spec{SessionID: "sesn_noview", Dir: dir, Tree: filepath.Join(dir, "tree"), View: filepath.Join(base, "none")}
	must(t, os.MkdirAll(spec.Tree, 0o755))
	if sb, err := d.Start(t.Context(), spec); err == nil {
		sb.Stop(t.Context())
		t.Error("a view of nothing was shown")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, w *World, name string) string {
	t.Helper()
	f, err := w.Files().Open(name)
	must(t, err)
	defer f.Close()
	b, err := io.ReadAll(f)
	must(t, err)
	return string(b)
}
