package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/berthdev/berth/toolset"
)

// Bounds of a walk, whatever a session has made.
const (
	maxListed = 1 << 19 // entries of one directory
	maxPath   = 4095    // bytes of a path; no kernel takes a longer one
)

var errListed = fmt.Errorf("it has more than %d entries", maxListed)

// hold reaches what is below one directory of the host, by paths relative to
// it that have no links and no ".." in them. When a part of a path but the
// last is a link, or the last is one and the method is not lstat or readlink,
// the answer is errMoved: somebody changed the path after it was resolved.
type hold interface {
	lstat(rel string) (fs.FileInfo, error)
	readlink(rel string) (string, error)
	// open opens a regular file and nothing else.
	open(rel string) (toolset.File, error)
	mkdir(rel string) error
	write(rel string, data []byte) error
	// remove removes what is no directory, or with dir an empty one.
	remove(rel string, dir bool) error
	list(rel string) (listing, error)
	// root opens a directory for os.Root's ways of work.
	root(rel string) (*os.Root, error)
	close() error
}

// listing is a directory as it was read, sorted by name. Its entries can be
// looked at by several goroutines at once.
type listing interface {
	names() []dirent
	open(name string) (toolset.File, error)
	lstat(name string) (fs.FileInfo, error)
	modified(name string) (time.Time, error)
	// keep makes the listing good until one more close.
	keep()
	close()
}

type dirent struct {
	name string
	mode fs.FileMode // type bits
}

type owner struct{ uid, gid int }

var (
	errMoved    = errors.New("a link appeared in the path")
	errUnsteady = errors.New("the path keeps changing")
	errNUL      = syscall.EINVAL
	errTooLong  = syscall.ENAMETOOLONG
)

func isMoved(err error) bool { return errors.Is(err, errMoved) || errors.Is(err, syscall.EAGAIN) }

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// regular says what is wrong with opening a file of this mode.
func regular(mode fs.FileMode) error {
	switch {
	case mode.IsRegular():
		return nil
	case mode.IsDir():
		return toolset.ErrIsDir
	case mode&fs.ModeSymlink != 0:
		return errMoved
	}
	return toolset.ErrNotRegular
}
