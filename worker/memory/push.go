package memory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
)

// flush uploads what is new or changed and does nothing else.
func (st *store) flush(ctx context.Context) error {
	if st.readOnly {
		return nil
	}
	l, err := st.look(ctx)
	if err != nil || !l.marked {
		return err
	}
	changed := func(name, sha string) bool {
		_, sent := st.state.Sent[name]
		return (sha != st.state.Base[name] || sent) && st.state.Refused[name] != sha
	}
	maps.DeleteFunc(l.files, func(name, sha string) bool { return !changed(name, sha) })
	if len(l.files) == 0 {
		return nil
	}
	remote, err := st.remote(ctx)
	if err != nil {
		return err
	}
	var pushes []push
	for _, name := range slices.Sorted(maps.Keys(l.files)) {
		local := l.files[name]
		m, there := remote[name]
		base, known := st.state.Base[name]
		switch {
		case known && local == base:
		case !there:
			pushes = append(pushes, push{name: name})
		case m.ContentSHA256 == local:
			st.state.Base[name] = local
		case !known || m.ContentSHA256 != base:
			st.conflict(name, "was changed here and in the store; the store keeps its version")
		default:
			pushes = append(pushes, push{name: name, to: &m})
		}
	}
	st.pushAll(ctx, pushes)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

func (st *store) pushAll(ctx context.Context, all []push) {
	atOnce(ctx, uploads, all, func(p push) { st.push(ctx, p) })
}

// push uploads a file as it is now.
func (st *store) push(ctx context.Context, p push) {
	b, err := st.read(p.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		st.refuse(p.name, "", "it cannot be read; it is not kept in the store")
		return
	}
	sha := sum(b)
	switch {
	case len(b) > maxFile:
		st.turnDown(p.name, sha, fmt.Sprintf("it is larger than %d bytes", maxFile))
		return
	case !utf8.Valid(b):
		st.turnDown(p.name, sha, "it is no UTF-8 text")
		return
	}
	st.mu.Lock()
	if st.state.Sent == nil {
		st.state.Sent = map[string]string{}
	}
	st.state.Sent[p.name] = sha
	st.mu.Unlock()
	err = st.send(ctx, p, string(b), sha)
	if p.to != nil && client.StatusOf(err) == http.StatusNotFound { // deleted just now: this is the only copy
		err = st.send(ctx, push{name: p.name}, string(b), sha)
	}
	switch status := client.StatusOf(err); {
	case err == nil:
		st.mu.Lock()
		st.state.Base[p.name] = sha
		delete(st.state.Sent, p.name)
		delete(st.state.Refused, p.name)
		st.mu.Unlock()
		st.count(Uploaded)
	case ctx.Err() != nil:
	case status == http.StatusConflict || status == http.StatusPreconditionFailed:
		st.conflict(p.name, "was changed in the store just now; the store's version is kept")
	case status == http.StatusBadRequest || status == http.StatusRequestEntityTooLarge || status == http.StatusUnprocessableEntity:
		st.log.Warn("a file was refused", "path", p.name, "error", err)
		st.turnDown(p.name, sha, "the control plane refuses it ("+reason(err)+")")
	default:
		st.log.Warn("a file could not be uploaded", "path", p.name, "error", err)
		st.count(Failed)
		st.tell(p.name, "it could not be uploaded: "+reason(err))
	}
}

// send makes or changes a memory. That it is in conflict may be our own doing:
// a former try whose answer was lost.
func (st *store) send(ctx context.Context, p push, content, sha string) error {
	_, err := try(ctx, func() (*api.Memory, error) {
		if p.to == nil {
			return st.client.CreateMemory(ctx, st.id, api.CreateMemory{Path: "/" + p.name, Content: content})
		}
		return st.client.UpdateMemory(ctx, st.id, p.to.ID, api.UpdateMemory{
			Content: &content, Precondition: &api.MemoryPrecondition{Type: "content_sha256", ContentSHA256: p.to.ContentSHA256},
		})
	})
	if client.StatusOf(err) == http.StatusConflict && st.has(ctx, p, sha) {
		return nil
	}
	return err
}

// has says whether the store has a memory with that content.
func (st *store) has(ctx context.Context, p push, sha string) bool {
	if p.to != nil {
		m, err := st.client.Memory(ctx, st.id, p.to.ID)
		return err == nil && m.ContentSHA256 == sha
	}
	q := client.MemoryQuery{PageQuery: client.PageQuery{Limit: basicPage}, View: client.MemoryBasic, Prefix: "/"}
	if i := strings.LastIndex(p.name, "/"); i >= 0 {
		q.Prefix += p.name[:i+1]
	}
	q.Depth = 1
	for range maxPages {
		page, err := st.client.Memories(ctx, st.id, q)
		if err != nil {
			return false
		}
		for _, m := range page.Data {
			if m.Path == "/"+p.name {
				return m.ContentSHA256 == sha
			}
		}
		if page.NextPage == nil || *page.NextPage == "" {
			break
		}
		q.Page = *page.NextPage
	}
	return false
}

// turnDown leaves a file out until its content changes.
func (st *store) turnDown(name, sha, why string) {
	st.mu.Lock()
	if st.state.Refused == nil {
		st.state.Refused = map[string]string{}
	}
	st.state.Refused[name] = sha
	delete(st.state.Sent, name)
	st.mu.Unlock()
	st.refuse(name, sha, why+"; it is not kept in the store until it changes")
}

// deleteAll deletes memories whose files are gone: as many as one sync may,
// those that have been missing for long enough. final does not wait for that.
func (st *store) deleteAll(ctx context.Context, gone []api.Memory, final bool) {
	mode := st.session.cfg.Deletions
	if mode == DeletionsDisabled {
		return
	}
	most := max(leastDelete, min(mostDelete, len(st.state.Base)/4))
	now := time.Now()
	done := 0
	for i, m := range gone {
		name := strings.TrimPrefix(m.Path, "/")
		first, seen := st.missing[name]
		if !seen {
			first = now
			st.missing[name] = now
		}
		if !final && now.Sub(first) < settled {
			continue
		}
		// The folder may have been taken away since it was looked at.
		if !st.marked() {
			return
		}
		if there, err := st.hash(name); err != nil || there != "" {
			delete(st.missing, name)
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if done++; done > most {
			st.log.Warn("more files are missing than one sync deletes memories; the others follow", "deleted", most, "left", len(gone)-i)
			return
		}
		if mode == DeletionsLogOnly {
			st.log.Info("this memory would be deleted", "path", name)
			continue
		}
		st.delete(ctx, name, m)
	}
}

func (st *store) delete(ctx context.Context, name string, m api.Memory) {
	_, err := try(ctx, func() (struct{}, error) {
		return struct{}{}, st.client.DeleteMemory(ctx, st.id, m.ID, m.ContentSHA256)
	})
	switch status := client.StatusOf(err); {
	case err == nil, status == http.StatusNotFound:
		st.log.Info("a memory was deleted as its file was", "path", name)
		st.forget(name)
		st.count(Deleted)
	case ctx.Err() != nil:
	case status == http.StatusConflict || status == http.StatusPreconditionFailed:
		delete(st.missing, name)
		st.conflict(name, "was deleted here and changed in the store; it comes back")
	default:
		delete(st.missing, name)
		st.log.Warn("a memory could not be deleted", "path", name, "error", err)
		st.count(Failed)
		st.tell(name, "it could not be deleted in the store: "+reason(err))
	}
}
