package workertest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/berthdev/berth/api"
)

// Bounds of memories, the hosted service's.
const (
	maxMemory   = 102400 // bytes
	maxMemories = 2000   // of a store
)

// MemoryStore is a memory store of the plane. Sessions have it by
// Plane.Resources.
type MemoryStore struct {
	ID   string
	Name string

	plane    *Plane
	memories map[string]*api.Memory // by path
}

// MemoryStore makes a store.
func (p *Plane) MemoryStore(name string) *MemoryStore {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &MemoryStore{ID: p.id("memstore_"), Name: name, plane: p, memories: map[string]*api.Memory{}}
	p.stores = append(p.stores, s)
	return s
}

// Resources are what sessions made from now on have.
func (p *Plane) Resources(r ...api.MemoryStoreResource) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resources = slices.Clone(r)
}

// Resource is the store as a session's resource, at its usual place.
func (s *MemoryStore) Resource(a api.MemoryAccess) api.MemoryStoreResource {
	return api.MemoryStoreResource{Type: "memory_store", MemoryStoreID: s.ID, Access: a, Name: s.Name, MountPath: "/mnt/memory/" + s.Name}
}

// Put makes or changes a memory, as somebody else does.
func (s *MemoryStore) Put(path, content string) {
	s.plane.mu.Lock()
	defer s.plane.mu.Unlock()
	s.put(path, content)
}

// Drop deletes a memory, as somebody else does.
func (s *MemoryStore) Drop(path string) {
	s.plane.mu.Lock()
	defer s.plane.mu.Unlock()
	delete(s.memories, path)
	s.plane.change()
}

// All is the store's content by path.
func (s *MemoryStore) All() map[string]string {
	s.plane.mu.Lock()
	defer s.plane.mu.Unlock()
	all := map[string]string{}
	for path, m := range s.memories {
		all[path] = *m.Content
	}
	return all
}

// put needs mu.
func (s *MemoryStore) put(path, content string) *api.Memory {
	now := s.plane.tick()
	m := s.memories[path]
	if m == nil {
		m = &api.Memory{ID: s.plane.id("mem_"), Type: "memory", MemoryStoreID: s.ID, Path: path, CreatedAt: now}
		s.memories[path] = m
	}
	sum := sha256.Sum256([]byte(content))
	m.Content, m.ContentSHA256, m.ContentSizeBytes = &content, hex.EncodeToString(sum[:]), int64(len(content))
	m.MemoryVersionID, m.UpdatedAt = s.plane.id("memver_"), now
	s.plane.change()
	return m
}

// viewed is a memory in the view that was asked for.
func viewed(m api.Memory, view string) (api.Memory, *failure) {
	switch view {
	case "full":
	case "basic":
		m.Content = nil
	default:
		return m, failf(http.StatusBadRequest, "view: %q is neither basic nor full", view)
	}
	return m, nil
}

func viewOf(r *http.Request, otherwise string) string {
	if v := r.URL.Query().Get("view"); v != "" {
		return v
	}
	return otherwise
}

// onStore lets in whoever holds an item of a session that has the store: by the
// item's token, the environment's key is no good. Writing wants a resource that
// allows it.
func (p *Plane) onStore(write bool, do func(*MemoryStore, *http.Request, []byte) (any, *failure)) answer {
	return func(r *http.Request, body []byte) (any, *failure) {
		i := slices.IndexFunc(p.items, func(it *item) bool { return it.session != nil && it.token == bearer(r) && it.state != api.WorkStopped })
		if i < 0 {
			return nil, failf(http.StatusUnauthorized, "no token of a session")
		}
		id := r.PathValue("m")
		resources := p.items[i].session.resources
		at := slices.IndexFunc(resources, func(res api.MemoryStoreResource) bool { return res.MemoryStoreID == id })
		s := slices.IndexFunc(p.stores, func(s *MemoryStore) bool { return s.ID == id })
		switch {
		case at < 0 || s < 0:
			return nil, failf(http.StatusNotFound, "no such memory store")
		case write && resources[at].Access == api.MemoryReadOnly:
			return nil, failf(http.StatusForbidden, "the session may only read this memory store")
		}
		return do(p.stores[s], r, body)
	}
}

func (p *Plane) onMemory(write bool, do func(*MemoryStore, *api.Memory, *http.Request, []byte) (any, *failure)) answer {
	return p.onStore(write, func(s *MemoryStore, r *http.Request, body []byte) (any, *failure) {
		for _, m := range s.memories {
			if m.ID == r.PathValue("id") {
				return do(s, m, r, body)
			}
		}
		return nil, failf(http.StatusNotFound, "no such memory")
	})
}

