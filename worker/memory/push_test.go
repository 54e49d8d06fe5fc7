package memory_test

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/memory"
	"github.com/berthdev/berth/worker/workertest"
)

// TestLostAnswers: what arrived without an answer is our own, not somebody
// else's.
func TestLostAnswers(t *testing.T) {
	var many []string
	for i := range 150 {
		many = append(many, fmt.Sprintf("/d/%03d", i), "one of many")
	}
	for _, c := range []struct {
		name   string
		before []string
		file   string
		route  workertest.Route
		times  int
	}{
		{"of an update", []string{"/a", "1"}, "a", workertest.UpdateMemory, 1},
		{"of every try of an update", []string{"/a", "1"}, "a", workertest.UpdateMemory, 3},
		{"of a new memory", nil, "a", workertest.CreateMemory, 1},
		{"of every try of a new memory", nil, "a", workertest.CreateMemory, 3},
		{"of a new memory in a full folder", many, "d/z", workertest.CreateMemory, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, c.before...)
				w.begin()
				w.put(c.file, "2")
				w.plane.Inject(workertest.Fault{Route: c.route, Lost: true, Times: c.times})
				w.sync(15 * time.Second)
				w.told = nil // all that is known by then is that it failed
				w.put(c.file, "3")
				w.sync(40 * time.Second)
				w.tells()
				var others []string
				if c.route == workertest.CreateMemory {
					others = c.before
				}
				w.both(append(slices.Clone(others), "/"+c.file, "3")...)
				if n := w.counts[memory.Conflict]; n > 0 {
					t.Errorf("%d conflicts", n)
				}
			})
		})
	}
	t.Run("of an upload somebody else has changed since", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "/a", "1")
			w.begin()
			w.put("a", "2")
			w.plane.Inject(workertest.Fault{Route: workertest.UpdateMemory, Reset: true, Times: 3})
			w.sync(15 * time.Second)
			w.store.Put("/a", "theirs")
			w.told = nil
			w.sync(40 * time.Second)
			w.tells("replaces what was here")
			w.both("/a", "theirs")
		})
	})
}

// TestPreconditions: an upload that is overtaken is refused, and the store's
// version comes.
func TestPreconditions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "/a", "1", "/gone", "1")
		c := w.claim()
		if err := w.open(); err != nil {
			t.Fatal(err)
		}
		w.put("a", "mine")
		w.put("new", "mine")
		w.put("gone", "mine")
		w.plane.Inject(workertest.Fault{Route: workertest.UpdateMemory, Delay: time.Second})
		w.plane.Inject(workertest.Fault{Route: workertest.CreateMemory, Delay: time.Second, Times: 1})
		go func() { // between the list and the uploads
			time.Sleep(15*time.Second + 500*time.Millisecond)
			w.store.Put("/a", "theirs")
			w.store.Put("/new", "theirs")
			w.store.Drop("/gone")
		}()
		w.sync(15 * time.Second)
		slices.Sort(w.told)
		w.tells(`"a": was changed in the store just now`, `"new": was changed in the store just now`)
		w.plane.Heal()
		w.sync(15 * time.Second)
		w.told = nil
		w.both("/a", "theirs", "/new", "theirs", "/gone", "mine")
		if _, err := c.WithRetries(0).CreateMemory(t.Context(), w.store.ID, api.CreateMemory{Path: "/a", Content: "x"}); client.StatusOf(err) != http.StatusConflict {
			t.Errorf("a taken path: %v", err)
		}
	})
}

// TestRefused: a file that is no memory is left alone, told once, and taken
// when it has become one.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "/a", "1")
		w.begin()
		w.put("binary", "a\xffb")
		w.put("large", strings.Repeat("x", 102401))
		w.put("b", "2")
		w.sync(15 * time.Second)
		slices.Sort(w.told)
		w.tells(`"binary": it is no UTF-8 text`, `"large": the control plane refuses it (the control plane answers 400)`)
		n := w.asked(workertest.CreateMemory)
		w.sync(15 * time.Second)
		w.tells()
		if more := w.asked(workertest.CreateMemory) - n; more > 0 {
			t.Errorf("tried %d times again", more)
		}
		w.put("binary", "text")
		w.put("large", "less")
		w.put("a", "\xff") // a memory that becomes none stays as it was
		w.sync(15 * time.Second)
		w.tells(`"a": it is no UTF-8 text`)
		if err := w.end(worker.EndIdle); err != nil {
			t.Error(err)
		}
		w.has("store", w.store.All(), []string{"/a", "1", "/b", "2", "/binary", "text", "/large", "less"})
	})
}

