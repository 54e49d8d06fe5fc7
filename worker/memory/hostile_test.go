package memory_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/internal/sandbox/tree"
	"github.com/berthdev/berth/toolset"
	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/memory"
	"github.com/berthdev/berth/worker/workertest"
)

// TestHostileFolder: whatever a session puts into its folder, nothing but text
// of its own comes into the store, nothing of the store is deleted for it, and
// what the store sends stays in the folder.
func TestHostileFolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "/a", "1", "/b", "1", "/c", "1", "/d/e", "1", "/f", "1")
		w.begin()
		secret := filepath.Join(t.TempDir(), "secret")
		theirs := filepath.Join(w.root, "workspace", "theirs")
		at := func(name string) string { return filepath.Join(w.at, name) }
		huge, err := os.Create(at("huge"))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(
			os.WriteFile(secret, []byte("the host's"), 0o600),
			huge.Truncate(1<<40), huge.Close(), // sparse
			os.Symlink(secret, at("link")),
			os.Symlink(filepath.Dir(secret), at("linked")),
			os.Symlink("/", at("root")),
			syscall.Mkfifo(at("fifo"), 0o666),
			os.WriteFile(at("line\nbreak"), []byte("x"), 0o644),
			os.WriteFile(at("latin\xe9"), []byte("x"), 0o644),
			os.WriteFile(at("right\u202eleft"), []byte("x"), 0o644),
			os.MkdirAll(at(strings.Repeat("deep/", 25)), 0o755),
			os.WriteFile(at(strings.Repeat("deep/", 25)+"x"), []byte("x"), 0o644),
			os.WriteFile(at(".berth-half"), []byte("x"), 0o644),
			// Memories that become something else.
			os.Remove(at("a")), os.Symlink(secret, at("a")),
			os.Remove(at("b")), syscall.Mkfifo(at("b"), 0o666),
			os.Remove(at("c")), os.Mkdir(at("c"), 0o755), os.WriteFile(at("c/x"), []byte("cx"), 0o644),
			os.RemoveAll(at("d")), os.Symlink(filepath.Dir(secret), at("d")),
			os.WriteFile(theirs, []byte("1"), 0o644), os.Remove(at("f")), os.Link(theirs, at("f")),
		); err != nil {
			t.Fatal(err)
		}
		w.sync(15 * time.Second)
		for _, name := range []string{"/a", "/b", "/c", "/d/e", "/f"} { // and the store changes them
			w.store.Put(name, "2")
		}
		w.sync(15 * time.Second)
		w.sync(31 * time.Second)
		if err := w.end(worker.EndIdle); err != nil {
			t.Error(err)
		}
		w.has("store", w.store.All(), []string{"/a", "2", "/b", "2", "/c", "2", "/d/e", "2", "/f", "2", "/c/x", "cx"})
		if b, err := os.ReadFile(secret); string(b) != "the host's" {
			t.Errorf("the host's file is %q, %v", b, err)
		}
		if all, err := os.ReadDir(filepath.Dir(secret)); err != nil || len(all) != 1 {
			t.Errorf("beside it are %v, %v", all, err)
		}
		if b, err := os.ReadFile(theirs); string(b) != "1" {
			t.Errorf("the file of another name is %q, %v", b, err)
		}
		if b, err := os.ReadFile(at("f")); string(b) != "2" {
			t.Errorf("f is %q, %v", b, err)
		}
	})
}

// TestFullFolder: more files than are looked at are no deletions and no uploads.
func TestFullFolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "/a", "1", "/b", "1", "/c", "1")
		w.begin()
		dir := filepath.Join(w.at, "many")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		one := filepath.Join(w.root, "workspace", "one")
		if err := os.WriteFile(one, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		for i := range 20_000 {
			if err := os.Link(one, filepath.Join(dir, fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		w.put("a", "")
		w.sync(15 * time.Second)
		w.tells("its folder has more than 20000 entries")
		if err := w.end(worker.EndIdle); err == nil {
			t.Error("the end is fine")
		}
		if n := w.asked(workertest.CreateMemory) + w.asked(workertest.DeleteMemory); n > 0 || len(w.store.All()) != 3 {
			t.Errorf("%d writes, the store has %v", n, w.store.All())
		}
	})
}

// partial is a folder of which a directory cannot be read.
type partial struct{ memory.Folder }

func (p partial) Walk(ctx context.Context, fn func(string, toolset.Entry) error) error {
	err := p.Folder.Walk(ctx, func(name string, e toolset.Entry) error {
		if name == "d" {
			return fs.SkipDir
		}
		return fn(name, e)
	})
	return errors.Join(err, &toolset.WalkError{Dirs: 1, First: "/d", Err: fs.ErrPermission})
}

type partialBox struct{ box }

func (b partialBox) Folder(at string) (memory.Folder, error) {
	f, err := b.box.Folder(at)
	return partial{f}, err
}

// TestClosedDirectory: a directory that cannot be read has not lost its files.
func TestClosedDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "/d/a", "1", "/b", "1")
		w.begin()
		files, err := tree.Open(tree.Config{Root: w.root, UID: -1, GID: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer files.Close()
		w.claim()
		if oe, ok := errors.AsType[*worker.OpenError](w.got.Opened(t.Context(), partialBox{box{files: files}})); !ok || !strings.Contains(oe.Text, "a directory in its folder cannot be read") {
			t.Errorf("opened: %v", oe)
		}
		w.both("/d/a", "1", "/b", "1")
	})
}

