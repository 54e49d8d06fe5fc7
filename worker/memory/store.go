package memory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
)

// Bounds of a store. Servers take 2,000 memories.
const (
	maxMemories = 10_000
	maxPages    = 1000
	fullPage    = 20  // memories of a page with their content; what servers give at most
	basicPage   = 100 // without
	maxTold     = 5   // lines that a session is told of a store at one time
	tries       = 3
	pause       = 300 * time.Millisecond // before the second try, doubling
)

// store is one memory store of a session and its folder. One sync uses it at a
// time; mu is for the requests of that sync.
type store struct {
	session  *session
	client   *client.Client
	log      *slog.Logger
	id       string
	label    string // for people
	path     string // of its folder, as a worker.Folder's
	readOnly bool

	folder  Folder
	missing map[string]time.Time // when a file was first seen to be gone
	saved   string               // the state on disk

	mu    sync.Mutex
	state state
	lines []string          // to be told
	told  map[string]string // by a name's SHA-256, that of what has been told of it, so as not to repeat it
}

// state is what a later worker has to know of a folder.
type state struct {
	// Boot is the kernel's boot id when this was written. What a later kernel
	// finds on the disk may be older than the rest of this.
	Boot string `json:"boot"`
	// Base is the SHA-256 of each memory when both sides had the same; nil when
	// that is not known.
	Base map[string]string `json:"base"`
	// Sent is what was sent of which it is not known whether it arrived.
	Sent map[string]string `json:"sent,omitempty"`
	// Refused is what the control plane has refused for its content.
	Refused map[string]string `json:"refused,omitempty"`
	// Untold is what there was to tell when nobody heard it any more.
	Untold []string `json:"untold,omitempty"`
}

func newStore(s *session, r api.MemoryStoreResource, at string, c *client.Client) *store {
	return &store{
		session: s, client: c.WithRetries(0), log: s.log.With("store", r.MemoryStoreID), id: r.MemoryStoreID, label: label(r), path: at,
		readOnly: r.Access == api.MemoryReadOnly, missing: map[string]time.Time{}, told: map[string]string{},
	}
}

// attach makes the folder the store's: a new one is filled, one that is there is
// brought in step.
func (st *store) attach(ctx context.Context, h Holder) error {
	var err error
	if st.folder, err = h.Folder(st.path); err != nil {
		return fmt.Errorf("the folder %s: %w", st.path, err)
	}
	before := st.load()
	l, err := st.look(ctx)
	switch {
	case err != nil:
		return err
	case l.marked:
		return st.sync(ctx, false)
	case l.empty():
		return st.download(ctx)
	case before:
		st.distrust()
		return nil
	}
	return problem("there is something at " + strconv.QuoteToASCII(st.path) + " already")
}

// distrust tells that the folder is left as it is.
func (st *store) distrust() {
	st.tell("", "its folder "+st.path+" has lost the file "+markName+" and is not in step with the store any more; remove the folder to get it anew")
}

// download fills an empty folder with what the store has.
func (st *store) download(ctx context.Context) error {
	st.state = state{Untold: st.state.Untold}
	clear(st.missing)
	if err := st.folder.Write(markName, mark(st.id)); err != nil {
		return fmt.Errorf("write the mark: %w", err)
	}
	base := map[string]string{}
	err := st.list(ctx, client.MemoryFull, func(name string, m api.Memory) {
		if st.write(name, m) {
			base[name] = m.ContentSHA256
		}
	})
	if err != nil {
		return err
	}
	st.state.Base = base
	st.log.Info("memories downloaded", "count", len(base), "at", st.path)
	return nil
}

// rebuild fills a folder anew of which the session has left nothing.
func (st *store) rebuild(ctx context.Context) error {
	st.log.Warn("the folder is empty; downloading the store again", "at", st.path)
	st.tell("", "its folder "+st.path+" was empty and has been filled again; nothing was deleted in the store")
	return st.download(ctx)
}

// list goes through the store's memories that can be files here.
func (st *store) list(ctx context.Context, view client.MemoryView, do func(name string, m api.Memory)) error {
	q := client.MemoryQuery{PageQuery: client.PageQuery{Limit: basicPage}, View: view}
	if view == client.MemoryFull {
		q.Limit = fullPage
	}
	n := 0
	for range maxPages {
		page, err := try(ctx, func() (*api.Page[api.Memory], error) { return st.client.Memories(ctx, st.id, q) })
		if err != nil {
			return err
		}
		for _, m := range page.Data {
			if m.Type != "memory" {
				continue
			}
			if n++; n > maxMemories {
				return problem(fmt.Sprintf("it has more than %d memories", maxMemories))
			}
			if !plain(m.ID) || !isSum(m.ContentSHA256) {
				return problem("the control plane lists a memory whose id or SHA-256 is none")
			}
			name, rooted := strings.CutPrefix(m.Path, "/")
			if why := unfit(name); why != "" || !rooted {
				st.refuse(name, m.ContentSHA256, "this memory cannot be a file here: "+why)
				continue
			}
			if view == client.MemoryBasic { // whatever came along
				m = api.Memory{ID: m.ID, Path: m.Path, ContentSHA256: m.ContentSHA256}
			}
			do(name, m)
		}
		if page.NextPage == nil || *page.NextPage == "" {
			return nil
		}
		q.Page = *page.NextPage
	}
	return problem(fmt.Sprintf("its list has more than %d pages", maxPages))
}

