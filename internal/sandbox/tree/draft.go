package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/berthdev/berth/toolset"
)

// draftName is where a draft is until it is published. There is one at a time
// in a directory; what an earlier process left of one is removed.
const draftName = ".berth-draft"

// Draft is new files for a directory of the tree that appear in it together
// or not at all. Until then nobody but the supervisor's user can read them.
// Create and Link may be called from several goroutines at once; nothing else
// may run beside Publish and Drop.
type Draft struct {
	into  *os.Root // the directory
	files *os.Root // the draft in it
	own   owner

	mu   sync.Mutex
	dirs map[string]bool
}

// Draft begins a draft for a directory that exists.
func (t *Tree) Draft(dir string) (d *Draft, err error) {
	err = t.reach(dir, existing(func(rel string) error {
		into, err := t.hold.root(rel)
		if err != nil {
			return err
		}
		if d, err = newDraft(into, owner{t.uid, t.gid}); err != nil {
			into.Close()
		}
		return err
	}))
	if err != nil {
		return nil, &fs.PathError{Op: "draft", Path: dir, Err: plain(err)}
	}
	return d, nil
}

func newDraft(into *os.Root, own owner) (*Draft, error) {
	if err := into.RemoveAll(draftName); err != nil {
		return nil, err
	}
	if err := into.Mkdir(draftName, 0o700); err != nil {
		return nil, err
	}
	files, err := into.OpenRoot(draftName)
	if err != nil {
		return nil, err
	}
	return &Draft{into: into, files: files, own: own, dirs: map[string]bool{".": true}}, nil
}

// local says what is wrong with a name for a draft.
func local(name string) error {
	if !filepath.IsLocal(name) || path.Clean(name) != name || name == "." || strings.IndexByte(name, 0) >= 0 {
		return fmt.Errorf("%q is no plain name inside the working directory", name)
	}
	if name == draftName || strings.HasPrefix(name, draftName+"/") {
		return fmt.Errorf("%q is a name of Berth's own", name)
	}
	return nil
}

// Create makes a regular file and has fill write it. Names are relative,
// with slashes; missing directories are made. A name that is there already is
// an error.
func (d *Draft) Create(name string, mode fs.FileMode, fill func(*os.File) error) error {
	if err := d.parents(name); err != nil {
		return err
	}
	f, err := d.files.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return plain(err)
	}
	defer f.Close()
	if err := fill(f); err != nil {
		return err
	}
	if d.own.uid >= 0 {
		if err := f.Chown(d.own.uid, d.own.gid); err != nil {
			return plain(err)
		}
	}
	if err := f.Chmod(mode.Perm()); err != nil {
		return plain(err)
	}
	return plain(f.Close())
}

// Link makes a symbolic link. Its target is only a text: what it leads to is
// decided inside, when somebody follows it.
func (d *Draft) Link(name, target string) error {
	if err := d.parents(name); err != nil {
		return err
	}
	if err := d.files.Symlink(target, name); err != nil {
		return plain(err)
	}
	if d.own.uid < 0 {
		return nil
	}
	return plain(d.files.Lchown(name, d.own.uid, d.own.gid))
}

// Dir makes a directory and its missing parents; one that is there is fine.
func (d *Draft) Dir(name string) error {
	if err := local(name); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dir(name)
}

func (d *Draft) parents(name string) error {
	if err := local(name); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dir(path.Dir(name))
}

// dir needs mu.
func (d *Draft) dir(name string) error {
	if d.dirs[name] {
		return nil
	}
	if err := d.dir(path.Dir(name)); err != nil {
		return err
	}
	if err := d.files.Mkdir(name, 0o755); err != nil {
		return plain(err)
	}
	if d.own.uid >= 0 {
		if err := d.files.Lchown(name, d.own.uid, d.own.gid); err != nil {
			return plain(err)
		}
	}
	d.dirs[name] = true
	return nil
}

// Publish moves the files to their places and ends the draft. A file takes
// the place of one that is there; that a directory or a file stands where the
// other is wanted is found before anything is moved.
func (d *Draft) Publish() error {
	for _, move := range []bool{false, true} {
		if err := d.merge(".", move); err != nil {
			return errors.Join(err, d.Drop())
		}
	}
	return d.Drop()
}

// merge goes through a directory of the draft, and moves what is in it.
func (d *Draft) merge(dir string, move bool) error {
	entries, err := fs.ReadDir(d.files.FS(), dir)
	if err != nil {
		return plain(err)
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		there, err := d.into.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return fmt.Errorf("%s: %w", name, plain(err))
		case there.IsDir() && e.IsDir():
			if err := d.merge(name, move); err != nil {
				return err
			}
			continue
		case there.IsDir():
			return fmt.Errorf("%s: %w", name, toolset.ErrIsDir)
		case e.IsDir():
			return fmt.Errorf("%s: %w", name, toolset.ErrNotDir)
		}
		if move {
			if err := d.into.Rename(draftName+"/"+name, name); err != nil {
				return fmt.Errorf("%s: %w", name, plain(err))
			}
		}
	}
	return nil
}

// Drop ends the draft; what has not been published is removed. Twice is fine.
func (d *Draft) Drop() error {
	if d.files == nil {
		return nil
	}
	err := errors.Join(d.files.Close(), plain(d.into.RemoveAll(draftName)), d.into.Close())
	d.files = nil
	return err
}
