// Package tree is the file system of a session as its file tools see it: the
// directory on the host that the sandbox mounts, reached by the names that
// hold inside, and nothing else of the host whatever links, races or names
// the session comes up with.
package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/berthdev/berth/toolset"
)

// Config says where a tree is and who owns what is made in it.
type Config struct {
	// Root is the tree on the host; it mirrors the paths inside.
	Root string
	// Workdir is the absolute working directory inside; "" means /workspace.
	Workdir string
	// Share is a directory of the host that stands at Workdir instead of the
	// tree's own; "" for none.
	Share string
	// Parts are directories of the host, by the paths inside at which they stand
	// instead of the tree's own.
	Parts map[string]string
	// UID and GID own what the tools make, before it has its name. Negative
	// leaves the owner to the kernel.
	UID, GID int
	// ReadOnly are absolute paths inside that the tools do not write to.
	ReadOnly []string
	// Folders are further absolute paths inside that the sandbox shows of the
	// tree, made if missing.
	Folders []string
}

// Prefixes are the paths inside that every sandbox shows of its tree, beside
// the working directory.
var Prefixes = []string{"/workspace", "/mnt/session", "/mnt/memory", "/tmp"}

// Limits on names, those of the kernel inside.
const (
	maxName  = 4095
	maxLinks = 40
	// maxTries is how often a name is looked up again when somebody changes
	// it between two looks.
	maxTries = 256
)

// Tree is the file system of one session. Safe for concurrent use. It
// fulfils toolset.Files.
type Tree struct {
	hold     hold
	workdir  string
	uid, gid int
	places   []string // what can be reached, absolute inside
	shared   bool     // the working directory is somebody's own

	mu       sync.RWMutex
	readOnly []string
}

var _ toolset.Files = (*Tree)(nil)

// Open opens a tree. Its places and working directory are made if missing.
func Open(c Config) (*Tree, error) {
	t, err := newTree(c)
	if err != nil {
		return nil, err
	}
	h, err := openHold(c.Root, owner{c.UID, c.GID})
	if err != nil {
		return nil, fmt.Errorf("tree: %w", err)
	}
	t.hold = h
	for _, p := range slices.Concat(t.places, []string{t.workdir}, c.Folders) {
		if err := t.makeDir(p[1:]); err != nil {
			h.close()
			return nil, fmt.Errorf("tree: make %s: %w", p, err)
		}
	}
	j := &joined{tree: h}
	join := func(at, dir string, own owner) error {
		h, err := openHold(dir, own)
		if err == nil {
			j.parts = append(j.parts, part{at[1:], h})
		}
		return err
	}
	for at, dir := range c.Parts {
		err = errors.Join(err, join(at, dir, owner{c.UID, c.GID}))
	}
	if c.Share != "" {
		t.shared = true
		err = errors.Join(err, join(t.workdir, c.Share, ownerOf(c)))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("tree: %w", err), j.close())
	}
	if len(j.parts) > 0 {
		j.sort()
		t.hold = j
	}
	return t, nil
}

// newTree is a tree that has no hold yet.
func newTree(c Config) (*Tree, error) {
	workdir := path.Clean(c.Workdir)
	if c.Workdir == "" {
		workdir = "/workspace"
	}
	if !path.IsAbs(workdir) || workdir == "/" {
		return nil, fmt.Errorf("tree: the working directory %q is no absolute path below /", c.Workdir)
	}
	t := &Tree{workdir: workdir, uid: c.UID, gid: c.GID, places: slices.Clone(Prefixes)}
	if !within(workdir, t.places) {
		t.places = append(t.places, workdir)
	}
	for _, p := range c.Folders {
		if !path.IsAbs(p) || path.Clean(p) != p || p == "/" {
			return nil, fmt.Errorf("tree: the folder %q is no clean absolute path below /", p)
		}
		if !within(p, t.places) {
			t.places = append(t.places, p)
		}
	}
	for _, p := range c.ReadOnly {
		if !path.IsAbs(p) {
			return nil, fmt.Errorf("tree: the read-only path %q is not absolute", p)
		}
		t.readOnly = append(t.readOnly, path.Clean(p))
	}
	return t, nil
}

// ownerOf says who owns what is made in the shared directory: whoever owns the
// directory itself, where owners are given at all.
func ownerOf(c Config) owner {
	if c.UID < 0 && c.GID < 0 {
		return owner{-1, -1}
	}
	info, err := os.Stat(c.Share)
	if err != nil {
		return owner{-1, -1}
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return owner{-1, -1}
	}
	return owner{int(st.Uid), int(st.Gid)}
}

// Close lets go of the tree's directory. Files that are open stay open.
func (t *Tree) Close() error { return t.hold.close() }

// within says whether p is one of the roots or below one.
func within(p string, roots []string) bool {
	return slices.ContainsFunc(roots, func(r string) bool {
		return p == r || strings.HasPrefix(p, r) && p[len(r)] == '/'
	})
}