// write puts a memory into the folder; false when that cannot be.
func (st *store) write(name string, m api.Memory) bool {
	content := ""
	if m.Content != nil {
		content = *m.Content
	}
	switch {
	case len(content) > maxFile:
		st.refuse(name, m.ContentSHA256, fmt.Sprintf("this memory is larger than %d bytes", maxFile))
		return false
	case sum([]byte(content)) != m.ContentSHA256:
		st.refuse(name, m.ContentSHA256, "this memory did not come with the content that the store says it has")
		return false
	}
	if err := st.folder.Write(name, []byte(content)); err != nil {
		st.log.Warn("a memory could not be written", "path", name, "error", err)
		st.refuse(name, m.ContentSHA256, "this memory could not be written: something else is in its place, or there is no room")
		return false
	}
	st.count(Downloaded)
	return true
}

// try asks until it succeeds, fails for good or has been tried enough. What is
// in conflict is not asked again: the answer would be the same.
func try[T any](ctx context.Context, ask func() (T, error)) (T, error) {
	wait := pause
	for i := 1; ; i++ {
		v, err := ask()
		e, answered := errors.AsType[*client.Error](err)
		if err == nil || i == tries || ctx.Err() != nil || answered && (!e.Temporary() || e.Status == 409) {
			return v, err
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
		wait *= 2
	}
}

func (st *store) count(c Change) { st.session.cfg.Counters.Changed(c) }

// refuse tells, once for each content, that a file or a memory is left out.
func (st *store) refuse(name, content, why string) {
	st.mu.Lock()
	if len(st.told) > 2*maxEntries { // made up to fill our memory
		clear(st.told)
	}
	key, what := sum([]byte(name)), sum([]byte(content+why))
	again := st.told[key] == what
	st.told[key] = what
	st.mu.Unlock()
	if !again {
		st.count(Refused)
		st.tell(name, why)
	}
}

// tell has the session told something of the store or of a file in it.
func (st *store) tell(name, text string) {
	line := "the memory store " + st.label + ": "
	if name != "" {
		line += strconv.QuoteToASCII(cut(name, 200)) + ": "
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.lines = append(st.lines, line+text)
}

// news is what there is to tell since the last time.
func (st *store) news() []string {
	st.mu.Lock()
	defer st.mu.Unlock()
	all := append(st.state.Untold, st.lines...)
	st.lines, st.state.Untold = nil, nil
	if more := len(all) - maxTold; more > 0 {
		all = append(all[:maxTold:maxTold], fmt.Sprintf("the memory store %s: %d more of the kind", st.label, more))
	}
	return all
}

// file is where the state is kept, "" for nowhere.
func (st *store) file() string {
	if st.session.cfg.State == nil {
		return ""
	}
	dir := st.session.cfg.State(st.session.id)
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, "memory-"+sum([]byte(st.id + "\x00" + st.path))[:16]+".json")
}

// load reads what an earlier worker has kept, unless this one knows better, and
// says whether there is anything. What was in step is not known any more when
// the host has been started anew: files that were written before may be lost.
func (st *store) load() bool {
	if st.state.Base != nil {
		return true
	}
	at := st.file()
	if at == "" {
		return false
	}
	b, err := os.ReadFile(at)
	if errors.Is(err, os.ErrNotExist) {
		return false
	}
	if err == nil {
		err = json.Unmarshal(b, &st.state)
	}
	if err != nil {
		st.log.Warn("what was last in step cannot be read; what differs is taken from the store", "error", err)
		st.state = state{}
	}
	if st.state.Boot == "" || st.state.Boot != bootID() {
		st.state.Base, st.state.Sent = nil, nil
	}
	st.saved = string(b)
	return true
}

// bootID tells one run of the kernel from another; "" where it cannot be told.
var bootID = sync.OnceValue(func() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
})

// save keeps the state. A failure costs nothing but what load then does not
// know.
func (st *store) save() {
	at := st.file()
	if at == "" || st.state.Base == nil {
		return
	}
	st.state.Boot = bootID()
	b, err := json.Marshal(st.state)
	if err != nil || string(b) == st.saved {
		return
	}
	if err = os.MkdirAll(filepath.Dir(at), 0o700); err == nil {
		if err = os.WriteFile(at+".new", b, 0o600); err == nil {
			err = os.Rename(at+".new", at)
		}
	}
	if err != nil {
		st.log.Warn("what is in step now cannot be kept for a later worker", "error", err)
		return
	}
	st.saved = string(b)
}
