package tree

import (
	"context"
	"errors"
	"io/fs"
	"syscall"
	"time"

	"github.com/berthdev/berth/toolset"
)

// Walk visits what is below root, in the order of names, a directory before
// its contents; root itself is not visited and links are not followed. The
// paths given to fn are those root stands for. Directories that cannot be
// read are left out, and the *toolset.WalkError at the end says so.
func (t *Tree) Walk(ctx context.Context, root string, fn func(path string, e toolset.Entry) error) error {
	w := walker{tree: t, ctx: ctx, fn: fn}
	err := t.reach(root, existing(func(rel string) error {
		l, err := t.hold.list(rel)
		if err != nil {
			return err
		}
		return w.visit(rel, l)
	}))
	switch {
	case errors.Is(err, fs.SkipAll):
		err = nil
	case isMoved(err), err == nil:
	case w.began:
		return err
	default:
		return &fs.PathError{Op: "walk", Path: root, Err: err}
	}
	if err == nil && w.left.Dirs > 0 {
		return &w.left
	}
	return err
}

type walker struct {
	tree  *Tree
	ctx   context.Context // of the one Walk
	fn    func(path string, e toolset.Entry) error
	began bool
	left  toolset.WalkError
	entry entry // what fn is looking at
}

// visit walks a directory that has been listed, and closes the listing.
func (w *walker) visit(rel string, l listing) error {
	w.began = true
	names := l.names()
	defer func() {
		if l != nil {
			l.close()
		}
	}()
	var dirs []string
	for _, d := range names {
		if err := w.ctx.Err(); err != nil {
			return context.Cause(w.ctx)
		}
		p := "/" + rel + "/" + d.name
		w.entry = entry{l, d}
		switch err := w.fn(p, &w.entry); {
		case errors.Is(err, fs.SkipDir) && d.mode.IsDir():
			continue
		case errors.Is(err, fs.SkipDir):
			return nil
		case err != nil:
			return err
		}
		if d.mode.IsDir() {
			dirs = append(dirs, d.name)
		}
	}
	// No directory stays open while those below it are walked, so that depth
	// costs no descriptors.
	l.close()
	l = nil
	for _, name := range dirs { // not their paths, each of which may be long
		p := rel + "/" + name
		if len(p) > maxPath {
			w.left.Add("/"+p, syscall.ENAMETOOLONG)
			continue
		}
		below, err := w.tree.hold.list(p)
		if err == nil {
			if err := w.visit(p, below); err != nil {
				return err
			}
			continue
		}
		if !isNotExist(err) && !isMoved(err) && !errors.Is(err, toolset.ErrNotDir) {
			w.left.Add("/"+p, err)
		}
	}
	return nil
}

// modified takes the time of an lstat.
func modified(info fs.FileInfo, err error) (time.Time, error) {
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// entry is good while its directory is being visited.
type entry struct {
	dir listing
	dirent
}

func (e *entry) Name() string               { return e.name }
func (e *entry) IsDir() bool                { return e.mode.IsDir() }
func (e *entry) Type() fs.FileMode          { return e.mode }
func (e *entry) Info() (fs.FileInfo, error) { return e.dir.lstat(e.name) }

func (e *entry) Open() (toolset.File, error) {
	if err := regular(e.mode); err != nil {
		if isMoved(err) {
			err = toolset.ErrNotRegular // a link, which is not followed
		}
		return nil, err
	}
	return e.dir.open(e.name)
}
