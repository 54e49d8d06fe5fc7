package outputs

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/berthdev/berth/internal/sandbox/removal"
	"github.com/berthdev/berth/toolset"
)

// collector is one collection. The walk hands files to a few copiers.
type collector struct {
	files  toolset.Files
	limits Limits
	last   string // where the files of the last collection are
	kept   bool   // there was one
	known  map[Path]File
	began  time.Time

	dir   string // of the new collection, "" until there is something to keep
	made  map[string]bool
	left  int64 // bytes that may still be taken
	names int   // bytes of paths that may still be taken
	jobs  chan job

	mu       sync.Mutex
	manifest Manifest
	failed   error // of the copying, which ends the collection
}

type job struct {
	name Path
	info fs.FileInfo
	from toolset.File
}

func (c *collector) collect(ctx context.Context, lost []LeftOut) error {
	c.left, c.names = c.limits.Bytes, maxNames
	c.jobs = make(chan job, 64)
	var copiers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), 4) {
		copiers.Go(func() {
			w := copier{buf: make([]byte, copyBytes)}
			for j := range c.jobs {
				c.keep(&w, j)
				j.from.Close()
			}
		})
	}
	err := c.files.Walk(ctx, Dir, func(name string, e toolset.Entry) error { return c.visit(name, e) })
	close(c.jobs)
	copiers.Wait()
	switch we := (*toolset.WalkError)(nil); {
	case c.failed != nil:
		return c.failed
	case errors.As(err, &we):
		c.leave(Path(strings.TrimPrefix(we.First, Dir+"/")), fmt.Sprintf("%d directories cannot be read, this is the first: %s", we.Dirs, plain(we.Err)))
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, toolset.ErrNotDir):
	case err != nil:
		return err
	}
	m := &c.manifest
	found := len(m.Files)+len(m.LeftOut) > 0
	for _, l := range lost {
		c.leave(l.Path, l.Reason)
	}
	slices.SortFunc(m.Files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	slices.SortFunc(m.LeftOut, func(a, b LeftOut) int { return cmp.Compare(a.Path, b.Path) })
	for _, f := range m.Files {
		m.Bytes += f.Size
	}
	if c.dir == "" && (found || len(lost) > 0 && !c.kept) {
		return c.begin()
	}
	return nil
}

// begin makes the directory of the new collection.
func (c *collector) begin() (err error) {
	if c.dir, err = os.MkdirTemp(filepath.Dir(c.last), "."+filepath.Base(c.last)+"-"); err != nil {
		return err
	}
	c.made = map[string]bool{".": true}
	return os.Mkdir(filepath.Join(c.dir, filesName), 0o755)
}

// drop removes a collection that did not become the session's.
func (c *collector) drop() {
	if c.dir != "" {
		_ = removal.All(c.dir) // the next keeper's start finds what is in the way
	}
}

// visit takes an entry of the walk in, or notes why not.
func (c *collector) visit(full string, e toolset.Entry) error {
	c.mu.Lock()
	failed := c.failed
	taken := len(c.manifest.LeftOut) + c.manifest.More
	c.mu.Unlock()
	if failed != nil {
		return fs.SkipAll
	}
	rel, ok := strings.CutPrefix(full, Dir+"/")
	if !ok || !filepath.IsLocal(rel) {
		return nil // the directory itself is a link to another place inside
	}
	name := Path(rel)
	switch {
	case e.IsDir():
		return nil
	case e.Type()&fs.ModeSymlink != 0:
		c.leave(name, "it is a symbolic link")
		return nil
	case !e.Type().IsRegular():
		c.leave(name, "it is no regular file")
		return nil
	case c.limits.Files == 0 || len(rel) > c.names:
		c.leave(name, "there are too many files, or their names are too long together")
		if taken > maxLeftOut {
			return fs.SkipAll
		}
		return nil
	}
	info, err := e.Info()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		c.leave(name, plain(err))
		return nil
	case info.Size() > c.left:
		c.leave(name, fmt.Sprintf("its %d bytes are more than the %d that may still be kept", info.Size(), c.left))
		return nil
	}
	from, err := e.Open()
	if err != nil {
		c.leave(name, plain(err))
		return nil
	}
	if c.dir == "" {
		if err := c.begin(); err != nil {
			from.Close()
			return err
		}
	}
	if err := c.parents(path.Dir(rel)); err != nil {
		from.Close()
		c.leave(name, plain(err))
		return nil
	}
	c.left -= info.Size()
	c.limits.Files--
	c.names -= len(rel)
	c.jobs <- job{name, info, from}
	return nil
}

