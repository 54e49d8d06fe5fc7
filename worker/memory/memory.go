// Package memory keeps the memory stores of sessions in step with directories
// that the sessions' tools read and write: downloaded before the first call,
// compared after calls and at the end. What both sides have changed is the
// store's; the session is told.
package memory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/toolset"
	"github.com/berthdev/berth/worker"
)

// Deletions says what becomes of memories whose files the session has deleted.
type Deletions string

const (
	DeletionsEnabled  Deletions = "enabled"  // they are deleted in the store
	DeletionsLogOnly  Deletions = "log-only" // the log says which would be
	DeletionsDisabled Deletions = "disabled" // they stay
)

// Bounds of Config.Interval.
const (
	DefaultInterval = 15 * time.Second
	MinInterval     = 5 * time.Second
)

// Config says how stores are kept in step. Zero fields take the defaults named
// here.
type Config struct {
	// Interval is how long after a sync the next one may follow a call; 0 is
	// DefaultInterval, less than MinInterval is an error.
	Interval time.Duration
	// Deletions is DeletionsEnabled when "".
	Deletions Deletions
	// Apart says that sessions share their working directory: stores without a
	// mount_path go below /mnt/memory instead.
	Apart bool
	// State gives a directory of this host that lives as long as the session's
	// files and that its tools cannot reach: what was last in step is kept
	// there, so that whoever goes on with the files knows what was changed
	// meanwhile. It is made when it is missing. nil keeps nothing: then what
	// differs after a crash is the store's.
	State func(session string) string
	// Counters is told what happens; nil discards it.
	Counters Counters
}

// Counters is told what happens, as it happens. Safe for concurrent use;
// methods return at once.
type Counters interface {
	// Synced counts a look at one store, from its list on.
	Synced(ok bool, took time.Duration)
	// Changed counts memories.
	Changed(c Change)
}

// Change is what was done with a memory.
type Change string

const (
	Downloaded Change = "downloaded" // written here
	Uploaded   Change = "uploaded"   // made or changed in the store
	Deleted    Change = "deleted"    // in the store
	Removed    Change = "removed"    // here
	Conflict   Change = "conflict"   // changed on both sides: the session's change is lost
	Refused    Change = "refused"    // a file that cannot be a memory
	Failed     Change = "failed"     // to be tried again
)

// Changes are all that there are.
var Changes = []Change{Downloaded, Uploaded, Deleted, Removed, Conflict, Refused, Failed}

// Holder is a worker.Sandbox whose session's directories can be reached.
type Holder interface {
	// Folder gives a directory, made if it is missing; the path is that of a
	// worker.Folder. No link is followed on the way.
	Folder(path string) (Folder, error)
}

// Folder is a directory of a session in the hands of whoever looks after the
// session: it may write also where the tools must not. Names are relative, with
// slashes. No link is ever followed, and nothing but regular files is opened,
// whatever the session puts there meanwhile. Safe for concurrent use.
type Folder interface {
	// Walk visits what is below it as toolset.Files does.
	Walk(ctx context.Context, fn func(name string, e toolset.Entry) error) error
	Open(name string) (toolset.File, error)
	// Write puts a file there in one step, under this name only. Missing
	// directories are made.
	Write(name string, data []byte) error
	// Remove removes a file, and the directories it was the last one in.
	Remove(name string) error
}

// Preparer brings sessions their memory stores. Safe for concurrent use. It
// fulfils worker.Preparer.
type Preparer struct{ cfg Config }

// New makes a Preparer.
func New(cfg Config) (*Preparer, error) {
	switch {
	case cfg.Interval == 0:
		cfg.Interval = DefaultInterval
	case cfg.Interval < MinInterval:
		return nil, fmt.Errorf("memory: Config.Interval is %v; it is %v at least", cfg.Interval, MinInterval)
	}
	switch cfg.Deletions {
	case "":
		cfg.Deletions = DeletionsEnabled
	case DeletionsEnabled, DeletionsLogOnly, DeletionsDisabled:
	default:
		return nil, fmt.Errorf("memory: Config.Deletions is %q; it is enabled, log-only or disabled", cfg.Deletions)
	}
	if cfg.Counters == nil {
		cfg.Counters = noCounters{}
	}
	return &Preparer{cfg}, nil
}

type noCounters struct{}

func (noCounters) Synced(bool, time.Duration) {}
func (noCounters) Changed(Change)             {}

// maxStores bounds the stores of one session.
const maxStores = 32