// TestEnd: what is done at the end depends on what end it is.
func TestEnd(t *testing.T) {
	for _, c := range []struct {
		end   worker.End
		store []string
	}{
		{worker.EndIdle, []string{"/a", "2", "/new", "n", "/theirs", "t"}},
		{worker.EndRoom, []string{"/a", "2", "/new", "n", "/theirs", "t"}},
		// A call may have been cut in two: no deletion.
		{worker.EndDrained, []string{"/a", "2", "/new", "n", "/gone", "g", "/theirs", "t"}},
		{worker.EndStopping, []string{"/a", "2", "/new", "n", "/gone", "g", "/theirs", "t"}},
		{worker.EndTerminated, []string{"/a", "2", "/new", "n", "/gone", "g", "/theirs", "t"}},
		// And what the store has is not read.
		{worker.EndFailed, []string{"/a", "2", "/new", "n", "/gone", "g", "/theirs", "t"}},
		{worker.EndStopped, []string{"/a", "2", "/new", "n", "/gone", "g", "/theirs", "t"}},
		{worker.EndLost, []string{"/a", "1", "/gone", "g", "/theirs", "t"}},
	} {
		t.Run(string(c.end), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "/a", "1", "/gone", "g")
				w.begin()
				w.put("a", "2")
				w.put("new", "n")
				w.put("gone", "")
				w.store.Put("/theirs", "t")
				if err := w.end(c.end); err != nil {
					t.Error(err)
				}
				w.has("store", w.store.All(), c.store)
				_, pulled := w.files()["/theirs"]
				if hard := slices.Contains([]worker.End{worker.EndFailed, worker.EndStopped, worker.EndLost}, c.end); pulled == hard {
					t.Errorf("pulled: %v", pulled)
				}
			})
		})
	}
	t.Run("is bounded, and the flush has a time of its own", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "/a", "1")
			w.begin()
			w.put("a", "2")
			w.plane.Inject(workertest.Fault{Route: workertest.ListMemories, Delay: time.Hour, Times: 1})
			began := time.Now()
			err := w.end(worker.EndIdle)
			if took := time.Since(began); err == nil || took != 30*time.Second {
				t.Errorf("ended after %v: %v", took, err)
			}
			w.both("/a", "2")
			w.plane.Inject(workertest.Fault{Route: workertest.ListMemories, Delay: time.Hour})
			w.put("a", "3")
			began = time.Now()
			err = w.end(worker.EndIdle)
			if took := time.Since(began); err == nil || took != 60*time.Second {
				t.Errorf("ended after %v: %v", took, err)
			}
		})
	})
}

// TestNextWorker: whoever goes on with the files knows what was in step, and
// what the session has not been told.
func TestNextWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "/a", "1", "/b", "1", "/c", "1", "/d", "1")
		w.begin()
		lists := w.asked(workertest.ListMemories)
		w.put("a", "edited")
		w.put("b", "edited")
		w.put("c", "") // the worker is killed here
		w.store.Put("/b", "theirs")
		w.store.Drop("/d")
		w.begin()
		if r := w.plane.Requests(workertest.ListMemories)[lists]; !strings.Contains(r.Query, "view=basic") {
			t.Errorf("downloaded again: %s", r.Query)
		}
		w.sync(15 * time.Second)
		w.tells(`"b": was changed here and in the store`)
		w.has("store", w.store.All(), []string{"/a", "edited", "/b", "theirs", "/c", "1"})
		w.sync(31 * time.Second)
		w.both("/a", "edited", "/b", "theirs")

		w.put("b", "mine")
		w.store.Put("/b", "theirs again")
		if err := w.end(worker.EndIdle); err != nil {
			t.Error(err)
		}
		w.tells()
		w.begin()
		w.sync(15 * time.Second)
		w.tells(`"b": was changed here and in the store`)
		w.both("/a", "edited", "/b", "theirs again")
	})
	t.Run("that does not know takes what differs from the store", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "/a", "1", "/c", "1")
			w.cfg.State = nil
			w.begin()
			w.put("a", "edited")
			w.put("c", "")
			w.put("new", "n")
			w.begin()
			w.both("/a", "1", "/c", "1", "/new", "n")
		})
	})
	t.Run("that finds an empty folder downloads", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "/a", "1", "/c", "1")
			w.begin()
			if err := os.RemoveAll(w.at); err != nil {
				t.Fatal(err)
			}
			w.begin()
			w.both("/a", "1", "/c", "1")
		})
	})
	for name, boot := range map[string]string{"after a loss of power takes what differs from the store": "another", "that does not know the boot takes it too": ""} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "/a", "1", "/b", "1", "/c", "1")
				w.begin()
				w.put("a", "2")
				w.put("new", "2")
				w.sync(15 * time.Second)
				w.rewrite(func(kept []byte) []byte {
					return regexp.MustCompile(`"boot":"[^"]+"`).ReplaceAll(kept, []byte(`"boot":"`+boot+`"`))
				})
				w.put("a", "1") // what never reached the disk
				w.put("new", "")
				w.begin()
				w.tells(`"a": was changed here and in the store; the store's version replaces what was here`)
				w.sync(31 * time.Second)
				if err := w.end(worker.EndIdle); err != nil {
					t.Error(err)
				}
				w.both("/a", "2", "/b", "1", "/c", "1", "/new", "2")
			})
		})
	}
	t.Run("cannot read what was kept", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "/a", "1")
			w.begin()
			w.rewrite(func([]byte) []byte { return []byte("{") })
			w.begin()
			w.both("/a", "1")
		})
	})
}

