package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// maxPath and maxDepth bound paths of what is carried, in bytes and in
	// directories; what lies deeper stays behind.
	maxPath  = 4095
	maxDepth = 256
	// carryBytes is how much is copied at a time.
	carryBytes = 1 << 20
	// twiceBytes bounds what files with too many names may take beyond once.
	twiceBytes = 64 << 20
)

var (
	errDeep   = errors.New("it lies too deep")
	errDevice = errors.New("it is a device")
	errNames  = errors.New("the file has too many names")
)

// Behind is what a copy has left out, because one of the file systems cannot
// have it.
type Behind struct {
	Entries int
	First   string // the first one's path
	Why     error  // of the first
}

func (b *Behind) add(path string, why error) {
	if b.Entries++; b.Entries == 1 {
		b.First, b.Why = path, why
	}
}

// carry copies what is in one directory into another one: files with their
// modes, times, holes and links, down to a depth. Nobody else may change
// either meanwhile; names lead nowhere else all the same. What its owner cannot
// read is read. Nothing but what lies too deep and devices stays behind of a
// whole copy; of another one also what is refused for its own sake.
func carry(ctx context.Context, from, to string, whole bool) (Behind, error) {
	c := carrier{ctx: ctx, whole: whole, linked: map[uint64]entry{}}
	for _, o := range []struct {
		at   *int
		path string
	}{{&c.from, from}, {&c.to, to}} {
		fd, err := unix.Open(o.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return Behind{}, err
		}
		defer unix.Close(fd)
		*o.at = fd
	}
	var st unix.Stat_t
	err := unix.Fstat(c.from, &st)
	if err == nil && st.Mode&0o700 != 0o700 {
		err = unix.Chmod(from, st.Mode&0o7777|0o700)
		defer unix.Chmod(from, st.Mode&0o7777)
	}
	if err != nil {
		return Behind{}, err
	}
	defer c.narrow()
	for todo := []*carried{nil}; len(todo) > 0; {
		dir := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		first := len(c.dirs)
		if err := c.directory(dir); err != nil {
			return c.behind, err
		}
		todo = append(todo, c.dirs[first:]...)
	}
	if err := c.settle(); err != nil {
		return c.behind, err
	}
	return c.behind, unix.Chmod(to, st.Mode&0o7777)
}

type carrier struct {
	ctx      context.Context // of the one carry
	whole    bool
	from, to int
	linked   map[uint64]entry // inodes with several names: where it was last copied to
	twice    int64            // bytes that were copied again for want of a link
	behind   Behind
	dirs     []*carried
	buf      []byte
}

// carried is a directory whose mode and times are set when all is in it. There
// may be very many, and their paths be long.
type carried struct {
	entry
	mode    uint32
	times   [2]unix.Timespec
	widened bool // at the source, to be read
}

// entry is a name in a directory, nil for the one that is copied.
type entry struct {
	dir  *carried
	name string
}

func (e entry) path() string {
	parts := []string{e.name}
	for d := e.dir; d != nil; d = d.dir {
		parts = append(parts, d.name)
	}
	slices.Reverse(parts)
	return strings.Join(parts, "/")
}

func (d *carried) path() string {
	if d == nil {
		return "."
	}
	return d.entry.path()
}

// join adds what stayed behind below a path.
func (b *Behind) join(below string, other Behind) {
	if b.Entries == 0 && other.Entries > 0 {
		b.First, b.Why = path.Join(below, other.First), other.Why
	}
	b.Entries += other.Entries
}

// leave notes that something stays behind for an error, and gives the error if
// that ends the copy: it is not that one file's, and the next try may have it.
func (c *carrier) leave(at string, err error) error {
	if err == nil || c.ctx.Err() != nil {
		return err
	}
	for _, end := range []error{unix.ENOSPC, unix.EDQUOT, unix.EROFS, unix.EIO, unix.ENOMEM, unix.EMFILE, unix.ENFILE} {
		if errors.Is(err, end) {
			return err
		}
	}
	if c.whole && err != errDeep && err != errDevice {
		return fmt.Errorf("%s: %w", at, err)
	}
	c.behind.add(at, err)
	return nil
}