// Prepare sees to it that the session's stores are downloaded when its sandbox
// opens, and kept in step until it is let go.
func (p *Preparer) Prepare(_ context.Context, in worker.PrepareInput) (*worker.Prepared, error) {
	resources, err := resourcesOf(in.Session.Resources)
	if err != nil {
		return nil, &worker.OpenError{Text: err.Error(), Final: true}
	}
	if len(resources) == 0 {
		return &worker.Prepared{}, nil
	}
	if !in.Token {
		return nil, &worker.OpenError{Final: true, Text: "the session has memory stores, but its work item came without a sessions token, and nothing else opens them. " +
			"Whoever runs the control plane has to give one, or the worker's operator has to switch memory stores off."}
	}
	s := &session{cfg: p.cfg, id: in.Session.ID, log: in.Log, warn: in.Warn, wait: p.cfg.Interval}
	out := &worker.Prepared{Opened: s.opened, After: s.after, Finish: s.finish}
	for _, r := range resources {
		at, err := p.place(r)
		if err != nil {
			return nil, &worker.OpenError{Text: "the memory store " + label(r) + " cannot be brought: " + err.Error(), Final: true}
		}
		for _, other := range out.Folders {
			if other.Path == at || strings.HasPrefix(other.Path, at+"/") || strings.HasPrefix(at, other.Path+"/") {
				return nil, &worker.OpenError{Text: "two memory stores would lie in one another: " + strconv.QuoteToASCII(at) + " and " + strconv.QuoteToASCII(other.Path), Final: true}
			}
		}
		if r.MountPath == "" {
			out.Warnings = append(out.Warnings, "the memory store "+label(r)+" is at "+at)
		}
		readOnly := r.Access == api.MemoryReadOnly
		out.Folders = append(out.Folders, worker.Folder{Path: at, ReadOnly: readOnly})
		s.stores = append(s.stores, newStore(s, r, at, in.Client))
	}
	return out, nil
}

// resourcesOf are the memory stores among a session's resources.
func resourcesOf(all []json.RawMessage) ([]api.MemoryStoreResource, error) {
	var stores []api.MemoryStoreResource
	for _, raw := range all {
		var kind struct {
			Type string `json:"type"`
		}
		if json.Unmarshal(raw, &kind) != nil || kind.Type != "memory_store" {
			continue
		}
		var r api.MemoryStoreResource
		if json.Unmarshal(raw, &r) != nil || r.MemoryStoreID == "" {
			return nil, errors.New("one of the session's memory stores is described in a way that this worker does not understand")
		}
		if stores = append(stores, r); len(stores) > maxStores {
			return nil, fmt.Errorf("the session has more than %d memory stores", maxStores)
		}
	}
	return stores, nil
}

// label names a store to people.
func label(r api.MemoryStoreResource) string {
	name := r.Name
	if name == "" {
		name = r.MemoryStoreID
	}
	return strconv.QuoteToASCII(cut(name, 100))
}

func cut(s string, most int) string { return s[:min(len(s), most)] }

// place is where a store's folder is.
func (p *Preparer) place(r api.MemoryStoreResource) (string, error) {
	if at := r.MountPath; at != "" {
		if !path.IsAbs(at) || path.Clean(at) != at || at == "/" || len(at) > maxPath || !printable(at) {
			return "", fmt.Errorf("its mount_path %s is no clean absolute path", strconv.QuoteToASCII(cut(at, 200)))
		}
		return at, nil
	}
	name := r.Name
	if !plain(name) {
		name = r.MemoryStoreID
	}
	if !plain(name) {
		return "", errors.New("neither its name nor its id can name a directory")
	}
	// What the tools must not write needs a place that is not theirs.
	if p.cfg.Apart || r.Access == api.MemoryReadOnly {
		return "/mnt/memory/" + name, nil
	}
	return "memory/" + name, nil
}

// plain says whether a name is good for a directory.
func plain(name string) bool {
	return name != "" && len(name) <= maxName && name[0] != '.' && !strings.Contains(name, "/") && printable(name)
}

// session is a session's stores, from Prepare to Finish.
type session struct {
	cfg  Config
	id   string
	log  *slog.Logger
	warn func(string)

	mu        sync.Mutex // one sync at a time
	stores    []*store
	open      bool
	finishing bool
	last      time.Time     // end of the last sync
	wait      time.Duration // until the next one is due
}

