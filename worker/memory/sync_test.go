package memory_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/memory"
	"github.com/berthdev/berth/worker/workertest"
)

// TestMatrix: every combination of what may have become of a memory on both
// sides since they were in step.
func TestMatrix(t *testing.T) {
	const old, here, there = "old", "here", "there"
	for _, c := range []struct {
		name          string
		before        string // in step; "" is not there
		local, remote string // after that
		access        api.MemoryAccess
		store, folder string // in the end
		told          string
	}{
		{"nothing happened", old, old, old, "", old, old, ""},
		{"changed here", old, here, old, "", here, here, ""},
		{"changed in the store", old, old, there, "", there, there, ""},
		{"changed on both sides", old, here, there, "", there, there, "replaces what was here"},
		{"changed alike", old, here, here, "", here, here, ""},
		{"deleted here", old, "", old, "", "", "", ""},
		{"deleted in the store", old, old, "", "", "", "", ""},
		{"deleted on both sides", old, "", "", "", "", "", ""},
		{"deleted here, changed in the store", old, "", there, "", there, there, "it is restored"},
		{"changed here, deleted in the store", old, here, "", "", here, here, ""},
		{"made here", "", here, "", "", here, here, ""},
		{"made in the store", "", "", there, "", there, there, ""},
		{"made on both sides", "", here, there, "", there, there, "replaces what was here"},
		{"made alike", "", here, here, "", here, here, ""},

		{"read-only: changed here", old, here, old, api.MemoryReadOnly, old, here, "read-only"},
		{"read-only: changed on both sides", old, here, there, api.MemoryReadOnly, there, there, "replaces what was here"},
		{"read-only: deleted here", old, "", old, api.MemoryReadOnly, old, old, ""},
		{"read-only: deleted in the store", old, old, "", api.MemoryReadOnly, "", "", ""},
		{"read-only: changed here, deleted in the store", old, here, "", api.MemoryReadOnly, "", here, "read-only"},
		{"read-only: made here", "", here, "", api.MemoryReadOnly, "", here, "read-only"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "/other", "x")
				if c.access != "" {
					w.access = c.access
				}
				if c.before != "" {
					w.store.Put("/d/a", c.before)
				}
				w.begin()
				if c.local != c.before {
					w.put("d/a", c.local)
				}
				switch c.remote {
				case c.before:
				case "":
					w.store.Drop("/d/a")
				default:
					w.store.Put("/d/a", c.remote)
				}
				w.sync(15 * time.Second)
				if c.told != "" {
					w.tells(c.told)
				}
				w.sync(31 * time.Second) // a file has to stay missing
				w.tells()
				want := func(text string) []string {
					if text == "" {
						return []string{"/other", "x"}
					}
					return []string{"/other", "x", "/d/a", text}
				}
				w.has("store", w.store.All(), want(c.store))
				w.has("folder", w.files(), want(c.folder))
				writes := w.asked(workertest.CreateMemory) + w.asked(workertest.UpdateMemory) + w.asked(workertest.DeleteMemory)
				if w.access == api.MemoryReadOnly && writes > 0 {
					t.Errorf("%d writes to a read-only store", writes)
				}
				// The end finds nothing to do.
				if err := w.end(worker.EndIdle); err != nil {
					t.Error(err)
				}
				if more := w.asked(workertest.CreateMemory) + w.asked(workertest.UpdateMemory) + w.asked(workertest.DeleteMemory) - writes; more > 0 {
					t.Errorf("%d writes at the end", more)
				}
				for _, r := range w.plane.Requests("") {
					if r.Store != "" && r.Credential == workertest.EnvironmentKey {
						t.Errorf("the environment's key opens %s", r.Route)
					}
				}
			})
		})
	}
}