// below opens what is below a directory, through no link.
func below(dir int, rel string, flags uint64, mode uint64) (int, error) {
	for {
		fd, err := unix.Openat2(dir, rel, &unix.OpenHow{
			Flags: flags | unix.O_NOFOLLOW | unix.O_CLOEXEC, Mode: mode,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
		})
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// directory copies what is in one, and adds the directories below to c.dirs.
func (c *carrier) directory(dir *carried) error {
	rel := dir.path()
	fd, err := below(c.from, rel, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return c.leave(rel, err)
	}
	in := os.NewFile(uintptr(fd), rel)
	defer in.Close()
	out, err := below(c.to, rel, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return c.leave(rel, err)
	}
	defer unix.Close(out)
	for {
		names, err := in.Readdirnames(1024)
		for _, name := range names {
			if c.ctx.Err() != nil {
				return context.Cause(c.ctx)
			}
			at := path.Join(rel, name)
			err := errDeep
			if len(at) <= maxPath && strings.Count(at, "/") <= maxDepth {
				err = c.entry(fd, out, entry{dir, name})
			}
			if err = c.leave(at, err); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return c.leave(rel, err)
		}
	}
}

// entry copies one; the content of a directory is to come.
func (c *carrier) entry(in, out int, e entry) error {
	var st unix.Stat_t
	if err := unix.Fstatat(in, e.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return c.makeDir(in, out, &carried{entry: e, mode: st.Mode & 0o7777, times: [2]unix.Timespec{st.Atim, st.Mtim}, widened: st.Mode&0o700 != 0o700})
	}
	if st.Nlink == 1 {
		return c.copy(in, out, e.name, &st)
	}
	if first, ok := c.linked[st.Ino]; ok {
		if err := unix.Linkat(c.to, first.path(), out, e.name, 0); err != unix.EMLINK {
			return err
		}
		if c.twice += st.Blocks * 512; c.twice > twiceBytes {
			return errNames
		}
	}
	if err := c.copy(in, out, e.name, &st); err != nil {
		return err
	}
	c.linked[st.Ino] = e
	return nil
}

func (c *carrier) makeDir(in, out int, d *carried) error {
	if d.widened {
		if err := unix.Fchmodat(in, d.name, d.mode|0o700, 0); err != nil {
			return err
		}
	}
	if err := unix.Mkdirat(out, d.name, 0o700); err != nil && err != unix.EEXIST {
		if d.widened {
			_ = unix.Fchmodat(in, d.name, d.mode, 0)
		}
		return err
	}
	c.dirs = append(c.dirs, d)
	return nil
}

// copy copies what is no directory. On error nothing of it is there.
func (c *carrier) copy(in, out int, name string, st *unix.Stat_t) (err error) {
	switch kind := st.Mode & unix.S_IFMT; kind {
	case unix.S_IFREG:
		return c.file(in, out, name, st)
	case unix.S_IFLNK:
		buf := make([]byte, maxPath+1)
		var n int
		if n, err = unix.Readlinkat(in, name, buf); err == nil {
			err = unix.Symlinkat(string(buf[:n]), out, name)
		}
	case unix.S_IFIFO, unix.S_IFSOCK:
		err = unix.Mknodat(out, name, kind|st.Mode&0o777, 0)
	default: // of those, 0:0 can be made inside
		return errDevice
	}
	if err != nil {
		return err
	}
	if err = setTimes(out, name, [2]unix.Timespec{st.Atim, st.Mtim}); err != nil {
		_ = unix.Unlinkat(out, name, 0)
	}
	return err
}

func setTimes(dir int, name string, times [2]unix.Timespec) error {
	return unix.UtimesNanoAt(dir, name, times[:], unix.AT_SYMLINK_NOFOLLOW)
}

// file copies a regular file, its holes as holes.
func (c *carrier) file(in, out int, name string, st *unix.Stat_t) error {
	from, err := below(in, name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err == unix.EACCES {
		if err = unix.Fchmodat(in, name, st.Mode&0o7777|0o400, 0); err != nil {
			return err
		}
		from, err = below(in, name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
		defer unix.Fchmodat(in, name, st.Mode&0o7777, 0)
	}
	if err != nil {
		return err
	}
	defer unix.Close(from)
	to, err := below(out, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err = c.content(from, to, st.Size); err == nil {
		err = unix.Fchmod(to, st.Mode&0o7777)
	}
	if err == nil {
		err = setTimes(out, name, [2]unix.Timespec{st.Atim, st.Mtim})
	}
	if err = errors.Join(err, unix.Close(to)); err != nil {
		_ = unix.Unlinkat(out, name, 0)
	}
	return err
}

func (c *carrier) content(from, to int, size int64) error {
	if c.buf == nil {
		c.buf = make([]byte, carryBytes)
	}
	if err := unix.Ftruncate(to, size); err != nil {
		return err
	}
	for at := int64(0); at < size; {
		data, err := unix.Seek(from, at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		if err != nil {
			return err
		}
		hole, err := unix.Seek(from, data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		for at = data; at < hole; {
			if c.ctx.Err() != nil {
				return context.Cause(c.ctx)
			}
			n, err := unix.Pread(from, c.buf[:min(int64(len(c.buf)), hole-at)], at)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return err
			}
			if n == 0 {
				return io.ErrUnexpectedEOF
			}
			for b := c.buf[:n]; len(b) > 0; {
				m, err := unix.Pwrite(to, b, at)
				if err != nil && err != unix.EINTR {
					return err
				}
				m = max(m, 0)
				b, at = b[m:], at+int64(m)
			}
		}
	}
	return nil
}

// settle sets the directories' modes and times, the deepest first.
func (c *carrier) settle() error {
	for _, d := range slices.Backward(c.dirs) {
		err := inDir(c.to, d.entry, func(dir int) error {
			if err := setTimes(dir, d.name, d.times); err != nil {
				return err
			}
			return unix.Fchmodat(dir, d.name, d.mode, 0)
		})
		if err = c.leave(d.path(), err); err != nil {
			return err
		}
	}
	return nil
}

// narrow gives the source's directories their modes back, for another try.
func (c *carrier) narrow() {
	for _, d := range slices.Backward(c.dirs) {
		if d.widened {
			_ = inDir(c.from, d.entry, func(dir int) error {
				return unix.Fchmodat(dir, d.name, d.mode, 0)
			})
		}
	}
}

// inDir calls a function with the directory that an entry is in.
func inDir(root int, e entry, do func(dir int) error) error {
	dir, err := below(root, e.dir.path(), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return do(dir)
}
