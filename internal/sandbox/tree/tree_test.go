package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/toolset"
)

// world is a tree on disk and a secret beside it that nobody may reach.
type world struct {
	*Tree
	root, secret string
}

// onBoth runs a test over every hold that this system has.
func onBoth(t *testing.T, c Config, test func(t *testing.T, w world)) {
	for _, way := range []struct {
		name string
		open func(string, owner) (hold, error)
	}{{"native", openHold}, {"portable", openPortable}} {
		t.Run(way.name, func(t *testing.T) {
			base := t.TempDir()
			w := world{root: filepath.Join(base, "tree"), secret: filepath.Join(base, "secret")}
			must(t, os.Mkdir(w.root, 0o755))
			must(t, os.WriteFile(w.secret, []byte("top secret"), 0o644))
			c := c
			c.Root = w.root
			if c.UID == 0 {
				c.UID, c.GID = -1, -1
			}
			var err error
			w.Tree, err = Open(c)
			must(t, err)
			must(t, w.Tree.hold.close())
			w.Tree.hold, err = way.open(w.root, owner{c.UID, c.GID})
			must(t, err)
			t.Cleanup(func() { w.Close() })
			test(t, w)
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w world) host(inside string) string { return filepath.Join(w.root, inside) }

func (w world) put(t *testing.T, inside, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(w.host(inside)), 0o755))
	must(t, os.WriteFile(w.host(inside), []byte(content), 0o644))
}

// unreachable is the answer to the secret's name on the host: names mean what
// they mean inside, and there is a /tmp inside too.
func (w world) unreachable() error {
	if within(w.secret, Prefixes) {
		return fs.ErrNotExist
	}
	return toolset.ErrOutside
}

func (w world) read(name string) (string, error) {
	f, err := w.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	return string(b), err
}

func TestNamesMeanWhatTheyMeanInside(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, w world) {
		w.put(t, "workspace/a/b.txt", "b")
		w.put(t, "mnt/session/outputs/o.txt", "o")
		w.put(t, "etc/passwd", "inside root, outside every place")
		for link, target := range map[string]string{
			"workspace/abs":        "/workspace/a/b.txt",
			"workspace/rel":        "a/b.txt",
			"workspace/dir":        "a",
			"workspace/a/up":       "../a/b.txt",
			"workspace/out":        "/mnt/session/outputs",
			"workspace/etc":        "/etc/passwd",
			"workspace/host":       w.secret,
			"workspace/climb":      "../../../../../../../secret",
			"workspace/loop":       "loop",
			"workspace/dangling":   "/workspace/nothing",
			"workspace/proc":       "/proc/self/root" + w.secret,
			"workspace/slash":      "/",
			"workspace/a/viaslash": "/../workspace/./a/../a/b.txt",
		} {
			must(t, os.Symlink(target, w.host(link)))
		}
		for _, c := range []struct {
			name, want string
			err        error
		}{
			{name: "a/b.txt", want: "b"},
			{name: "/workspace/a/b.txt", want: "b"},
			{name: "./a/../a//b.txt", want: "b"},
			{name: "nothing/../a/b.txt", want: "b"}, // ".." is taken from the text
			{name: "abs", want: "b"},
			{name: "rel", want: "b"},
			{name: "dir/b.txt", want: "b"},
			{name: "a/up", want: "b"},
			{name: "a/viaslash", want: "b"},
			{name: "out/o.txt", want: "o"},
			{name: "slash/workspace/a/b.txt", want: "b"},
			{name: "slash/etc/passwd", err: toolset.ErrOutside},
			{name: "/mnt/session/outputs/o.txt", want: "o"},
			{name: "etc", err: toolset.ErrOutside},
			{name: "host", err: w.unreachable()},
			{name: "climb", err: toolset.ErrOutside},
			{name: "proc", err: toolset.ErrOutside},
			{name: "/etc/passwd", err: toolset.ErrOutside},
			{name: "../etc/passwd", err: toolset.ErrOutside},
			{name: "/workspacex", err: toolset.ErrOutside},
			{name: "/", err: toolset.ErrOutside},
			{name: "/mnt", err: toolset.ErrOutside},
			{name: w.secret, err: w.unreachable()},
			{name: "loop", err: toolset.ErrLoop},
			{name: "dangling", err: fs.ErrNotExist},
			{name: "nothing", err: fs.ErrNotExist},
			{name: "a/b.txt/c", err: toolset.ErrNotDir},
			{name: "a", err: toolset.ErrIsDir},
			{name: ".", err: toolset.ErrIsDir},
			{name: "a\x00b", err: syscall.EINVAL},
			{name: strings.Repeat("x", 300), err: syscall.ENAMETOOLONG},
			{name: strings.Repeat("x/", 2500), err: syscall.ENAMETOOLONG},
		} {
			got, err := w.read(c.name)
			if got != c.want || !errors.Is(err, c.err) {
				t.Errorf("read %.60q = %q, %v; want %q, %v", c.name, got, err, c.want, c.err)
			}
			if err != nil && !strings.Contains(c.name, w.root) && strings.Contains(err.Error(), filepath.Dir(w.root)) && c.name != w.secret {
				t.Errorf("read %.60q names the host: %v", c.name, err)
			}
		}
	})
}

