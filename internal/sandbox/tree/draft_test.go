package tree

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/berthdev/berth/toolset"
)

func say(text string) func(io.Writer) error {
	return func(f io.Writer) error {
		_, err := io.WriteString(f, text)
		return err
	}
}

func TestDraft(t *testing.T) {
	uid := -1
	if os.Geteuid() == 0 {
		uid = 70001
	}
	onBoth(t, Config{UID: uid, GID: uid}, func(t *testing.T, w world) {
		w.put(t, "workspace/data/old", "old")
		w.put(t, "workspace/data/b", "before")
		d, err := w.Draft("/workspace")
		must(t, err)
		must(t, d.Create("a", 0o755, say("a")))
		must(t, d.Create("data/b", 0o644, say("b")))
		must(t, d.Create("deep/er/c", 0o600, say("c")))
		must(t, d.Link("deep/link", "/etc/passwd"))
		must(t, d.Dir("empty"))
		if _, err := os.Stat(w.host("workspace/a")); !errors.Is(err, fs.ErrNotExist) {
			t.Error("a file is there before its draft is published")
		}
		if b, _ := os.ReadFile(w.host("workspace/data/b")); string(b) != "before" {
			t.Errorf("data/b is %q already", b)
		}
		if info, err := os.Stat(w.host("workspace/" + draftName)); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("others can look into the draft: %v, %v", info.Mode(), err)
		}
		must(t, d.Publish())
		must(t, d.Drop())
		for name, want := range map[string]string{"a": "a", "data/b": "b", "data/old": "old", "deep/er/c": "c"} {
			if got, err := w.read(name); got != want {
				t.Errorf("%s is %q, %v", name, got, err)
			}
		}
		if _, err := w.read("deep/link"); !errors.Is(err, toolset.ErrOutside) {
			t.Errorf("the link leads outside: %v", err)
		}
		for name, want := range map[string]fs.FileMode{"a": 0o755, "deep/er/c": 0o600, "deep": 0o755 | fs.ModeDir, "empty": 0o755 | fs.ModeDir} {
			info, err := os.Lstat(w.host("workspace/" + name))
			must(t, err)
			if info.Mode() != want {
				t.Errorf("%s has mode %v", name, info.Mode())
			}
			if st := info.Sys().(*syscall.Stat_t); uid >= 0 && int(st.Uid) != uid {
				t.Errorf("%s belongs to %d", name, st.Uid)
			}
		}
		if _, err := os.Lstat(w.host("workspace/" + draftName)); !errors.Is(err, fs.ErrNotExist) {
			t.Error("the draft is still there")
		}
	})
}

// TestDraftAllOrNothing: what cannot all be published is not published at all.
func TestDraftAllOrNothing(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, w world) {
		w.put(t, "workspace/z/file", "old")
		for name, want := range map[string]error{"z": toolset.ErrIsDir, "z/file/below": toolset.ErrNotDir} {
			d, err := w.Draft("/workspace")
			must(t, err)
			must(t, d.Create("a", 0o644, say("a")))
			must(t, d.Create(name, 0o644, say("new")))
			if err := d.Publish(); !errors.Is(err, want) || strings.Contains(err.Error(), w.root) {
				t.Errorf("%s: %v", name, err)
			}
			entries, err := os.ReadDir(w.host("workspace"))
			must(t, err)
			if len(entries) != 1 {
				t.Errorf("%s: published in part: %v", name, entries)
			}
		}
		full := errors.New("no more")
		d, err := w.Draft("/workspace")
		must(t, err)
		if err := d.Create("half", 0o644, func(f io.Writer) error { io.WriteString(f, "half"); return full }); !errors.Is(err, full) {
			t.Error(err)
		}
		must(t, d.Drop())
		if _, err := os.Stat(w.host("workspace/half")); !errors.Is(err, fs.ErrNotExist) {
			t.Error("half a file was published")
		}
	})
}

func TestDraftNamesStayInside(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, w world) {
		must(t, os.Symlink(filepath.Dir(w.secret), w.host("workspace/out")))
		d, err := w.Draft("/workspace")
		must(t, err)
		for _, name := range []string{"", ".", "..", "../x", "/x", "a/../../x", "a//b", "a/", "a\x00b", draftName, draftName + "/x"} {
			if d.Create(name, 0o644, say("x")) == nil {
				t.Errorf("made %q", name)
			}
		}
		must(t, d.Link("sub", filepath.Dir(w.secret)))
		if d.Create("sub/secret", 0o644, say("x")) == nil {
			t.Error("wrote through a link of its own")
		}
		must(t, d.Create("out/secret", 0o644, say("gone")))
		if err := d.Publish(); err == nil {
			t.Error("published through a link that was there")
		}
		if b, _ := os.ReadFile(w.secret); string(b) != "top secret" {
			t.Errorf("the secret is now %q", b)
		}
	})
}

// TestDraftOfACrashIsRemoved: the next draft begins anew.
func TestDraftOfACrashIsRemoved(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, w world) {
		w.put(t, "workspace/"+draftName+"/old", "x")
		d, err := w.Draft("/workspace")
		must(t, err)
		must(t, d.Create("new", 0o644, say("x")))
		must(t, d.Publish())
		entries, err := os.ReadDir(w.host("workspace"))
		must(t, err)
		if len(entries) != 1 || entries[0].Name() != "new" {
			t.Errorf("there is %v", entries)
		}
	})
}

// TestADraftThatASessionFills is not waited for.
func TestADraftThatASessionFills(t *testing.T) {
	was := draftTime
	draftTime = 100 * time.Millisecond
	defer func() { draftTime = was }()
	onBoth(t, Config{UID: -1, GID: -1}, func(t *testing.T, w world) {
		at := w.host("workspace/" + draftName)
		must(t, os.MkdirAll(at, 0o755))
		stop, all := make(chan struct{}), sync.WaitGroup{}
		for i := range 4 {
			all.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					default:
						_ = os.MkdirAll(filepath.Join(at, strconv.Itoa(i), strconv.Itoa(n)), 0o755)
					}
				}
			})
		}
		defer all.Wait()
		defer close(stop)
		d, err := w.Draft("/workspace")
		must(t, err)
		must(t, d.Create("a", 0o644, say("a")))
		must(t, d.Publish())
		if got, err := w.read("a"); got != "a" {
			t.Errorf("%q %v", got, err)
		}
	})
}
