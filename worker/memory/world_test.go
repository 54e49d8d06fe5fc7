package memory_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/internal/sandbox/tree"
	"github.com/berthdev/berth/toolset"
	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/memory"
	"github.com/berthdev/berth/worker/workertest"
)

// direct carries requests to a handler of this process.
type direct struct {
	http.Handler
	busy, most map[string]*atomic.Int32 // requests under way, by method
	mu         sync.Mutex
}

func (d *direct) RoundTrip(r *http.Request) (res *http.Response, err error) {
	d.mu.Lock()
	if d.busy[r.Method] == nil {
		d.busy[r.Method], d.most[r.Method] = &atomic.Int32{}, &atomic.Int32{}
	}
	busy, most := d.busy[r.Method], d.most[r.Method]
	d.mu.Unlock()
	for n := busy.Add(1); ; {
		if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
			break
		}
	}
	defer busy.Add(-1)
	defer func() {
		if recover() != nil {
			res, err = nil, errors.New("the connection broke")
		}
	}()
	rec := httptest.NewRecorder()
	in := r.Clone(r.Context())
	if in.Body == nil {
		in.Body = http.NoBody
	}
	d.ServeHTTP(rec, in)
	if r.Context().Err() != nil {
		return nil, r.Context().Err()
	}
	return rec.Result(), nil
}

// world is a session with one store, and its folder.
type world struct {
	t      *testing.T
	plane  *workertest.Plane
	store  *workertest.MemoryStore
	way    *direct
	root   string // of the session's tree
	at     string // of the store's folder
	access api.MemoryAccess
	cfg    memory.Config
	client *client.Client
	got    *worker.Prepared
	told   []string
	counts map[memory.Change]int
	mu     sync.Mutex
}

func newWorld(t *testing.T, memories ...string) *world {
	w := &world{t: t, plane: workertest.Offline(), root: t.TempDir(), access: api.MemoryReadWrite, counts: map[memory.Change]int{}}
	w.at = filepath.Join(w.root, "mnt/memory/notes")
	w.store = w.plane.MemoryStore("notes")
	for i := 0; i < len(memories); i += 2 {
		w.store.Put(memories[i], memories[i+1])
	}
	state := t.TempDir()
	w.cfg = memory.Config{State: func(string) string { return state }, Counters: w}
	return w
}

func (w *world) Synced(bool, time.Duration) {}

func (w *world) Changed(c memory.Change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[c]++
}

func (w *world) warn(text string) { w.told = append(w.told, text) }

// box is a sandbox of which only the files are there.
type box struct {
	toolset.Host
	files *tree.Tree
}

func (b box) Close(context.Context, bool) error { return b.files.Close() }

func (b box) Folder(at string) (memory.Folder, error) { return b.files.Folder(at) }

// claim takes the session's item and gives a client with its token.
func (w *world) claim() *client.Client {
	w.t.Helper()
	w.plane.Resources(w.store.Resource(w.access))
	w.plane.Session()
	w.way = &direct{Handler: w.plane, busy: map[string]*atomic.Int32{}, most: map[string]*atomic.Int32{}}
	c := client.New("http://plane", client.Bearer(workertest.EnvironmentKey), &http.Client{Transport: w.way})
	work, err := c.Poll(w.t.Context(), workertest.EnvironmentID, client.Poll{})
	if err != nil || work == nil || work.Secret == nil {
		w.t.Fatalf("no item: %v", err)
	}
	secret, err := worker.DecodeSecret(*work.Secret)
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := c.Session(w.t.Context(), work.Data.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	w.client = c.WithCredential(client.Bearer(secret.SessionsToken))
	p, err := memory.New(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.got, err = p.Prepare(w.t.Context(), worker.PrepareInput{Session: *s, Client: w.client, Token: true, Warn: w.warn, Log: w.log()})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.client
}

func (w *world) log() *slog.Logger {
	if os.Getenv("BERTH_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}

// open opens the session's sandbox.
func (w *world) open() error {
	w.t.Helper()
	files, err := tree.Open(tree.Config{Root: w.root, UID: -1, GID: -1})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { files.Close() })
	return w.got.Opened(w.t.Context(), box{files: files})
}

// begin claims and opens.
func (w *world) begin() {
	w.t.Helper()
	w.claim()
	if err := w.open(); err != nil {
		w.t.Fatal(err)
	}
}

// sync lets a call end after a while.
func (w *world) sync(after time.Duration) {
	time.Sleep(after)
	w.got.After(w.t.Context())
}

func (w *world) end(why worker.End) error { return w.got.Finish(w.t.Context(), why) }

// put writes a file of the session's; "" removes it.
func (w *world) put(name, text string) {
	w.t.Helper()
	at := filepath.Join(w.at, name)
	err := os.MkdirAll(filepath.Dir(at), 0o755)
	if text == "" {
		err = os.Remove(at)
	} else if err == nil {
		err = os.WriteFile(at, []byte(text), 0o644)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// rewrite changes what was kept of the folder for a later worker.
func (w *world) rewrite(change func(kept []byte) []byte) {
	w.t.Helper()
	at, err := filepath.Glob(filepath.Join(w.cfg.State(""), "memory-*.json"))
	if err != nil || len(at) != 1 {
		w.t.Fatalf("kept %v, %v", at, err)
	}
	kept, err := os.ReadFile(at[0])
	if err == nil {
		err = os.WriteFile(at[0], change(kept), 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// files are what is in the folder, the mark left out.
func (w *world) files() map[string]string {
	w.t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(w.at, func(at string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || e.Name() == mark {
			return err
		}
		b, err := os.ReadFile(at)
		all["/"+strings.TrimPrefix(at, w.at+"/")] = string(b)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Fatal(err)
	}
	return all
}

const mark = ".anthropic-memory-store"

// both wants the same in the store and in the folder: name, text, ...
func (w *world) both(want ...string) {
	w.t.Helper()
	w.has("store", w.store.All(), want)
	w.has("folder", w.files(), want)
}

func (w *world) has(where string, got map[string]string, want []string) {
	w.t.Helper()
	same := len(got) == len(want)/2
	for i := 0; i < len(want); i += 2 {
		same = same && got[want[i]] == want[i+1]
	}
	if !same {
		w.t.Errorf("the %s has %q, not %q", where, got, want)
	}
}

// tells wants one warning with each of the texts, and no other.
func (w *world) tells(want ...string) {
	w.t.Helper()
	same := len(want) == len(w.told)
	for i := range want {
		same = same && strings.Contains(w.told[i], want[i])
	}
	if !same {
		w.t.Errorf("told %q, not %q", w.told, want)
	}
	w.told = nil
}

// asked is how often a route was called since the last time.
func (w *world) asked(r workertest.Route) int { return len(w.plane.Requests(r)) }
