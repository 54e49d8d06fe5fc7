package child

import (
	"encoding/binary"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
)

// serveFile does an operation with a path. The agent has the rights of the tools
// and no more, so what it is kept from here is what they are told they cannot
// do, not what they could.
func (a *agent) serveFile(r agentwire.FileRequest) agentwire.FileReply {
	reply := agentwire.FileReply{ID: r.ID}
	if err := a.operate(r, &reply); err != nil {
		e, ok := err.(unix.Errno)
		if !ok || e == 0 {
			e = unix.EIO
		}
		return agentwire.FileReply{ID: r.ID, Errno: uint32(e)}
	}
	return reply
}

const (
	errMoved   = unix.Errno(agentwire.FileMoved)
	errOutside = unix.Errno(agentwire.FileOutside)
)

func (a *agent) operate(r agentwire.FileRequest, reply *agentwire.FileReply) error {
	dir, name, err := a.reach(r.Path, r.Op)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	switch r.Op {
	case agentwire.FileStat:
		reply.Info, err = stat(dir, name)
		return err
	case agentwire.FileLink:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, name, buf)
		if err != nil {
			return err
		}
		reply.Data = buf[:n]
		return nil
	case agentwire.FileMkdir:
		if err := unix.Mkdirat(dir, name, 0o755); err != nil && err != unix.EEXIST {
			return err
		}
		return nil
	case agentwire.FileCreate:
		fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		err = transfer(r.Data, 0, func(b []byte, at int64) (int, error) { return unix.Pwrite(fd, b, at) })
		if mode := uint32(r.Length) & 0o777; err == nil && mode != 0 {
			err = unix.Fchmod(fd, mode)
		}
		return err
	case agentwire.FileRename:
		into, to, err := a.reach(r.To, r.Op)
		if err != nil {
			return err
		}
		defer unix.Close(into)
		return unix.Renameat(dir, name, into, to)
	case agentwire.FileSymlink:
		return unix.Symlinkat(string(r.Data), dir, name)
	case agentwire.FileRemove:
		return unix.Unlinkat(dir, name, 0)
	case agentwire.FileRmdir:
		return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	case agentwire.FileList:
		return list(dir, name, r.Offset, reply)
	case agentwire.FileRead, agentwire.FilePut, agentwire.FileTruncate, agentwire.FileChmod:
		return content(dir, name, r, reply)
	}
	return unix.EINVAL
}

// reach opens the directory that a path is in, following no link. Above the
// places only what leads to one may be looked at or made.
func (a *agent) reach(path string, op agentwire.FileOp) (dir int, name string, err error) {
	if len(path) >= unix.PathMax || path == "" || path[0] != '/' || strings.IndexByte(path, 0) >= 0 {
		return -1, "", unix.EINVAL
	}
	inside, above := false, false
	for _, place := range a.boot.Places {
		inside = inside || path == place || strings.HasPrefix(path, place+"/")
		above = above || path == "/" || strings.HasPrefix(place, path+"/")
	}
	if !inside && !(above && (op == agentwire.FileStat || op == agentwire.FileLink || op == agentwire.FileMkdir)) {
		return -1, "", errOutside
	}
	parts := strings.Split(path[1:], "/")
	for _, p := range parts {
		if p == "." || p == ".." || p == "" && path != "/" {
			return -1, "", unix.EINVAL
		}
	}
	at := len(parts) - 1
	if name = parts[at]; name == "" {
		name = "."
	}
	if dir, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return -1, "", err
	}
	for _, p := range parts[:at] {
		next, err := unix.Openat(dir, p, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == unix.ENOTDIR {
			if st, e := stat(dir, p); e == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
				err = errMoved
			}
		}
		unix.Close(dir)
		if err != nil {
			return -1, "", err
		}
		dir = next
	}
	return dir, name, nil
}

func stat(dir int, name string) (agentwire.FileInfo, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return agentwire.FileInfo{}, err
	}
	return info(&st), nil
}

func info(st *unix.Stat_t) agentwire.FileInfo {
	return agentwire.FileInfo{Mode: st.Mode, Size: st.Size, Time: time.Unix(int64(st.Mtim.Sec), 0), Inode: st.Ino, Links: uint64(st.Nlink)}
}

// content works on what is in a regular file. Nothing else is ever opened.
func content(dir int, name string, r agentwire.FileRequest, reply *agentwire.FileReply) error {
	before, err := stat(dir, name)
	if err != nil {
		return err
	}
	switch before.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFLNK:
		return errMoved
	case unix.S_IFDIR:
		return unix.EISDIR
	default:
		return unix.EINVAL
	}
	flags := unix.O_RDONLY
	if r.Op == agentwire.FilePut || r.Op == agentwire.FileTruncate {
		flags = unix.O_WRONLY
	}
	fd, err := unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err == unix.ELOOP {
		return errMoved
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errMoved
	}
	reply.Info = info(&st)
	switch r.Op {
	case agentwire.FileTruncate:
		return unix.Ftruncate(fd, r.Offset)
	case agentwire.FileChmod:
		return unix.Fchmod(fd, uint32(r.Length)&0o777)
	case agentwire.FilePut:
		return transfer(r.Data, r.Offset, func(b []byte, at int64) (int, error) { return unix.Pwrite(fd, b, at) })
	}
	buf := make([]byte, min(r.Length, max(st.Size-r.Offset, 0), agentwire.MaxChunk))
	n := 0
	err = transfer(buf, r.Offset, func(b []byte, at int64) (int, error) {
		m, err := unix.Pread(fd, b, at)
		n += max(m, 0)
		if m == 0 && err == nil {
			err = errEnd
		}
		return m, err
	})
	reply.Data = buf[:n]
	if err == errEnd {
		err = nil
	}
	return err
}

const errEnd = unix.Errno(agentwire.FileOutside + 1)

// transfer moves all of b.
func transfer(b []byte, at int64, move func(b []byte, at int64) (int, error)) error {
	for len(b) > 0 {
		n, err := move(b, at)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

// list reads a part of a directory: entries from the skip-th on.
func list(dir int, name string, skip int64, reply *agentwire.FileReply) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == unix.ELOOP || err == unix.ENOTDIR {
		if st, e := stat(dir, name); e == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
			return errMoved
		}
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buf := make([]byte, 64<<10)
	for size := 0; ; {
		n, err := unix.Getdents(fd, buf)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n == 0:
			return nil
		}
		// Of each entry: its number and offset (8 bytes each), its length (2),
		// its type (1) and its name up to a NUL.
		for b := buf[:n]; len(b) > 19; b = b[binary.NativeEndian.Uint16(b[16:]):] {
			e := string(b[19:binary.NativeEndian.Uint16(b[16:])])
			if end := strings.IndexByte(e, 0); end >= 0 {
				e = e[:end]
			}
			if e == "." || e == ".." {
				continue
			}
			if skip > 0 {
				skip--
				continue
			}
			if b[18] == unix.DT_UNKNOWN {
				b[18] = kindOf(fd, e)
			}
			if size += len(e) + 4; size > agentwire.MaxChunk {
				reply.More = true
				return nil
			}
			reply.Entries = append(reply.Entries, agentwire.FileEntry{Name: e, Type: b[18]})
		}
	}
}

// kindOf looks at an entry where the file system does not tell with its name.
func kindOf(dir int, name string) byte {
	st, err := stat(dir, name)
	if err != nil {
		return unix.DT_UNKNOWN
	}
	return byte(st.Mode >> 12 & 15)
}