// Bounds of what a session waits for.
const (
	openLimit  = 2 * time.Minute  // a first download
	syncLimit  = 30 * time.Second // a sync after a call
	finalLimit = 30 * time.Second // the last sync, and again the flush
	maxWait    = 5 * time.Minute  // between syncs while they fail
)

// opened downloads the stores into the session's folders, or goes on with what
// is there.
func (s *session) opened(ctx context.Context, sb worker.Sandbox) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	holder, ok := sb.(Holder)
	if !ok {
		return &worker.OpenError{Text: "the session has memory stores, which sandboxes of this kind cannot have", Final: true}
	}
	limited, cancel := context.WithTimeoutCause(ctx, openLimit, problem("it could not be had in time"))
	defer cancel()
	errs := s.each(func(st *store) error { return st.attach(limited, holder) })
	s.last, s.wait = time.Now(), s.cfg.Interval
	for i, err := range errs {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil:
		default:
			s.log.Error("a memory store could not be brought", "store", s.stores[i].id, "at", s.stores[i].path, "error", err)
			return &worker.OpenError{Text: "the memory store " + s.stores[i].label + " could not be brought: " + reason(err), Final: final(err)}
		}
	}
	s.open = true
	s.speak()
	return nil
}

// after syncs the stores when it is time.
func (s *session) after(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open || time.Since(s.last) < s.wait {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, syncLimit)
	defer cancel()
	s.wait = s.cfg.Interval
	for i, err := range s.each(func(st *store) error { return st.sync(ctx, false) }) {
		if err != nil {
			s.log.Warn("a memory store could not be synced; trying again after a later call", "store", s.stores[i].id, "error", err)
			s.stores[i].tell("", "it could not be synced: "+reason(err))
			s.wait = min(max(2*time.Since(s.last), s.cfg.Interval), maxWait)
		}
	}
	s.last = time.Now()
	s.speak()
}

// finish is the last sync, when the session came to a good end, and in any case
// the upload of what is not uploaded yet. Of a session that is somebody else's
// by now nothing is uploaded: what differs is found by whoever goes on with its
// files.
func (s *session) finish(ctx context.Context, end worker.End) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open || end == worker.EndLost {
		return nil
	}
	s.finishing = true
	var errs []error
	pass := func(what string, do func(context.Context, *store) error) {
		limited, cancel := context.WithTimeoutCause(ctx, finalLimit, problem("it took too long"))
		defer cancel()
		for i, err := range s.each(func(st *store) error { return do(limited, st) }) {
			if err != nil {
				errs = append(errs, fmt.Errorf("%s of the memory store %s: %w", what, s.stores[i].id, err))
			}
		}
	}
	switch end {
	case worker.EndIdle, worker.EndTerminated, worker.EndRoom, worker.EndStopping, worker.EndDrained:
		settled := end == worker.EndIdle || end == worker.EndRoom // no call was cut in two
		pass("the last sync", func(ctx context.Context, st *store) error { return st.sync(ctx, settled) })
	}
	pass("the last upload", func(ctx context.Context, st *store) error { return st.flush(ctx) })
	s.speak()
	return errors.Join(errs...)
}

// each does something for all stores at once.
func (s *session) each(do func(*store) error) []error {
	errs := make([]error, len(s.stores))
	var all sync.WaitGroup
	for i, st := range s.stores {
		all.Go(func() { errs[i] = do(st) })
	}
	all.Wait()
	return errs
}

// speak tells the session what there is to tell, or keeps it for whoever goes
// on when nobody hears it any more.
func (s *session) speak() {
	for _, st := range s.stores {
		for _, line := range st.news() {
			if s.finishing {
				st.state.Untold = append(st.state.Untold, line)
				continue
			}
			s.warn(line)
		}
		st.save()
	}
}

// problem is a failure that the session may read.
type problem string

func (p problem) Error() string { return string(p) }

// reason is what the session is told of a failure: the log has all of it.
func reason(err error) string {
	if p, ok := errors.AsType[problem](err); ok {
		return string(p)
	}
	if e, ok := errors.AsType[*client.Error](err); ok && e.Status > 0 {
		return fmt.Sprintf("the control plane answers %d", e.Status)
	}
	if _, ok := errors.AsType[*toolset.WalkError](err); ok {
		return "a directory in its folder cannot be read"
	}
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return "its folder cannot be read or written"
	}
	return "the control plane could not be asked"
}

// final says that trying again at once is of no use.
func final(err error) bool {
	if _, ok := errors.AsType[problem](err); ok {
		return true
	}
	e, ok := errors.AsType[*client.Error](err)
	return ok && !e.Temporary()
}
