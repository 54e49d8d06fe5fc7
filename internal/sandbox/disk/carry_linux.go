package disk

import (
	"context"
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
)

// carry copies what is in one directory into another one: files with their
// modes, times, holes and links, down to a depth. Nobody else may change
// either meanwhile; names lead nowhere else all the same. What its owner cannot
// read is read.
func carry(ctx context.Context, from, to string) error {
	c := carrier{ctx: ctx, linked: map[uint64]string{}}
	for _, o := range []struct {
		at   *int
		path string
	}{{&c.from, from}, {&c.to, to}} {
		fd, err := unix.Open(o.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		*o.at = fd
	}
	var st unix.Stat_t
	err := unix.Fstat(c.from, &st)
	if err == nil && st.Mode&0o700 != 0o700 {
		err = unix.Chmod(from, 0o700)
	}
	if err != nil {
		return err
	}
	for todo := []string{"."}; len(todo) > 0; {
		dir := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		more, err := c.directory(dir)
		if err != nil {
			return err
		}
		todo = append(todo, more...)
	}
	if err := c.settle(); err != nil {
		return err
	}
	return unix.Chmod(to, st.Mode&0o7777)
}

type carrier struct {
	ctx      context.Context // of the one carry
	from, to int
	linked   map[uint64]string // inodes with several names: where the first was copied to
	dirs     []carried
	buf      []byte
}

// carried is a directory whose mode and times are set when all is in it.
type carried struct {
	path    string
	st      unix.Stat_t
	widened bool // at the source, to be read
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

// directory copies what is in one and gives the directories below.
func (c *carrier) directory(rel string) (dirs []string, err error) {
	fd, err := below(c.from, rel, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	in := os.NewFile(uintptr(fd), rel)
	defer in.Close()
	out, err := below(c.to, rel, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(out)
	for {
		names, err := in.Readdirnames(1024)
		for _, name := range names {
			if c.ctx.Err() != nil {
				return nil, context.Cause(c.ctx)
			}
			at := path.Join(rel, name)
			if len(at) > maxPath || strings.Count(at, "/") > maxDepth {
				continue
			}
			dir, err := c.entry(fd, out, at, name)
			if err != nil {
				return nil, err
			}
			if dir {
				dirs = append(dirs, at)
			}
		}
		if err == io.EOF {
			return dirs, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// entry copies one; dir says that it is a directory, whose content is to come.
func (c *carrier) entry(in, out int, at, name string) (dir bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(in, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		if first, ok := c.linked[st.Ino]; ok {
			return false, unix.Linkat(c.to, first, out, name, 0)
		}
		c.linked[st.Ino] = at
	}
	switch kind {
	case unix.S_IFDIR:
		d := carried{path: at, st: st, widened: st.Mode&0o700 != 0o700}
		if d.widened {
			if err := unix.Fchmodat(in, name, st.Mode&0o7777|0o700, 0); err != nil {
				return false, err
			}
		}
		if err := unix.Mkdirat(out, name, 0o700); err != nil && err != unix.EEXIST {
			return false, err
		}
		c.dirs = append(c.dirs, d)
		return true, nil
	case unix.S_IFREG:
		return false, c.file(in, out, name, &st)
	case unix.S_IFLNK:
		buf := make([]byte, maxPath+1)
		n, err := unix.Readlinkat(in, name, buf)
		if err == nil {
			err = unix.Symlinkat(string(buf[:n]), out, name)
		}
		if err != nil {
			return false, err
		}
	case unix.S_IFIFO, unix.S_IFSOCK:
		if err := unix.Mknodat(out, name, kind|st.Mode&0o777, 0); err != nil {
			return false, err
		}
	default: // a device, which nobody inside can make
		return false, nil
	}
	return false, times(out, name, &st)
}

func times(dir int, name string, st *unix.Stat_t) error {
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
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
	f := os.NewFile(uintptr(to), name)
	defer f.Close()
	if err := c.content(from, to, st.Size); err != nil {
		return err
	}
	if err := unix.Fchmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	if err := times(out, name, st); err != nil {
		return err
	}
	return f.Close()
}

func (c *carrier) content(from, to int, size int64) error {
	if c.buf == nil {
		c.buf = make([]byte, carryBytes)
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
	return unix.Ftruncate(to, size)
}

// settle sets the directories' modes and times, the deepest first.
func (c *carrier) settle() error {
	for _, d := range slices.Backward(c.dirs) {
		set := func(root int, do func(dir int, name string) error) error {
			dir, err := below(root, path.Dir(d.path), unix.O_PATH|unix.O_DIRECTORY, 0)
			if err != nil {
				return err
			}
			defer unix.Close(dir)
			return do(dir, path.Base(d.path))
		}
		mode := func(dir int, name string) error { return unix.Fchmodat(dir, name, d.st.Mode&0o7777, 0) }
		err := set(c.to, func(dir int, name string) error {
			if err := times(dir, name, &d.st); err != nil {
				return err
			}
			return mode(dir, name)
		})
		if err == nil && d.widened {
			err = set(c.from, mode)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