// TestSwappedFiles: files that are links for moments are never read through.
func TestSwappedFiles(t *testing.T) {
	w := newWorld(t, "/a", "1")
	w.begin()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("the host's"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(w.at, name) }
	if err := errors.Join(os.Mkdir(at("real"), 0o755), os.WriteFile(at("real/secret"), []byte("mine"), 0o644), os.WriteFile(at("file"), []byte("mine"), 0o644)); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.Remove(at("swapped"))
			_ = os.Remove(at("dir"))
			if i%2 == 0 {
				_ = os.Symlink(secret, at("swapped"))
				_ = os.Symlink(filepath.Dir(secret), at("dir"))
			} else {
				_ = os.Link(at("file"), at("swapped"))
				_ = os.Rename(at("real"), at("dir"))
				_ = os.Rename(at("dir"), at("real"))
			}
		}
	})
	for range 500 {
		if err := w.end(worker.EndFailed); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	swapping.Wait()
	for name, text := range w.store.All() {
		if strings.Contains(text, "host") {
			t.Errorf("%s is %q", name, text)
		}
	}
	if len(w.store.All()) < 3 {
		t.Errorf("the store has %v", w.store.All())
	}
}

// TestHostilePlane: names that lead elsewhere, a content that is another, and
// lists that are too much.
func TestHostilePlane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "/fine", "1")
		for _, name := range []string{"/../up", "//x", "/a/./b", "x", "/a//b", "/.berth-x", "/nul\x00", "/" + strings.Repeat("d/", 25) + "x"} {
			w.store.Put(name, "evil")
		}
		w.begin()
		w.has("folder", w.files(), []string{"/fine", "1"})
		if err := w.end(worker.EndIdle); err != nil {
			t.Error(err)
		}
		if w.asked(workertest.DeleteMemory) > 0 || len(w.store.All()) != 9 {
			t.Errorf("the store has %v", w.store.All())
		}
	})
	t.Run("another content", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "/a", "1")
			w.plane.Inject(workertest.Fault{Route: workertest.ListMemories, Times: 1, Status: 200,
				Body: `{"data":[{"id":"mem_1","type":"memory","path":"/a","content":"evil","content_sha256":"` + strings.Repeat("0", 64) + `"}],"next_page":null}`})
			w.begin()
			w.has("folder", w.files(), nil)
			w.sync(15 * time.Second)
			w.tells("did not come with the content")
			w.both("/a", "1")
		})
	})
	for name, m := range map[string]string{
		"no id":        `"path":"/a","content_sha256":"` + strings.Repeat("0", 64) + `"`,
		"another hash": `"id":"mem_1","path":"/a","content_sha256":"` + strings.Repeat("0", 63) + `g"`,
		"no hash":      `"id":"mem_1","path":"/a"`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "/a", "1", "/b", "1")
				w.begin()
				w.plane.Inject(workertest.Fault{Route: workertest.ListMemories, Times: 1, Status: 200, Body: `{"data":[{"type":"memory",` + m + `}],"next_page":null}`})
				w.sync(15 * time.Second)
				w.tells("whose id or SHA-256 is none")
				w.both("/a", "1", "/b", "1")
			})
		})
	}
	// What it sends for each memory of a list is not kept.
	const pages, size = 64, 1 << 18
	for name, m := range map[string]string{
		"contents that nobody asked for": `"path":"/%d","content":"%s","content_sha256":"` + strings.Repeat("0", 64) + `"`,
		"names that are too long":        `"path":"/%d%s","content_sha256":"` + strings.Repeat("0", 64) + `"`,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.begin()
			filler := strings.Repeat("x", size)
			var first, last runtime.MemStats
			n := 0
			w.way.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Get("view") != "basic" {
					http.NotFound(rw, r)
					return
				}
				next := `"again"`
				switch n++; n {
				case 1:
					runtime.GC()
					runtime.ReadMemStats(&first)
				case pages:
					runtime.GC()
					runtime.ReadMemStats(&last)
					next = "null"
				}
				fmt.Fprintf(rw, `{"data":[{"id":"mem_1","type":"memory",`+m+`}],"next_page":`+next+`}`, n, filler)
			})
			if err := w.end(worker.EndIdle); err != nil {
				t.Error(err)
			}
			if grown := int64(last.HeapAlloc) - int64(first.HeapAlloc); n != pages || grown > pages*size/4 {
				t.Errorf("%d pages, %d bytes more after them", n, grown)
			}
		})
	}
	t.Run("a list without an end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "/a", "1")
			w.plane.Inject(workertest.Fault{Route: workertest.ListMemories, Status: 200, Body: `{"data":[],"next_page":"again"}`})
			w.claim()
			if oe, ok := errors.AsType[*worker.OpenError](w.open()); !ok || !strings.Contains(oe.Text, "pages") {
				t.Errorf("opened: %v", oe)
			}
		})
	})
}

// TestTwoSessions: a store may be of two sessions of one host at one time; each
// has a folder of its own.
func TestTwoSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newWorld(t, "/a", "1")
		a.begin()
		b := newWorld(t)
		b.plane, b.store = a.plane, a.store
		b.begin()
		a.put("a", "of the first")
		b.put("b", "of the second")
		a.sync(15 * time.Second)
		b.sync(0)
		a.sync(15 * time.Second)
		a.both("/a", "of the first", "/b", "of the second")
		b.both("/a", "of the first", "/b", "of the second")
		a.put("b", "again of the first")
		b.put("b", "again of the second")
		a.sync(15 * time.Second)
		b.sync(0)
		b.tells("replaces what was here")
		b.both("/a", "of the first", "/b", "again of the first")
	})
}