func TestLongChainOfLinksEnds(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, w world) {
		w.put(t, "workspace/0", "end")
		for i := 1; i <= 10_000; i++ {
			must(t, os.Symlink(fmt.Sprint(i-1), w.host(fmt.Sprint("workspace/", i))))
		}
		if got, err := w.read("40"); got != "end" {
			t.Errorf("40 links: %q, %v", got, err)
		}
		for _, name := range []string{"41", "10000"} {
			if _, err := w.read(name); !errors.Is(err, toolset.ErrLoop) {
				t.Errorf("%s links: %v", name, err)
			}
		}
	})
}

func TestOnlyRegularFilesAreOpened(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, w world) {
		must(t, syscall.Mkfifo(w.host("workspace/fifo"), 0o644))
		s, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		must(t, err)
		defer syscall.Close(s)
		t.Chdir(w.host("workspace")) // a socket's name is short
		must(t, syscall.Bind(s, &syscall.SockaddrUnix{Name: "sock"}))
		must(t, os.Symlink("fifo", w.host("workspace/link")))
		names := []string{"fifo", "sock", "link"}
		if err := syscall.Mknod(w.host("workspace/null"), syscall.S_IFCHR|0o666, 1<<8|3); err == nil {
			names = append(names, "null")
		}
		for _, name := range names {
			if _, err := w.read(name); !errors.Is(err, toolset.ErrNotRegular) {
				t.Errorf("open %s: %v", name, err)
			}
			if err := w.WriteFile(name, []byte("x")); !errors.Is(err, toolset.ErrNotRegular) {
				t.Errorf("write %s: %v", name, err)
			}
			if info, err := w.Stat(name); err != nil || info.Mode().IsRegular() {
				t.Errorf("stat %s: %v, %v", name, info, err)
			}
		}
		if info, _ := os.Lstat(w.host("workspace/fifo")); info.Mode()&fs.ModeNamedPipe == 0 {
			t.Error("the FIFO was replaced")
		}
	})
}

func TestWriteKeepsWhatAFileIs(t *testing.T) {
	onBoth(t, Config{ReadOnly: []string{"/mnt/memory/ro"}}, func(t *testing.T, w world) {
		w.put(t, "workspace/script", "old")
		must(t, os.Chmod(w.host("workspace/script"), 0o751))
		w.put(t, "workspace/one", "old")
		must(t, os.Link(w.host("workspace/one"), w.host("workspace/two")))
		must(t, os.Symlink("/workspace/deep/target", w.host("workspace/link")))
		must(t, os.Symlink(w.secret, w.host("workspace/bad")))
		must(t, os.Symlink("/etc/new", w.host("workspace/bad2")))

		for _, name := range []string{"script", "one", "link", "new/er/file"} {
			must(t, w.WriteFile(name, []byte("new "+name)))
			if got, err := w.read(name); got != "new "+name {
				t.Errorf("%s = %q, %v", name, got, err)
			}
		}
		modes := map[string]fs.FileMode{
			"script": 0o751, "one": 0o644, "link": 0o777 | fs.ModeSymlink, "deep": 0o755 | fs.ModeDir,
			"deep/target": 0o644, "new/er": 0o755 | fs.ModeDir, "new/er/file": 0o644,
		}
		for name, want := range modes {
			info, err := os.Lstat(w.host("workspace/" + name))
			must(t, err)
			if info.Mode() != want {
				t.Errorf("%s is %v, want %v", name, info.Mode(), want)
			}
		}
		if got, _ := w.read("two"); got != "new one" {
			t.Errorf("the other name of a hard link shows %q", got)
		}
		must(t, w.WriteFile("one", nil)) // shorter
		if got, _ := w.read("two"); got != "" {
			t.Errorf("the other name of a hard link shows %q", got)
		}
		must(t, os.Truncate(w.host("workspace/one"), 1<<40)) // sparse
		must(t, w.WriteFile("two", []byte("short again")))
		if got, err := w.read("one"); got != "short again" {
			t.Errorf("a huge file of two names became %.20q, %v", got, err)
		}
		for name, want := range map[string]error{
			"bad2": toolset.ErrOutside, "/etc/new": toolset.ErrOutside,
			"deep": toolset.ErrIsDir, "/workspace": toolset.ErrIsDir, "fresh/": toolset.ErrIsDir,
			"script/x": toolset.ErrNotDir, "/mnt/memory/ro/x": toolset.ErrReadOnly,
			strings.Repeat("x", 300): syscall.ENAMETOOLONG,
		} {
			if err := w.WriteFile(name, []byte("x")); !errors.Is(err, want) {
				t.Errorf("write %.40s: %v, want %v", name, err, want)
			}
		}
		_ = w.WriteFile("bad", []byte("x")) // a file inside, or refused
		if b, _ := os.ReadFile(w.secret); string(b) != "top secret" {
			t.Errorf("the secret is %q", b)
		}
		if got, err := filepath.Glob(w.host("workspace/.berth-*")); len(got) != 0 || err != nil {
			t.Errorf("left behind: %v", got)
		}
	})
}

