package tree

import (
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/toolset"
)

// openHold takes openat2, and os.Root where the kernel or a filter of system
// calls does not let it through.
func openHold(dir string, own owner) (hold, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	h := &beneath{fd: fd, own: own}
	h.users.Store(1)
	probe, err := h.openat2(".", unix.O_PATH)
	if err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
			return openPortable(dir, own)
		}
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	unix.Close(probe)
	return h, nil
}

// beneath is a hold on openat2: the kernel itself refuses every link on the
// way, so the path that was checked is the path that is opened.
type beneath struct {
	fd    int
	own   owner
	users atomic.Int32 // of fd, one until close: afterwards it may be another tree's
	once  sync.Once
}

func (h *beneath) close() error {
	err := error(nil)
	h.once.Do(func() { err = h.leave() })
	return err
}

// enter says that fd is this tree's until leave.
func (h *beneath) enter() bool {
	for {
		n := h.users.Load()
		if n == 0 || h.users.CompareAndSwap(n, n+1) {
			return n > 0
		}
	}
}

func (h *beneath) leave() error {
	if h.users.Add(-1) > 0 {
		return nil
	}
	return unix.Close(h.fd)
}

const noLinks = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// openat2 opens what is at rel, which may be a link itself with O_PATH.
func (h *beneath) openat2(rel string, flags uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: noLinks}
	if !h.enter() {
		return -1, fs.ErrClosed
	}
	defer h.leave()
	for {
		fd, err := unix.Openat2(h.fd, rel, &how)
		switch err {
		case nil:
			return fd, nil
		case unix.EINTR:
		case unix.ELOOP, unix.EXDEV:
			return -1, errMoved
		case unix.ENOTDIR:
			return -1, toolset.ErrNotDir
		default:
			return -1, err
		}
	}
}

// pin holds what is at rel, whatever it is, without opening it.
func (h *beneath) pin(rel string) (fd int, st *fileInfo, err error) {
	fd, err = h.openat2(rel, unix.O_PATH)
	if err != nil {
		return -1, nil, err
	}
	st = &fileInfo{name: path.Base(rel)}
	if err := unix.Fstat(fd, &st.st); err != nil {
		unix.Close(fd)
		return -1, nil, err
	}
	return fd, st, nil
}

func (h *beneath) lstat(rel string) (fs.FileInfo, error) {
	fd, st, err := h.pin(rel)
	if err != nil {
		return nil, err
	}
	unix.Close(fd)
	return st, nil
}