// clean makes a name of the model absolute: ".." is taken from the text.
func (t *Tree) clean(name string) (string, error) {
	switch {
	case strings.IndexByte(name, 0) >= 0:
		return "", errNUL
	case len(name) > maxName:
		return "", errTooLong
	case !path.IsAbs(name):
		name = t.workdir + "/" + name
	}
	name = path.Clean(name)
	if len(name) > maxName {
		return "", errTooLong
	}
	if !within(name, t.places) {
		return "", toolset.ErrOutside
	}
	return name, nil
}

// resolve follows every link of a name and gives the path, relative to the
// root, that the name stands for now. It has no links and lies in one of the
// places. What of it does not exist is appended as it is, and exists is false.
func (t *Tree) resolve(name string) (rel string, exists bool, err error) {
	abs, err := t.clean(name)
	if err != nil {
		return "", false, err
	}
	todo := strings.Split(abs[1:], "/")
	links, missing := 0, false
	for len(todo) > 0 {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if missing {
				return "", false, fs.ErrNotExist
			}
			rel = strings.TrimPrefix(path.Dir("/"+rel), "/")
			continue
		}
		next := part
		if rel != "" {
			next = rel + "/" + part
		}
		if len(next) > maxName {
			return "", false, errTooLong
		}
		if missing {
			rel = next
			continue
		}
		info, err := t.hold.lstat(next)
		switch {
		case isNotExist(err):
			missing = true
			rel = next
			continue
		case err != nil:
			return "", false, err
		case info.Mode()&fs.ModeSymlink != 0:
			if links++; links > maxLinks {
				return "", false, toolset.ErrLoop
			}
			target, err := t.hold.readlink(next)
			if err != nil {
				return "", false, err
			}
			if path.IsAbs(target) {
				rel = ""
			}
			if len(target)+len(todo) > maxName {
				return "", false, errTooLong
			}
			todo = append(strings.Split(target, "/"), todo...)
			continue
		case !info.IsDir() && len(todo) > 0:
			return "", false, toolset.ErrNotDir
		}
		rel = next
	}
	if !within("/"+rel, t.places) {
		return "", false, toolset.ErrOutside
	}
	return rel, !missing, nil
}

// reach calls do with the path a name stands for until nobody has put a link
// into that path between resolving it and using it.
func (t *Tree) reach(name string, do func(rel string, exists bool) error) error {
	for range maxTries {
		rel, exists, err := t.resolve(name)
		if err == nil {
			err = do(rel, exists)
		}
		if !isMoved(err) {
			return err
		}
	}
	return errUnsteady
}

func existing(do func(rel string) error) func(string, bool) error {
	return func(rel string, exists bool) error {
		if !exists {
			return fs.ErrNotExist
		}
		return do(rel)
	}
}

// Open opens a regular file for reading.
func (t *Tree) Open(name string) (f toolset.File, err error) {
	err = t.reach(name, existing(func(rel string) error {
		f, err = t.hold.open(rel)
		return err
	}))
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return f, nil
}

// Stat describes what a name stands for, links followed.
func (t *Tree) Stat(name string) (info fs.FileInfo, err error) {
	err = t.reach(name, existing(func(rel string) error {
		info, err = t.hold.lstat(rel)
		if err == nil && info.Mode()&fs.ModeSymlink != 0 {
			return errMoved
		}
		return err
	}))
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return info, nil
}

// WriteFile replaces a file's content, or makes the file (0644) and its
// missing directories (0755). A file of one name is replaced in one step: a
// reader sees the old content or the new, also when the writer dies
// half-way. A file of several names (hard links) is written in place, so that
// all of them keep showing the same file; there a reader may see a mixture
// for a moment, and when writing fails half-way the old content is put back
// (up to 64 MiB of it).
// The same holds in a directory that takes no new files.
func (t *Tree) WriteFile(name string, data []byte) error {
	err := t.reach(name, func(rel string, exists bool) error {
		if t.guarded(rel) {
			return toolset.ErrReadOnly
		}
		if strings.HasSuffix(name, "/") || slices.Contains(t.places, "/"+rel) {
			return toolset.ErrIsDir
		}
		if !exists {
			if err := t.makeDir(path.Dir(rel)); err != nil {
				return err
			}
		}
		return t.hold.write(rel, data)
	})
	if err != nil {
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	return nil
}

// makeDir makes a directory and its missing parents.
func (t *Tree) makeDir(rel string) error {
	info, err := t.hold.lstat(rel)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil && info.Mode()&fs.ModeSymlink != 0:
		return errMoved
	case err == nil:
		return toolset.ErrNotDir
	case !isNotExist(err):
		return err
	}
	if parent := path.Dir(rel); parent != "." {
		if err := t.makeDir(parent); err != nil {
			return err
		}
	}
	return t.hold.mkdir(rel)
}