// TestPrepare: what is wrong with a session's stores is found before anything
// is asked.
func TestPrepare(t *testing.T) {
	res := func(kv ...string) string {
		s := `{"type":"memory_store"`
		for i := 0; i < len(kv); i += 2 {
			s += fmt.Sprintf(",%q:%q", kv[i], kv[i+1])
		}
		return s + "}"
	}
	p, err := memory.New(memory.Config{})
	if err != nil {
		t.Fatal(err)
	}
	apart, err := memory.New(memory.Config{Apart: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		p         *memory.Preparer
		resources []string
		noToken   bool
		want      string // paths of the folders, or the error
	}{
		{name: "no stores", resources: []string{`{"type":"file"}`}, noToken: true},
		{name: "no token", resources: []string{res("memory_store_id", "m")}, noToken: true, want: "without a sessions token"},
		{name: "a mount path", resources: []string{res("memory_store_id", "m", "mount_path", "/mnt/memory/a")}, want: "/mnt/memory/a"},
		{name: "a name", resources: []string{res("memory_store_id", "m", "name", "My notes")}, want: "memory/My notes"},
		{name: "a name that is none of a directory", resources: []string{res("memory_store_id", "m", "name", "../x")}, want: "memory/m"},
		{name: "read-only", resources: []string{res("memory_store_id", "m", "access", "read_only")}, want: "/mnt/memory/m"},
		{name: "a shared working directory", p: apart, resources: []string{res("memory_store_id", "m", "name", "a")}, want: "/mnt/memory/a"},
		{name: "no id", resources: []string{res("name", "a")}, want: "does not understand"},
		{name: "an id that is none", resources: []string{res("memory_store_id", "../m")}, want: "can name a directory"},
		{name: "a path with dots", resources: []string{res("memory_store_id", "m", "mount_path", "/mnt/memory/../../etc")}, want: "no clean absolute path"},
		{name: "a relative path", resources: []string{res("memory_store_id", "m", "mount_path", "x")}, want: "no clean absolute path"},
		{name: "the root", resources: []string{res("memory_store_id", "m", "mount_path", "/")}, want: "no clean absolute path"},
		{name: "one in another", resources: []string{res("memory_store_id", "m", "mount_path", "/mnt/a"), res("memory_store_id", "n", "mount_path", "/mnt/a/b")}, want: "in one another"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := api.Session{}
			for _, r := range c.resources {
				s.Resources = append(s.Resources, []byte(r))
			}
			if c.p == nil {
				c.p = p
			}
			got, err := c.p.Prepare(t.Context(), worker.PrepareInput{Session: s, Token: !c.noToken, Log: newWorld(t).log(), Client: client.New("http://x", client.Bearer("x"), nil)})
			var paths []string
			if err == nil {
				for _, f := range got.Folders {
					paths = append(paths, f.Path)
				}
			}
			if err != nil && (c.want == "" || !strings.Contains(err.Error(), c.want)) || err == nil && strings.Join(paths, " ") != c.want {
				t.Errorf("%q, %v", paths, err)
			}
		})
	}
}

// TestFreshEdit: what the session writes while a sync is under way is not lost
// without a word.
func TestFreshEdit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "/a", "1", "/b", "1")
		w.begin()
		w.store.Put("/a", "theirs")
		w.plane.Inject(workertest.Fault{Route: workertest.GetMemory, Delay: time.Second})
		go func() {
			time.Sleep(15*time.Second + 500*time.Millisecond)
			w.put("a", "fresh")
		}()
		w.sync(15 * time.Second)
		w.has("folder", w.files(), []string{"/a", "fresh", "/b", "1"})
		w.tells()
		w.sync(15 * time.Second)
		w.tells(`"a": was changed here and in the store`)
		w.both("/a", "theirs", "/b", "1")
	})
}