func TestNewFilesBelongToTheSession(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give files away")
	}
	onBoth(t, Config{UID: 70001, GID: 70002}, func(t *testing.T, w world) {
		w.put(t, "workspace/other", "x")
		must(t, os.Chown(w.host("workspace/other"), 70005, 70006))
		must(t, w.WriteFile("d/e/f", []byte("x")))
		must(t, w.WriteFile("other", []byte("y")))
		for name, want := range map[string][2]uint32{
			"d": {70001, 70002}, "d/e": {70001, 70002}, "d/e/f": {70001, 70002}, "other": {70005, 70006},
		} {
			var st syscall.Stat_t
			must(t, syscall.Stat(w.host("workspace/"+name), &st))
			if st.Uid != want[0] || st.Gid != want[1] {
				t.Errorf("%s belongs to %d:%d, want %d:%d", name, st.Uid, st.Gid, want[0], want[1])
			}
		}
	})
}

func TestWorkdirElsewhere(t *testing.T) {
	onBoth(t, Config{Workdir: "/home/me/project"}, func(t *testing.T, w world) {
		must(t, w.WriteFile("f", []byte("here")))
		for _, name := range []string{"/home/me/project/f", "f"} {
			if got, err := w.read(name); got != "here" {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		}
		if err := w.WriteFile("/home/me/f", nil); !errors.Is(err, toolset.ErrOutside) {
			t.Errorf("beside the working directory: %v", err)
		}
		if b, err := os.ReadFile(w.host("home/me/project/f")); string(b) != "here" {
			t.Errorf("on the host: %q, %v", b, err)
		}
	})
}

func TestSharedWorkdir(t *testing.T) {
	for _, workdir := range []string{"/workspace", "/home/me/project", "/workspace/deep/er"} {
		root, share := t.TempDir(), t.TempDir()
		must(t, os.WriteFile(filepath.Join(share, "mine"), []byte("mine"), 0o600))
		must(t, os.Symlink("/etc/passwd", filepath.Join(share, "escape")))
		must(t, os.Symlink(workdir+"/mine", filepath.Join(share, "link")))
		must(t, os.Symlink("../mine", filepath.Join(share, "up")))
		tr, err := Open(Config{Root: root, Workdir: workdir, Share: share, UID: -1, GID: -1})
		must(t, err)
		w := world{Tree: tr, root: root}
		must(t, w.WriteFile("new/er/file", []byte("new")))
		must(t, w.WriteFile(workdir+"/mine", []byte("mine too")))
		must(t, w.WriteFile("/mnt/session/outputs/o", []byte("out")))
		for name, want := range map[string]string{"mine": "mine too", "link": "mine too", workdir + "/new/er/file": "new", "/mnt/session/outputs/o": "out"} {
			if got, err := w.read(name); got != want {
				t.Errorf("%s: %s is %q, %v", workdir, name, got, err)
			}
		}
		for name, want := range map[string]error{"escape": toolset.ErrOutside, "up": nil, "../../../etc": toolset.ErrOutside} {
			if _, err := w.read(name); err == nil || want != nil && !errors.Is(err, want) {
				t.Errorf("%s: %s: %v, want %v", workdir, name, err, want)
			}
		}
		if b, err := os.ReadFile(filepath.Join(share, "new/er/file")); string(b) != "new" {
			t.Errorf("%s: on the host %q, %v", workdir, b, err)
		}
		if b, err := os.ReadFile(filepath.Join(root, "mnt/session/outputs/o")); string(b) != "out" {
			t.Errorf("%s: in the tree %q, %v", workdir, b, err)
		}
		seen := 0
		must(t, w.Walk(t.Context(), ".", func(p string, e toolset.Entry) error {
			if !strings.HasPrefix(p, workdir+"/") {
				t.Errorf("the walk shows %s", p)
			}
			seen++
			return nil
		}))
		if seen != 7 {
			t.Errorf("%s: the walk shows %d entries, not 7", workdir, seen)
		}
		must(t, w.Close())
	}
}

func TestWalk(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, w world) {
		for _, f := range []string{"b", "a/1", "a/2", "a/deep/er/x", "skip/y", ".hidden/z"} {
			w.put(t, "workspace/"+f, f)
		}
		must(t, os.Symlink("/workspace/a", w.host("workspace/link")))
		must(t, os.Symlink(w.secret, w.host("workspace/secret")))
		must(t, syscall.Mkfifo(w.host("workspace/fifo"), 0o644))
		var got []string
		err := w.Walk(t.Context(), "link/..", func(p string, e toolset.Entry) error {
			line := p + " " + e.Type().String()
			if f, err := e.Open(); err == nil {
				b, _ := io.ReadAll(f)
				f.Close()
				line += " " + string(b)
			} else if e.Type().IsRegular() {
				t.Errorf("open %s: %v", p, err)
			}
			if info, err := e.Info(); err != nil || info.Mode().Type() != e.Type() && e.Type() != fs.ModeIrregular || info.Name() != e.Name() {
				t.Errorf("info of %s: %v, %v", p, info, err)
			}
			got = append(got, line)
			if e.Name() == "skip" {
				return fs.SkipDir
			}
			return nil
		})
		must(t, err)
		fifo := "/workspace/fifo p---------"
		if _, native := w.hold.(*portable); !native {
			fifo = "/workspace/fifo ?---------"
		}
		want := []string{
			"/workspace/.hidden d---------", "/workspace/a d---------", "/workspace/b ---------- b", fifo, "/workspace/link L---------",
			"/workspace/secret L---------", "/workspace/skip d---------", "/workspace/.hidden/z ---------- .hidden/z", "/workspace/a/1 ---------- a/1",
			"/workspace/a/2 ---------- a/2", "/workspace/a/deep d---------", "/workspace/a/deep/er d---------", "/workspace/a/deep/er/x ---------- a/deep/er/x",
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		seen := 0
		must(t, w.Walk(t.Context(), ".", func(string, toolset.Entry) error { seen++; return fs.SkipAll }))
		if seen != 1 {
			t.Errorf("SkipAll after %d entries", seen)
		}
		for root, want := range map[string]error{"b": toolset.ErrNotDir, "nothing": fs.ErrNotExist, "/etc": toolset.ErrOutside, "secret": w.unreachable()} {
			if err := w.Walk(t.Context(), root, nil); !errors.Is(err, want) {
				t.Errorf("walk %s: %v, want %v", root, err, want)
			}
		}
		why := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		err = w.Walk(ctx, ".", func(string, toolset.Entry) error { cancel(why); return nil })
		if !errors.Is(err, why) {
			t.Errorf("a cancelled walk: %v", err)
		}
	})
}