// listMemories pages by the last path of the page before.
func listMemories(s *MemoryStore, r *http.Request, _ []byte) (any, *failure) {
	q := r.URL.Query()
	view, limit, most := viewOf(r, "basic"), 20, 100
	if view == "full" {
		most = 20
	}
	if l := q.Get("limit"); l != "" {
		n, err := strconv.Atoi(l)
		if err != nil || n < 1 || n > most {
			return nil, failf(http.StatusBadRequest, "limit: %q is not between 1 and %d", l, most)
		}
		limit = n
	}
	prefix := q.Get("path_prefix")
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		return nil, failf(http.StatusBadRequest, "path_prefix: it must end in a slash")
	}
	page := api.Page[any]{Data: []any{}}
	last := q.Get("page")
	for _, path := range slices.Sorted(maps.Keys(s.memories)) {
		rest, ok := strings.CutPrefix(path, prefix)
		if !ok {
			continue
		}
		shown := path
		if dir, _, deeper := strings.Cut(strings.TrimPrefix(rest, "/"), "/"); deeper && q.Get("depth") == "1" {
			shown = path[:len(path)-len(strings.TrimPrefix(rest, "/"))] + dir + "/"
		}
		switch {
		case shown <= last:
			continue
		case len(page.Data) == limit:
			page.NextPage = &last
			return page, nil
		}
		last = shown
		if shown != path {
			page.Data = append(page.Data, api.MemoryPrefix{Type: "memory_prefix", Path: shown})
			continue
		}
		m, fail := viewed(*s.memories[path], view)
		if fail != nil {
			return nil, fail
		}
		page.Data = append(page.Data, m)
	}
	return page, nil
}

func getMemory(_ *MemoryStore, m *api.Memory, r *http.Request, _ []byte) (any, *failure) {
	return orFail(viewed(*m, viewOf(r, "full")))
}

func orFail(m api.Memory, fail *failure) (any, *failure) {
	if fail != nil {
		return nil, fail
	}
	return m, nil
}

func createMemory(s *MemoryStore, r *http.Request, body []byte) (any, *failure) {
	var c struct {
		Path    *string `json:"path"`
		Content *string `json:"content"`
	}
	if json.Unmarshal(body, &c) != nil || c.Path == nil || c.Content == nil {
		return nil, failf(http.StatusBadRequest, "path and content are wanted")
	}
	if fail := s.fits(*c.Path, *c.Content); fail != nil {
		return nil, fail
	}
	if m := s.memories[*c.Path]; m != nil {
		return nil, taken(m)
	}
	if len(s.memories) == maxMemories {
		return nil, failf(http.StatusBadRequest, "the store has %d memories already", maxMemories)
	}
	return orFail(viewed(*s.put(*c.Path, *c.Content), viewOf(r, "basic")))
}

func updateMemory(s *MemoryStore, m *api.Memory, r *http.Request, body []byte) (any, *failure) {
	var u api.UpdateMemory
	if json.Unmarshal(body, &u) != nil {
		return nil, failf(http.StatusBadRequest, "no JSON object")
	}
	if c := u.Precondition; c != nil && c.ContentSHA256 != m.ContentSHA256 {
		return nil, moved(m)
	}
	path, content := m.Path, *m.Content
	if u.Path != nil {
		path = *u.Path
	}
	if u.Content != nil {
		content = *u.Content
	}
	if fail := s.fits(path, content); fail != nil {
		return nil, fail
	}
	if path != m.Path {
		if other := s.memories[path]; other != nil {
			return nil, taken(other)
		}
		delete(s.memories, m.Path)
		m.Path = path
		s.memories[path] = m
	}
	return orFail(viewed(*s.put(path, content), viewOf(r, "basic")))
}

func deleteMemory(s *MemoryStore, m *api.Memory, r *http.Request, _ []byte) (any, *failure) {
	if want := r.URL.Query().Get("expected_content_sha256"); want != "" && want != m.ContentSHA256 {
		return nil, moved(m)
	}
	delete(s.memories, m.Path)
	s.plane.change()
	return api.Deleted{ID: m.ID, Type: "memory_deleted"}, nil
}

func moved(m *api.Memory) *failure {
	f := failf(http.StatusConflict, "%s has another content", m.Path)
	f.kind = api.ErrMemoryPrecondition
	return f
}

func taken(m *api.Memory) *failure {
	f := failf(http.StatusConflict, "%s is taken", m.Path)
	f.kind, f.details = api.ErrMemoryPathConflict, map[string]any{"conflicting_memory_id": m.ID}
	return f
}

// fits says what is wrong with a memory.
func (s *MemoryStore) fits(path, content string) *failure {
	if len(content) > maxMemory {
		return failf(http.StatusBadRequest, "content: it has more than %d bytes", maxMemory)
	}
	segments := strings.Split(path, "/")[1:]
	bad := func(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) }
	if !strings.HasPrefix(path, "/") || len(path) > 1024 || len(segments) > 20 || !utf8.ValidString(path) || strings.ContainsFunc(path, bad) {
		return failf(http.StatusBadRequest, "path: %q is no path of a memory", path)
	}
	for _, s := range segments {
		if s == "" || s == "." || s == ".." {
			return failf(http.StatusBadRequest, "path: %q is no path of a memory", path)
		}
	}
	return nil
}
