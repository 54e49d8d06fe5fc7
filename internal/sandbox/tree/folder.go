package tree

import (
	"context"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/toolset"
)

// Folder is a directory of the tree in the supervisor's hands: no link is
// followed below it, and it may be written to where the tools must not write.
// Safe for concurrent use.
type Folder struct {
	tree *Tree
	at   string // relative to the root
}

// Folder gives a directory by a name as the tools use them, made if it is
// missing. A link on the way is an error.
func (t *Tree) Folder(name string) (*Folder, error) {
	abs, err := t.clean(name)
	if err == nil {
		err = t.makeDir(abs[1:])
	}
	if err != nil {
		if isMoved(err) {
			err = toolset.ErrNotDir
		}
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &Folder{t, abs[1:]}, nil
}

// rel is a name's path in the tree.
func (f *Folder) rel(name string) (string, error) {
	if err := local(name); err != nil {
		return "", err
	}
	rel := path.Join(f.at, name)
	if len(rel) > maxPath {
		return "", errTooLong
	}
	return rel, nil
}

// Walk visits what is below the folder, as Tree.Walk does; fn is given names
// relative to it.
func (f *Folder) Walk(ctx context.Context, fn func(name string, e toolset.Entry) error) error {
	l, err := f.tree.hold.list(f.at)
	if err != nil {
		return &fs.PathError{Op: "walk", Path: "/" + f.at, Err: err}
	}
	w := walker{tree: f.tree, ctx: ctx, fn: func(p string, e toolset.Entry) error { return fn(strings.TrimPrefix(p, "/"+f.at+"/"), e) }}
	if err := w.visit(f.at, l); err != nil {
		return err
	}
	if w.left.Dirs > 0 {
		return &w.left
	}
	return nil
}

// Open opens a regular file for reading.
func (f *Folder) Open(name string) (toolset.File, error) {
	rel, err := f.rel(name)
	if err != nil {
		return nil, err
	}
	file, err := f.tree.hold.open(rel)
	if isMoved(err) {
		err = toolset.ErrNotRegular // a link, or one on the way
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return file, nil
}

// Write puts a file there in one step. A file of several names gets another
// content under this name alone.
func (f *Folder) Write(name string, data []byte) error {
	rel, err := f.rel(name)
	if err != nil {
		return err
	}
	if err := f.tree.makeDir(path.Dir(rel)); err != nil {
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	info, err := f.tree.hold.lstat(rel)
	if err == nil && info.Mode().IsRegular() && names(info) > 1 {
		err = f.tree.hold.remove(rel, false)
	}
	if err == nil || isNotExist(err) {
		err = f.tree.hold.write(rel, data)
	}
	if err != nil {
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	return nil
}

// names is how many names a file has.
func names(info fs.FileInfo) uint64 {
	switch st := info.Sys().(type) {
	case *unix.Stat_t:
		return uint64(st.Nlink)
	case *syscall.Stat_t:
		return uint64(st.Nlink)
	}
	if far, ok := info.(farInfo); ok {
		return uint64(far.i.Links)
	}
	return 1
}

// Remove removes a file, and the directories that it was the last one in.
func (f *Folder) Remove(name string) error {
	rel, err := f.rel(name)
	if err != nil {
		return err
	}
	if err := f.tree.hold.remove(rel, false); err != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	for dir := path.Dir(rel); dir != f.at && f.tree.hold.remove(dir, true) == nil; dir = path.Dir(dir) {
	}
	return nil
}
