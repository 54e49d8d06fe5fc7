// Package removal removes what sessions have made: however deep it is, whatever
// they have made unreadable.
package removal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// maxOpen is how many directories within each other are open at one time while
// they are removed.
const maxOpen = 64

// limit bounds a removal: whoever is alive there may make files faster than they
// are removed. Shorter in tests.
var limit = 10 * time.Minute

// ErrLong is what a removal gives up with.
var ErrLong = errors.New("it takes too long; what is left can be removed later")

// All removes a directory, or whatever is there, of which no sandbox runs any
// more. It takes few descriptors however deep the directory is: the other
// sessions need some. What is mounted there stays: that is an error. Nothing to
// remove is none.
func All(path string) error {
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil && !info.IsDir():
		return os.Remove(path)
	}
	dir, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(In(dir, filepath.Base(path)), dir.Close())
}

// In is All for a path in a directory.
func In(dir *os.Root, at string) error { return Within(limit, dir, at) }

// Within is In that gives up after d, with ErrLong.
func Within(d time.Duration, dir *os.Root, at string) error {
	f, err := dir.OpenFile(path.Dir(at), os.O_RDONLY|unix.O_DIRECTORY, 0) // a FIFO would be waited for
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	r := newRemover(d)
	r.root = dir
	if err := r.remove(f, at, false, 0); err != nil {
		return fmt.Errorf("remove %s: %w", at, err)
	}
	return nil
}

// Rest is All for what is in a directory, but for the names that keep has. It
// is for a user whom no owner can bar.
func Rest(dir *os.File, keep func(name string) bool) error {
	r := newRemover(limit)
	r.top, r.keep = dir, keep
	for {
		gone, err := r.empty(dir, "", 0)
		if err == nil && gone > 0 {
			_, err = dir.Seek(0, io.SeekStart)
		}
		if err != nil {
			return fmt.Errorf("empty %s: %w", dir.Name(), err)
		}
		if gone == 0 {
			return nil
		}
	}
}

type remover struct {
	root   *os.Root               // to unbar what its owner has barred, or nil
	top    *os.File               // the directory that is removed, or emptied
	keep   func(name string) bool // names in it that stay, nil for none
	until  time.Time
	lifts  string // begins the names of directories that were brought up
	lifted int
}

func newRemover(d time.Duration) *remover {
	return &remover{until: time.Now().Add(d), lifts: ".lifted-" + rand.Text() + "-"}
}

// remove removes what is at a path in the root: its last name is in dir, below as
// many other directories as said; folder says that it is known to be one. What
// lies too deep is brought to the top, where its turn comes.
func (r *remover) remove(dir *os.File, at string, folder bool, depth int) error {
	name := path.Base(at)
	fail := func(err error) error { return &fs.PathError{Op: "remove", Path: at, Err: err} }
	var plain error // why it is not removed as what has no entries
	if !folder {
		if plain = unlink(dir, name, 0); plain == nil {
			return nil
		}
	}
	switch err := unlink(dir, name, unix.AT_REMOVEDIR); {
	case err == nil:
		return nil
	case err == unix.ENOTDIR && plain != nil:
		return fail(plain)
	case !full(err):
		return fail(err)
	}
	if depth == maxOpen {
		if err := r.lift(dir, at); err != nil {
			return fail(err)
		}
		return nil
	}
	f, err := r.open(dir, at)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	if depth == 0 {
		r.top = f
	}
	for {
		gone, err := r.empty(f, at, depth)
		if err != nil {
			return err
		}
		err = unlink(dir, name, unix.AT_REMOVEDIR)
		if err == nil {
			return nil
		}
		if !full(err) || gone == 0 {
			return fail(err)
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return fail(err)
		}
	}
}

// lift brings a directory to the top. Its owner may have barred it: then it cannot
// be moved.
func (r *remover) lift(dir *os.File, at string) error {
	r.lifted++
	move := func() error {
		return unix.Renameat(int(dir.Fd()), path.Base(at), int(r.top.Fd()), r.lifts+strconv.Itoa(r.lifted))
	}
	err := move()
	if err == unix.EACCES {
		r.unbar(at)
		err = move()
	}
	return err
}

// unbar gives a directory's owner all rights; what follows says what is in the
// way.
func (r *remover) unbar(at string) {
	if r.root != nil {
		_ = r.root.Chmod(at, 0o700)
	}
}

// empty removes what is in a directory from where it is read on, and says how
// much that was: with some gone, another look may find more.
func (r *remover) empty(dir *os.File, at string, depth int) (gone int, err error) {
	var first error
	for {
		if time.Now().After(r.until) {
			return gone, ErrLong
		}
		entries, err := dir.ReadDir(1024)
		for _, e := range entries {
			if dir == r.top && r.keep != nil && r.keep(e.Name()) {
				continue
			}
			if err := r.remove(dir, path.Join(at, e.Name()), e.IsDir(), depth+1); err == nil {
				gone++
			} else if first == nil {
				first = err
			}
		}
		switch {
		case err == io.EOF && gone > 0:
			return gone, nil
		case err == io.EOF:
			return 0, first
		case err != nil:
			return gone, err
		}
	}
}

// open opens a directory to be emptied, which its owner may have barred.
func (r *remover) open(dir *os.File, at string) (*os.File, error) {
	name := path.Base(at)
	fd, err := openat(dir, name)
	if err == unix.EACCES {
		r.unbar(at)
		fd, err = openat(dir, name)
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err == nil && st.Mode&0o700 != 0o700 {
		_ = unix.Fchmod(fd, 0o700)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// unlink removes one name. That it is not there is no error.
func unlink(dir *os.File, name string, flags int) error {
	for loosened := false; ; {
		switch err := unix.Unlinkat(int(dir.Fd()), name, flags); err {
		case unix.EINTR:
		case unix.ENOENT:
			return nil
		case unix.EPERM:
			if loosened {
				return err
			}
			loosenIn(dir, name)
			loosened = true
		default:
			return err
		}
	}
}

// full says that a directory cannot be removed because something is in it.
func full(err error) bool { return err == unix.ENOTEMPTY || err == unix.EEXIST }

func openat(dir *os.File, name string) (int, error) {
	for {
		fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
