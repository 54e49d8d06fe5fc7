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
)

// maxOpen is how many directories within each other are open at one time while
// they are removed.
const maxOpen = 64

// All removes a directory, or whatever is there, of which no sandbox runs any
// more. It takes few descriptors however deep the directory is: the other
// sessions need some. Nothing to remove is no error.
func All(path string) error {
	dir, err := os.OpenRoot(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(In(dir, filepath.Base(path)), dir.Close())
}

// In is All for a name in a directory.
func In(dir *os.Root, name string) error {
	info, err := dir.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.IsDir():
		return dir.Remove(name)
	}
	if info.Mode()&0o700 != 0o700 {
		_ = dir.Chmod(name, 0o700) // what follows says what is in the way
	}
	top, err := dir.OpenRoot(name)
	if err != nil {
		return err
	}
	r := remover{top: top, lifts: ".lifted-" + rand.Text() + "-"}
	if err := errors.Join(r.empty(top, ".", 1), top.Close()); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return dir.Remove(name)
}

type remover struct {
	top    *os.Root
	lifts  string // begins the names of directories that were brought up
	lifted int
}

// empty removes what is in a directory, whose path below the top is at.
func (r *remover) empty(dir *os.Root, at string, open int) error {
	for {
		names, err := list(dir)
		if err != nil || len(names) == 0 {
			return err
		}
		var first error
		gone := 0
		for _, name := range names {
			if err := r.remove(dir, path.Join(at, name), open); err == nil {
				gone++
			} else if first == nil {
				first = err
			}
		}
		if gone == 0 {
			return first
		}
	}
}

// list gives some of the names in a directory.
func list(dir *os.Root) ([]string, error) {
	f, err := dir.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(1024)
	if err == io.EOF {
		err = nil
	}
	return names, err
}

// remove removes what is at a path, in a directory that so many are open above.
// What lies too deep is brought to the top, where its turn comes.
func (r *remover) remove(dir *os.Root, at string, open int) error {
	name := path.Base(at)
	err := dir.Remove(name)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	info, e := dir.Lstat(name)
	if e != nil || !info.IsDir() {
		return err
	}
	if info.Mode()&0o700 != 0o700 {
		_ = dir.Chmod(name, 0o700)
	}
	if open == maxOpen {
		r.lifted++
		return r.top.Rename(at, r.lifts+strconv.Itoa(r.lifted))
	}
	in, err := dir.OpenRoot(name)
	if err != nil {
		return err
	}
	if err = errors.Join(r.empty(in, at, open+1), in.Close()); err != nil {
		return err
	}
	return dir.Remove(name)
}