func (h *beneath) readlink(rel string) (string, error) {
	fd, st, err := h.pin(rel)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	if st.Mode()&fs.ModeSymlink == 0 {
		return "", errMoved
	}
	buf := make([]byte, maxName+1)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func (h *beneath) open(rel string) (toolset.File, error) {
	fd, st, err := h.pin(rel)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return reopen(fd, st)
}

// reopen opens a file that is pinned, for reading. Only what is known to be
// a regular file is ever opened.
func reopen(pinned int, st *fileInfo) (toolset.File, error) {
	if err := regular(st.Mode()); err != nil {
		return nil, err
	}
	fd, err := openPinned(pinned, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return &file{fd: fd, name: st.name}, nil
}

func openPinned(pinned, flags int) (int, error) {
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(pinned), flags|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err == unix.ENOENT { // no /proc; the file itself cannot be missing
		err = unix.EIO
	}
	return fd, err
}

// parent opens the directory that rel is in.
func (h *beneath) parent(rel string) (int, error) {
	return h.openat2(path.Dir(rel), unix.O_RDONLY|unix.O_DIRECTORY)
}

func (h *beneath) mkdir(rel string) error {
	dir, err := h.parent(rel)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	name := path.Base(rel)
	switch err := unix.Mkdirat(dir, name, 0o755); err {
	case nil:
	case unix.EEXIST:
		return nil
	default:
		return err
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch err {
	case nil:
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP:
		return errMoved // taken away at once
	default:
		return err
	}
	defer unix.Close(fd)
	if err := h.own.give(fd); err != nil {
		return err
	}
	return unix.Fchmod(fd, 0o755)
}

// give makes the owner own a file that was just made.
func (o owner) give(fd int) error {
	if o.uid < 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if int(st.Uid) == o.uid && int(st.Gid) == o.gid {
		return nil
	}
	return unix.Fchown(fd, o.uid, o.gid)
}

func (h *beneath) write(rel string, data []byte) error {
	dir, err := h.parent(rel)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	name := path.Base(rel)

	mode, own, there := uint32(0o644), h.own, false
	var st unix.Stat_t
	switch err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err {
	case unix.ENOENT:
	case nil:
		there = true
		if err := regular((&fileInfo{st: st}).Mode()); err != nil {
			return err
		}
		if st.Nlink > 1 {
			return writeInPlace(dir, name, data)
		}
		mode, own = st.Mode&0o777, owner{int(st.Uid), int(st.Gid)}
	default:
		return err
	}

	tmp := temporary()
	fd, err := unix.Openat(dir, tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err == nil {
		f := os.NewFile(uintptr(fd), tmp)
		err = func() error {
			defer f.Close()
			if err := own.give(fd); err != nil {
				return err
			}
			if err := unix.Fchmod(fd, mode); err != nil {
				return err
			}
			if _, err := f.Write(data); err != nil {
				return plain(err)
			}
			return f.Close()
		}()
		if err == nil {
			err = unix.Renameat(dir, tmp, dir, name)
		}
		if err != nil {
			unix.Unlinkat(dir, tmp, 0)
		}
	}
	if there && errors.Is(err, fs.ErrPermission) {
		return writeInPlace(dir, name, data)
	}
	return err
}

func (h *beneath) remove(rel string, dir bool) error {
	in, err := h.parent(rel)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	flags := 0
	if dir {
		flags = unix.AT_REMOVEDIR
	}
	return unix.Unlinkat(in, path.Base(rel), flags)
}

func writeInPlace(dir int, name string, data []byte) error {
	pinned, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(pinned)
	st := fileInfo{}
	if err := unix.Fstat(pinned, &st.st); err != nil {
		return err
	}
	if err := regular(st.Mode()); err != nil {
		return err
	}
	fd, err := openPinned(pinned, unix.O_RDWR)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if grow := int64(len(data)) - st.st.Size; grow > 0 {
		// Room first, so that a full disk is found before anything is lost.
		if err := unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, int64(len(data))); err == unix.ENOSPC || err == unix.EDQUOT {
			return err
		}
	}
	return plain(overwrite(f, data))
}

func (h *beneath) list(rel string) (listing, error) {
	// O_DIRECTORY refuses everything else before it is opened.
	fd, err := h.openat2(rel, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	l := &beneathListing{fd: fd}
	l.users.Store(1)
	if err := l.read(); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (h *beneath) root(rel string) (*os.Root, error) {
	fd, err := h.openat2(rel, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return os.OpenRoot("/proc/self/fd/" + strconv.Itoa(fd))
}

// beneathListing keeps its directory open, so that entries are opened by
// their bare names.
type beneathListing struct {
	fd    int
	users atomic.Int32 // whose close is to come
	ents  []dirent
}

var direntBuffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

func (l *beneathListing) read() error {
	buf := direntBuffers.Get().(*[]byte)
	defer direntBuffers.Put(buf)
	for {
		n, err := unix.Getdents(l.fd, *buf)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n == 0:
			slices.SortFunc(l.ents, func(a, b dirent) int { return cmp.Compare(a.name, b.name) })
			return nil
		}
		if l.parse((*buf)[:n]); len(l.ents) > maxListed {
			return errListed
		}
	}
}

// parse reads what getdents64 gives: of each entry its number and offset (8
// bytes each), its length (2), its type (1) and its name up to a NUL.
func (l *beneathListing) parse(b []byte) {
	text := string(b) // all names in one piece
	for at := 0; len(b)-at > 19; {
		size := int(binary.NativeEndian.Uint16(b[at+16:]))
		s := text[at+19 : at+size]
		if end := strings.IndexByte(s, 0); end >= 0 {
			s = s[:end]
		}
		if s != "." && s != ".." {
			d := dirent{name: s}
			switch b[at+18] {
			case unix.DT_REG:
			case unix.DT_DIR:
				d.mode = fs.ModeDir
			case unix.DT_LNK:
				d.mode = fs.ModeSymlink
			case unix.DT_UNKNOWN:
				if info, err := l.lstat(s); err == nil {
					d.mode = info.Mode().Type()
				} else {
					d.mode = fs.ModeIrregular
				}
			default:
				d.mode = fs.ModeIrregular
			}
			l.ents = append(l.ents, d)
		}
		at += size
	}
}

func (l *beneathListing) names() []dirent { return l.ents }

func (l *beneathListing) keep() { l.users.Add(1) }

func (l *beneathListing) close() {
	if l.users.Add(-1) == 0 {
		unix.Close(l.fd)
	}
}

func (l *beneathListing) lstat(name string) (fs.FileInfo, error) {
	st := &fileInfo{name: name}
	if err := unix.Fstatat(l.fd, name, &st.st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, err
	}
	return st, nil
}

func (l *beneathListing) modified(name string) (time.Time, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(l.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return time.Time{}, err
	}
	return time.Unix(st.Mtim.Unix()), nil
}

// open opens an entry that was listed as a regular file in one step. Should
// somebody put a FIFO in its place meanwhile, it is not waited for and let go.
func (l *beneathListing) open(name string) (toolset.File, error) {
	fd, err := unix.Openat(l.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	switch err {
	case nil:
	case unix.ELOOP:
		return nil, toolset.ErrNotRegular
	case unix.ENXIO, unix.ENODEV: // a socket
		return nil, toolset.ErrNotRegular
	default:
		return nil, err
	}
	st := fileInfo{}
	if err = unix.Fstat(fd, &st.st); err == nil {
		err = regular(st.Mode())
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &file{fd: fd, name: name}, nil
}

// file reads a regular file without the runtime's poller, which has nothing
// to poll there. One goroutine uses it at a time.
type file struct {
	fd   int
	name string
}

func (f *file) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(f.fd, b)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, err
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

func (f *file) ReadAt(b []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, unix.EINVAL
	}
	for n < len(b) {
		m, err := unix.Pread(f.fd, b[n:], off+int64(n))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return n, err
		case m == 0:
			return n, io.EOF
		}
		n += m
	}
	return n, nil
}

func (f *file) Seek(offset int64, whence int) (int64, error) {
	return unix.Seek(f.fd, offset, whence)
}

func (f *file) Stat() (fs.FileInfo, error) {
	st := &fileInfo{name: f.name}
	if err := unix.Fstat(f.fd, &st.st); err != nil {
		return nil, err
	}
	return st, nil
}

func (f *file) Close() error {
	if f.fd < 0 {
		return fs.ErrClosed
	}
	err := unix.Close(f.fd)
	f.fd = -1
	return err
}

// fileInfo is a stat without its strings.
type fileInfo struct {
	name string
	st   unix.Stat_t
}

func (i *fileInfo) Name() string       { return i.name }
func (i *fileInfo) Size() int64        { return i.st.Size }
func (i *fileInfo) IsDir() bool        { return i.Mode().IsDir() }
func (i *fileInfo) ModTime() time.Time { return time.Unix(i.st.Mtim.Unix()) }
func (i *fileInfo) Sys() any           { return &i.st }

func (i *fileInfo) Mode() fs.FileMode {
	mode := fs.FileMode(i.st.Mode & 0o777)
	switch i.st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	case unix.S_IFIFO:
		mode |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		mode |= fs.ModeSocket
	case unix.S_IFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		mode |= fs.ModeDevice
	default:
		mode |= fs.ModeIrregular
	}
	if i.st.Mode&unix.S_ISUID != 0 {
		mode |= fs.ModeSetuid
	}
	if i.st.Mode&unix.S_ISGID != 0 {
		mode |= fs.ModeSetgid
	}
	if i.st.Mode&unix.S_ISVTX != 0 {
		mode |= fs.ModeSticky
	}
	return mode
}
