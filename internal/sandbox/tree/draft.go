package tree

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/berthdev/berth/internal/sandbox/removal"
	"github.com/berthdev/berth/toolset"
)

// draftName is where a draft is until it is published. There is one at a time
// in a directory; what an earlier process left of one is removed.
const draftName = ".berth-draft"

// draftTime bounds the removal of a draft: the session that lives there may fill it
// as fast as it is emptied. Shorter in tests.
var draftTime = 30 * time.Second

// Draft is new files for a directory of the tree that appear in it together
// or not at all. Until then, on this machine, nobody but the supervisor's user
// can read them. Create and Link may be called from several goroutines at once;
// nothing else may run beside Publish and Drop.
type Draft struct {
	at ground // nil once it has ended

	mu   sync.Mutex
	dirs map[string]bool
}

// ground is where a draft is made: a directory, and the draft in it. Names are
// relative to either, with slashes.
type ground interface {
	create(name string, mode fs.FileMode, fill func(io.Writer) error) error
	link(name, target string) error
	mkdir(name string) error
	// read lists a directory of the draft.
	read(dir string) ([]dirent, error)
	// lstat looks at what the directory has of that name.
	lstat(name string) (fs.FileInfo, error)
	// publish moves a name of the draft to the directory.
	publish(name string) error
	// drop removes the draft and lets go of both.
	drop() error
}

// Draft begins a draft for a directory that exists.
func (t *Tree) Draft(dir string) (d *Draft, err error) {
	err = t.reach(dir, existing(func(rel string) error {
		if h, ok := t.hold.(far); ok {
			d, err = draftOn(newOutpost(h, rel))
			return err
		}
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

func draftOn(g ground, err error) (*Draft, error) {
	if err != nil {
		return nil, err
	}
	return &Draft{at: g, dirs: map[string]bool{".": true}}, nil
}

// newDraft begins one in a directory of this machine, which it closes at its
// end.
func newDraft(into *os.Root, own owner) (*Draft, error) { return draftOn(newPlot(into, own)) }

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

// Create makes a regular file and has fill write it, to an *os.File where it is
// on this machine. Names are relative, with slashes; missing directories are
// made. A name that is there already is an error.
func (d *Draft) Create(name string, mode fs.FileMode, fill func(io.Writer) error) error {
	if err := d.parents(name); err != nil {
		return err
	}
	return d.at.create(name, mode, fill)
}

// Link makes a symbolic link. Its target is only a text: what it leads to is
// decided inside, when somebody follows it.
func (d *Draft) Link(name, target string) error {
	if err := d.parents(name); err != nil {
		return err
	}
	return d.at.link(name, target)
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
	if err := d.at.mkdir(name); err != nil {
		return err
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
	entries, err := d.at.read(dir)
	if err != nil {
		return plain(err)
	}
	for _, e := range entries {
		name := path.Join(dir, e.name)
		there, err := d.at.lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return fmt.Errorf("%s: %w", name, plain(err))
		case there.IsDir() && e.mode.IsDir():
			if err := d.merge(name, move); err != nil {
				return err
			}
			continue
		case there.IsDir():
			return fmt.Errorf("%s: %w", name, toolset.ErrIsDir)
		case e.mode.IsDir():
			return fmt.Errorf("%s: %w", name, toolset.ErrNotDir)
		}
		if move {
			if err := d.at.publish(name); err != nil {
				return fmt.Errorf("%s: %w", name, plain(err))
			}
		}
	}
	return nil
}

// Drop ends the draft; what has not been published is removed. Twice is fine.
func (d *Draft) Drop() error {
	if d.at == nil {
		return nil
	}
	err := d.at.drop()
	d.at = nil
	return err
}

// plot is a ground on this machine.
type plot struct {
	into  *os.Root // the directory
	name  string   // of the draft in it
	files *os.Root // the draft
	own   owner
}

// newPlot makes a draft of the usual name, or where a session fills that as fast
// as it is emptied, of one that it cannot know.
func newPlot(into *os.Root, own owner) (*plot, error) {
	name := draftName
	err := removal.Within(draftTime, into, name)
	if err == nil {
		err = into.Mkdir(name, 0o700)
	}
	if errors.Is(err, removal.ErrLong) || errors.Is(err, fs.ErrExist) {
		name += "-" + rand.Text()
		err = into.Mkdir(name, 0o700)
	}
	if err != nil {
		return nil, err
	}
	files, err := into.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	return &plot{into: into, name: name, files: files, own: own}, nil
}

func (p *plot) create(name string, mode fs.FileMode, fill func(io.Writer) error) error {
	f, err := p.files.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return plain(err)
	}
	defer f.Close()
	if err := fill(f); err != nil {
		return err
	}
	if p.own.uid >= 0 {
		if err := f.Chown(p.own.uid, p.own.gid); err != nil {
			return plain(err)
		}
	}
	if err := f.Chmod(mode.Perm()); err != nil {
		return plain(err)
	}
	return plain(f.Close())
}

func (p *plot) link(name, target string) error {
	if err := p.files.Symlink(target, name); err != nil {
		return plain(err)
	}
	return p.give(name)
}

func (p *plot) mkdir(name string) error {
	if err := p.files.Mkdir(name, 0o755); err != nil {
		return plain(err)
	}
	return p.give(name)
}

func (p *plot) give(name string) error {
	if p.own.uid < 0 {
		return nil
	}
	return plain(p.files.Lchown(name, p.own.uid, p.own.gid))
}

func (p *plot) read(dir string) ([]dirent, error) {
	entries, err := fs.ReadDir(p.files.FS(), dir)
	all := make([]dirent, len(entries))
	for i, e := range entries {
		all[i] = dirent{e.Name(), e.Type()}
	}
	return all, err
}

func (p *plot) lstat(name string) (fs.FileInfo, error) { return p.into.Lstat(name) }

func (p *plot) publish(name string) error { return p.into.Rename(p.name+"/"+name, name) }

// drop leaves what comes faster than it goes: a session's own user makes that.
func (p *plot) drop() error {
	err := removal.Within(draftTime, p.into, p.name)
	if errors.Is(err, removal.ErrLong) {
		err = nil
	}
	return errors.Join(p.files.Close(), plain(err), p.into.Close())
}