func (c *collector) parents(dir string) error {
	if c.made[dir] {
		return nil
	}
	if err := os.MkdirAll(filepath.Join(c.dir, filesName, dir), 0o755); err != nil {
		return err
	}
	c.made[dir] = true
	return nil
}

func (c *collector) leave(name Path, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.manifest.LeftOut) >= maxLeftOut {
		c.manifest.More++
		return
	}
	c.manifest.LeftOut = append(c.manifest.LeftOut, LeftOut{name, why})
}

// keep copies one file, or links it to the copy of the last time.
func (c *collector) keep(w *copier, j job) {
	f := File{Path: j.name, Mode: j.info.Mode().Perm(), Modified: j.info.ModTime().UTC(), Version: version(j.info, c.began)}
	to := filepath.Join(c.dir, filesName, string(j.name))
	if old, ok := c.known[j.name]; ok && f.Version != "" && old.Version == f.Version {
		if os.Link(filepath.Join(c.last, filesName, string(j.name)), to) == nil {
			f.Size, f.SHA256 = old.Size, old.SHA256
			c.add(f)
			return
		}
	}
	var err error
	f.Size, f.SHA256, err = w.copy(j.from, to, j.info.Size(), f.Mode)
	switch re := (*readError)(nil); {
	case err == nil:
		c.add(f)
	case errors.As(err, &re):
		c.leave(j.name, "it cannot be read: "+plain(re.err))
	case slices.ContainsFunc(nameErrors, func(e error) bool { return errors.Is(err, e) }):
		c.leave(j.name, "it cannot have its name where outputs are kept: "+plain(err))
	default:
		c.mu.Lock()
		c.failed = cmp.Or(c.failed, err)
		c.mu.Unlock()
	}
}

func (c *collector) add(f File) {
	c.mu.Lock()
	c.manifest.Files = append(c.manifest.Files, f)
	c.mu.Unlock()
}

// nameErrors are of a name that is good in the session and not here: too long
// in all, or the same as another's.
var nameErrors = []error{syscall.ENAMETOOLONG, syscall.EEXIST, syscall.EISDIR, syscall.ENOTDIR, syscall.EILSEQ, syscall.EINVAL}

// settled is how old a file's last change must be for its time to tell it
// from a later one.
const settled = time.Second

// copyBytes is how much is copied at a time, and the grain of holes.
const copyBytes = 128 << 10

// copier copies files; its buffer is used again.
type copier struct{ buf []byte }

// readError is a file that could not be read; other errors are the disk's.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }

// copy copies at most size bytes to a new file. Long runs of zeros become
// holes.
func (w *copier) copy(from toolset.File, to string, size int64, mode fs.FileMode) (n int64, digest string, err error) {
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode|0o600)
	if err != nil {
		return 0, "", err
	}
	defer out.Close()
	hash := sha256.New()
	hole := false
	for n < size {
		m, err := io.ReadFull(from, w.buf[:min(int64(len(w.buf)), size-n)])
		b := w.buf[:m]
		hash.Write(b)
		hole = m == len(w.buf) && zero(b)
		if !hole && m > 0 {
			if _, err := out.WriteAt(b, n); err != nil {
				return 0, "", err
			}
		}
		n += int64(m)
		if err == io.EOF || err == io.ErrUnexpectedEOF { // it became shorter
			break
		}
		if err != nil {
			os.Remove(to)
			return 0, "", &readError{err}
		}
	}
	if hole {
		if err := out.Truncate(n); err != nil {
			return 0, "", err
		}
	}
	if err := out.Close(); err != nil {
		return 0, "", err
	}
	return n, hex.EncodeToString(hash.Sum(nil)), nil
}

func zero(b []byte) bool {
	for len(b) >= 8 {
		if b[0]|b[1]|b[2]|b[3]|b[4]|b[5]|b[6]|b[7] != 0 {
			return false
		}
		b = b[8:]
	}
	return true
}

// plain is an error without the host's names.
func plain(err error) string {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	return err.Error()
}