// A directory far deeper than a path can name costs no descriptors and ends.
func TestWalkOfADeepTree(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, w world) {
		depth, deep, dir := 3000, 0, w.host("workspace")
		if _, ok := w.hold.(*portable); ok {
			depth = 300 // os.Root opens every part of a path anew
		}
		t.Chdir(dir)
		for ; deep < depth; deep++ {
			must(t, os.Mkdir("d", 0o755))
			must(t, syscall.Chdir("d"))
		}
		must(t, syscall.Chdir(dir))
		seen := 0
		err := w.Walk(t.Context(), ".", func(string, toolset.Entry) error { seen++; return nil })
		var left *toolset.WalkError
		if err != nil && !errors.As(err, &left) || seen < min(depth, 2000) {
			t.Errorf("saw %d of %d directories: %v", seen, deep, err)
		}
		if seen < deep && left == nil {
			t.Errorf("saw %d of %d directories without a word", seen, deep)
		}
	})
}

// TestReadersSeeOldOrNew: a file that is replaced is never seen in between.
func TestReadersSeeOldOrNew(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, w world) {
		texts := []string{strings.Repeat("old", 100_000), strings.Repeat("newer", 100_000)}
		must(t, w.WriteFile("f", []byte(texts[0])))
		done := make(chan error)
		go func() {
			for i := range 50 {
				if err := w.WriteFile("f", []byte(texts[i%2])); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
		for {
			b, err := os.ReadFile(w.host("workspace/f"))
			must(t, err)
			if string(b) != texts[0] && string(b) != texts[1] {
				t.Fatalf("a reader saw %d bytes of neither", len(b))
			}
			select {
			case err := <-done:
				must(t, err)
				return
			default:
			}
		}
	})
}