// TestDownload: pages with their content, the mark, and what cannot be a file.
func TestDownload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for i := range 45 {
			w.store.Put(fmt.Sprintf("/d%d/%02d.md", i%3, i), fmt.Sprint(i))
		}
		w.store.Put("/"+strings.Repeat("a", 300), "long")
		w.store.Put("/d0", "in the way of a directory")
		w.store.Put("/"+mark, "mine")
		w.begin()
		if b, err := os.ReadFile(filepath.Join(w.at, mark)); string(b) != "version 1\n"+w.store.ID {
			t.Errorf("the mark is %q, %v", b, err)
		}
		if n := len(w.files()); n != 31 { // 15 of 45 would be below d0, which is a file
			t.Errorf("%d files", n)
		}
		lists := w.plane.Requests(workertest.ListMemories)
		if len(lists) != 3 || w.asked(workertest.GetMemory) != 0 {
			t.Errorf("%d lists, %d reads", len(lists), w.asked(workertest.GetMemory))
		}
		for _, r := range lists {
			if !strings.Contains(r.Query, "view=full") || !strings.Contains(r.Query, "limit=20") {
				t.Errorf("asked for %s", r.Query)
			}
		}
		w.sync(15 * time.Second)
		for _, why := range []string{"the worker's own", "a part of its name is too long", "something else is in its place", "12 more of the kind"} {
			if told := strings.Join(w.told, "\n"); len(w.told) != 6 || !strings.Contains(told, why) {
				t.Errorf("told %q", told)
			}
		}
		if r := w.plane.Requests(workertest.ListMemories)[3]; !strings.Contains(r.Query, "view=basic") || !strings.Contains(r.Query, "limit=100") {
			t.Errorf("asked for %s", r.Query)
		}
		w.told = nil
		w.sync(15 * time.Second)
		w.tells() // it has been said
	})
	t.Run("a failure fails the opening", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "/a", "1", "/b", "2")
			w.plane.Inject(workertest.Fault{Route: workertest.ListMemories, Status: http.StatusServiceUnavailable, Times: 3})
			w.claim()
			oe, ok := errors.AsType[*worker.OpenError](w.open())
			if !ok || oe.Final || oe.Text != `the memory store "notes" could not be brought: the control plane answers 503` {
				t.Errorf("opened: %v", oe)
			}
			w.got.After(t.Context())
			if err := w.open(); err != nil {
				t.Error(err)
			}
			w.both("/a", "1", "/b", "2")
			w.plane.Inject(workertest.Fault{Route: workertest.ListMemories, Status: http.StatusForbidden, Times: 1})
			if oe, ok := errors.AsType[*worker.OpenError](w.open()); !ok || !oe.Final {
				t.Errorf("opened: %v", oe)
			}
		})
	})
	t.Run("something is there already", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "/a", "1")
			w.put("mine", "x")
			w.claim()
			if oe, ok := errors.AsType[*worker.OpenError](w.open()); !ok || !oe.Final || !strings.Contains(oe.Text, "already") {
				t.Errorf("opened: %v", oe)
			}
			w.has("folder", w.files(), []string{"/mine", "x"})
			w.has("store", w.store.All(), []string{"/a", "1"})
		})
	})
	t.Run("a link is in the way", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "/a", "1")
			other := t.TempDir()
			if err := errors.Join(os.MkdirAll(filepath.Dir(w.at), 0o755), os.Symlink(other, w.at)); err != nil {
				t.Fatal(err)
			}
			w.claim()
			if err := w.open(); err == nil {
				t.Error("opened")
			}
			if all, err := os.ReadDir(other); err != nil || len(all) > 0 {
				t.Errorf("written through the link: %v, %v", all, err)
			}
		})
	})
}

// TestWhen: a sync follows a call when it is time, later when it fails.
func TestWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "/a", "1")
		w.cfg.Interval = 20 * time.Second
		w.begin()
		n := w.asked(workertest.ListMemories)
		looks := func(what string, want int) {
			t.Helper()
			if got := w.asked(workertest.ListMemories) - n; got != want {
				t.Errorf("%s: %d lists, want %d", what, got, want)
			}
		}
		w.sync(19 * time.Second)
		looks("too early", 0)
		w.sync(time.Second)
		looks("in time", 1)
		w.sync(time.Second)
		looks("just after one", 1)
		w.plane.Inject(workertest.Fault{Route: workertest.ListMemories, Status: http.StatusInternalServerError})
		w.sync(20 * time.Second)
		looks("tried", 4)
		w.tells(`the memory store "notes": it could not be synced: the control plane answers 500`)
		w.sync(21 * time.Second)
		looks("not again at once", 4)
		w.plane.Heal()
		w.put("a", "2")
		w.sync(25 * time.Second)
		looks("again", 5)
		w.both("/a", "2")
		w.tells()
	})
	for _, bad := range []memory.Config{{Interval: time.Second}, {Interval: -1}, {Deletions: "no"}} {
		if _, err := memory.New(bad); err == nil {
			t.Errorf("%+v is fine", bad)
		}
	}
}

// TestAtOnce: how many requests are under way at one time.
func TestAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "/a", "1")
		w.begin()
		w.plane.Inject(workertest.Fault{Route: workertest.CreateMemory, Delay: time.Second})
		w.plane.Inject(workertest.Fault{Route: workertest.GetMemory, Delay: time.Second})
		for i := range 50 {
			w.store.Put(fmt.Sprintf("/r%d", i), "r")
			w.put(fmt.Sprintf("l%d", i), "l")
		}
		w.sync(15 * time.Second)
		if posts, gets := w.way.most["POST"].Load(), w.way.most["GET"].Load(); posts != 32 || gets != 16 {
			t.Errorf("%d uploads and %d reads at once", posts, gets)
		}
		if n := len(w.files()); n != 101 || len(w.store.All()) != 101 {
			t.Errorf("%d files, %d memories", n, len(w.store.All()))
		}
	})
}

