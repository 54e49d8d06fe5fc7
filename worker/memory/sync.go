package memory

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
)

// How many requests of one store are under way at one time.
const (
	fetches = 16
	uploads = 32
)

// Deletions in the store are slow on purpose: a folder may be taken away as a
// whole, by mistake or by a crash.
const (
	settled     = 30 * time.Second // that a file must stay missing
	leastDelete = 8                // in one sync; else a quarter of the memories
	mostDelete  = 50
)

// todo is what a sync has found to be done. Of each path at most one thing is.
type todo struct {
	pulls   []pull
	pushes  []push
	removes []string
	deletes []api.Memory
}

// pull is a memory to be written over a file that has still the SHA-256 was.
type pull struct {
	name string
	m    api.Memory
	was  string
}

// push is a file to be uploaded; to is nil for a new memory.
type push struct {
	name string
	to   *api.Memory
}

// sync brings folder and store in step. final is the last one of a session that
// is at rest: its deletions need not settle.
func (st *store) sync(ctx context.Context, final bool) (err error) {
	began := time.Now()
	defer func() { st.session.cfg.Counters.Synced(err == nil, time.Since(began)) }()
	l, err := st.look(ctx)
	switch {
	case err != nil:
		return err
	case !l.marked && !l.empty():
		st.distrust()
		return nil
	case !l.marked:
		return st.rebuild(ctx)
	}
	remote, err := st.remote(ctx)
	if err != nil {
		return err
	}
	if l.empty() && len(st.state.Base) > 1 {
		return st.rebuild(ctx)
	}
	t := st.compare(l, remote)
	st.remove(t.removes)
	st.deleteAll(ctx, t.deletes, final)
	st.pushAll(ctx, t.pushes)
	st.pullAll(ctx, t.pulls)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// remote lists the store, and settles what has been sent and not answered: what
// the store has of it is in step.
func (st *store) remote(ctx context.Context) (map[string]api.Memory, error) {
	remote := map[string]api.Memory{}
	if err := st.list(ctx, client.MemoryBasic, func(name string, m api.Memory) { remote[name] = m }); err != nil {
		return nil, err
	}
	if st.state.Base == nil {
		st.state.Base = map[string]string{}
	}
	for name, sha := range st.state.Sent {
		if m, ok := remote[name]; ok && m.ContentSHA256 == sha {
			st.state.Base[name] = sha
		}
	}
	st.state.Sent = nil
	return remote, nil
}

// compare decides what is to be done, path by path, and takes what needs
// nothing into the base.
func (st *store) compare(l *look, remote map[string]api.Memory) todo {
	var t todo
	maps.DeleteFunc(st.state.Refused, func(name, _ string) bool { _, here := l.files[name]; return !here })
	names := map[string]bool{}
	for _, some := range []map[string]string{l.files, l.odd, st.state.Base} {
		for name := range some {
			names[name] = true
		}
	}
	for name := range remote {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		m, there := remote[name]
		local, here := l.files[name]
		why, odd := l.odd[name]
		base, known := st.state.Base[name]
		if here || odd {
			delete(st.missing, name)
		}
		switch {
		case odd:
			st.leave(name, why, there)
		case !there && !here:
			st.forget(name)
		case !there:
			st.compareLocal(&t, name, local, base, known)
		case !here:
			st.compareRemote(&t, name, m, base, known)
		default:
			st.compareBoth(&t, name, local, m, base, known)
		}
	}
	return t
}

func (st *store) forget(name string) {
	delete(st.missing, name)
	delete(st.state.Base, name)
}

// leave is for what is there and can be no memory: it is never uploaded, and
// the memory whose place it has is neither deleted nor written.
func (st *store) leave(name, why string, there bool) {
	if !there {
		st.forget(name)
	}
	if !st.readOnly || there {
		st.refuse(name, "", why+"; it is not kept in the store")
	}
}

// compareLocal is for a file that the store has no memory of.
func (st *store) compareLocal(t *todo, name, local, base string, known bool) {
	switch {
	case known && local == base:
		t.removes = append(t.removes, name)
		return
	case st.readOnly:
		st.forget(name)
		st.refuse(name, local, "the store is read-only; this file is not kept in it")
		return
	case known:
		st.log.Info("a memory was deleted in the store and changed here; it is made again", "path", name)
	}
	st.forget(name)
	if st.state.Refused[name] != local {
		t.pushes = append(t.pushes, push{name: name})
	}
}

// compareRemote is for a memory that has no file.
func (st *store) compareRemote(t *todo, name string, m api.Memory, base string, known bool) {
	switch {
	case !known:
	case m.ContentSHA256 != base:
		st.conflict(name, "was deleted here and changed in the store; it is restored")
		delete(st.missing, name)
	case !st.readOnly:
		t.deletes = append(t.deletes, m)
		return
	}
	t.pulls = append(t.pulls, pull{name: name, m: m})
}

func (st *store) compareBoth(t *todo, name, local string, m api.Memory, base string, known bool) {
	there := m.ContentSHA256
	edited := local != base || !known
	switch {
	case local == there:
		st.state.Base[name] = there
	case !known || there != base:
		if edited {
			st.conflict(name, "was changed here and in the store; the store's version replaces what was here")
		}
		t.pulls = append(t.pulls, pull{name: name, m: m, was: local})
	case st.readOnly:
		st.refuse(name, local, "the store is read-only; this change is not kept in it")
	case st.state.Refused[name] != local:
		t.pushes = append(t.pushes, push{name: name, to: &m})
	}
}

func (st *store) conflict(name, text string) {
	st.log.Warn("a memory "+text, "path", name)
	st.count(Conflict)
	st.tell(name, text)
}

// base notes that both sides have the same of a memory.
func (st *store) base(name, sha string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.state.Base[name] = sha
}

// remove removes files whose memories are gone, unless they were changed just
// now.
func (st *store) remove(names []string) {
	for _, name := range names {
		if now, err := st.hash(name); err != nil || now != st.state.Base[name] && now != "" {
			continue
		}
		if err := st.folder.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			st.log.Warn("a file whose memory is gone could not be removed", "path", name, "error", err)
			continue
		}
		st.forget(name)
		st.count(Removed)
	}
}

// pullAll writes memories into the folder.
func (st *store) pullAll(ctx context.Context, all []pull) {
	atOnce(ctx, fetches, all, func(p pull) {
		m, err := try(ctx, func() (*api.Memory, error) { return st.client.Memory(ctx, st.id, p.m.ID) })
		switch {
		case err == nil:
		case ctx.Err() != nil, client.StatusOf(err) == 404: // the next list says that it is gone
			return
		default:
			st.log.Warn("a memory could not be read", "path", p.name, "error", err)
			st.count(Failed)
			st.tell(p.name, "it could not be read: "+reason(err))
			return
		}
		if now, err := st.hash(p.name); err != nil || now != p.was {
			return // changed just now: the next look decides
		}
		if st.write(p.name, *m) {
			st.base(p.name, m.ContentSHA256)
		}
	})
}

// atOnce does something for all, so many at one time, until ctx ends.
func atOnce[T any](ctx context.Context, n int, all []T, do func(T)) {
	var wg sync.WaitGroup
	room := make(chan struct{}, n)
	for _, x := range all {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-room }()
			do(x)
		})
	}
	wg.Wait()
}