// TestDeletions: what is deleted here is deleted in the store late, in small
// numbers, and never because the folder has gone.
func TestDeletions(t *testing.T) {
	many := func(n int) (all []string) {
		for i := range n {
			all = append(all, fmt.Sprintf("/%03d", i), "x")
		}
		return all
	}
	t.Run("two looks, 30 s apart", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, many(3)...)
			w.begin()
			w.put("000", "")
			w.put("001", "")
			w.sync(40 * time.Second)
			w.sync(15 * time.Second)
			w.put("001", "x") // it was only away
			w.sync(14 * time.Second)
			if n := len(w.store.All()); n != 3 {
				t.Errorf("%d memories", n)
			}
			w.sync(16 * time.Second)
			w.both("/001", "x", "/002", "x")
			if r := w.plane.Requests(workertest.DeleteMemory); len(r) != 1 || !strings.Contains(r[0].Query, "expected_content_sha256=2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881") {
				t.Errorf("%+v", r)
			}
		})
	})
	t.Run("the last sync does not wait", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, many(3)...)
			w.begin()
			w.put("000", "")
			if err := w.end(worker.EndIdle); err != nil {
				t.Error(err)
			}
			w.both("/001", "x", "/002", "x")
		})
	})
	for n, most := range map[int]int{12: 8, 100: 25, 300: 50} {
		t.Run(fmt.Sprintf("of %d at most %d in one sync", n, most), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, many(n)...)
				w.begin()
				for i := range n - 1 {
					w.put(fmt.Sprintf("%03d", i), "")
				}
				w.sync(15 * time.Second)
				w.sync(31 * time.Second)
				if left := len(w.store.All()); left != n-most {
					t.Errorf("%d deleted", n-left)
				}
			})
		})
	}
	for mode, left := range map[memory.Deletions]int{memory.DeletionsLogOnly: 3, memory.DeletionsDisabled: 3, memory.DeletionsEnabled: 2} {
		t.Run(string(mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, many(3)...)
				w.cfg.Deletions = mode
				w.begin()
				w.put("000", "")
				w.sync(15 * time.Second)
				w.sync(31 * time.Second)
				if err := w.end(worker.EndIdle); err != nil {
					t.Error(err)
				}
				if n := len(w.store.All()); n != left {
					t.Errorf("%d are left", n)
				}
			})
		})
	}
	for name, wipe := range map[string]func(*world) error{
		"the folder is gone":  func(w *world) error { return os.RemoveAll(w.at) },
		"the folder is empty": func(w *world) error { return errors.Join(os.RemoveAll(w.at), os.Mkdir(w.at, 0o755)) },
		"only the mark is left": func(w *world) error {
			return errors.Join(os.Remove(filepath.Join(w.at, "000")), os.Remove(filepath.Join(w.at, "001")), os.Remove(filepath.Join(w.at, "002")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, many(3)...)
				w.begin()
				if err := wipe(w); err != nil {
					t.Fatal(err)
				}
				w.sync(31 * time.Second)
				w.tells("has been filled again")
				w.both(many(3)...)
				if err := w.end(worker.EndIdle); err != nil || w.asked(workertest.DeleteMemory) > 0 {
					t.Errorf("%v, %d deleted", err, w.asked(workertest.DeleteMemory))
				}
			})
		})
	}
	t.Run("a lone file is a deletion", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "/a", "1")
			w.begin()
			w.put("a", "")
			if err := w.end(worker.EndIdle); err != nil {
				t.Error(err)
			}
			w.both()
		})
	})
	t.Run("files of somebody's own without the mark", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, many(3)...)
			w.begin()
			if err := os.RemoveAll(w.at); err != nil {
				t.Fatal(err)
			}
			w.put("other", "y")
			w.sync(31 * time.Second)
			w.tells("has lost the file")
			w.put(mark, "version 1\nmemstore_other")
			w.sync(31 * time.Second)
			w.tells("has lost the file")
			if err := w.end(worker.EndIdle); err != nil {
				t.Error(err)
			}
			w.has("store", w.store.All(), many(3))
			w.has("folder", w.files(), []string{"/other", "y"})
		})
	})
	t.Run("changed in the store just before", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, many(3)...)
			w.begin()
			w.put("000", "")
			w.plane.Inject(workertest.Fault{Route: workertest.DeleteMemory, Status: http.StatusConflict, Times: 1})
			w.sync(15 * time.Second)
			w.sync(31 * time.Second)
			w.tells("it comes back")
			if n := len(w.store.All()); n != 3 {
				t.Errorf("%d memories", n)
			}
		})
	})
}
