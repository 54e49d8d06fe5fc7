package spare

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/sandbox/removal"
)

// Shape is what a directory is before a session: what is set on it, and the
// directories in it.
type Shape struct {
	set   string
	inner map[string]*Shape
}

// maxDepth is how many directories within each other a shape has.
const maxDepth = 16

// Of gives the shape of a directory that no session has used. One with anything
// but directories in it has none.
func Of(dir string) (*Shape, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return of(f, maxDepth)
}

func of(f *os.File, depth int) (*Shape, error) {
	if depth == 0 {
		return nil, errors.New("spare: directories too deep within each other")
	}
	s := &Shape{inner: map[string]*Shape{}}
	var err error
	if s.set, err = settings(f); err != nil {
		return nil, err
	}
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		in, err := open(f, e.Name())
		if err != nil {
			return nil, err
		}
		s.inner[e.Name()], err = of(in, depth-1)
		if err = errors.Join(err, in.Close()); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Restore removes from a directory in another what is not of the shape, however
// deep it is. No sandbox runs on it. With an error it is not what it was: something
// of the shape is missing, has been set otherwise, or another thing cannot be
// removed.
func (s *Shape) Restore(above *os.File, name string) error {
	f, err := open(above, name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := removal.Rest(f, func(name string) bool { return s.inner[name] != nil }); err != nil {
		return err
	}
	set, err := settings(f)
	if err == nil && set != s.set {
		err = fmt.Errorf("spare: %s is not what it was", f.Name())
	}
	if err != nil {
		return err
	}
	for name, inner := range s.inner {
		if err := inner.Restore(f, name); err != nil {
			return err
		}
	}
	now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	if err := unix.UtimesNanoAt(int(above.Fd()), name, now, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "utimensat", Path: f.Name(), Err: err}
	}
	return nil
}

// open opens a directory in another. A link is none, and what is mounted there is
// not emptied.
func open(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(dir.Name(), name), Err: err}
	}
	return os.NewFile(uintptr(fd), filepath.Join(dir.Name(), name)), nil
}

// extended is struct fsxattr of linux/fs.h.
type extended struct {
	Flags, Extent, Extents, Project, Copied uint32
	_                                       [8]byte
}

const getExtended = 0x801c581f // FS_IOC_FSGETXATTR

// settings are what can be set on a directory, but for its times, which are new
// each time, and how large it has become.
func settings(f *os.File) (string, error) {
	fd := int(f.Fd())
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st); err != nil {
		return "", &fs.PathError{Op: "statx", Path: f.Name(), Err: err}
	}
	var all strings.Builder
	fmt.Fprintln(&all, st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, st.Dev_major, st.Dev_minor, st.Attributes)
	var x extended
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), getExtended, uintptr(unsafe.Pointer(&x))); errno == 0 {
		fmt.Fprintln(&all, x.Flags, x.Extent, x.Project, x.Copied)
	}
	if flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS); err == nil {
		fmt.Fprintln(&all, flags)
	}
	names := make([]byte, 4<<10)
	n, err := unix.Flistxattr(fd, names)
	if err != nil && err != unix.ENOTSUP {
		return "", &fs.PathError{Op: "listxattr", Path: f.Name(), Err: err}
	}
	list := strings.FieldsFunc(string(names[:max(n, 0)]), func(r rune) bool { return r == 0 })
	slices.Sort(list)
	for _, name := range list {
		value := make([]byte, 4<<10)
		n, err := unix.Fgetxattr(fd, name, value)
		if err != nil {
			return "", &fs.PathError{Op: "getxattr", Path: f.Name(), Err: err}
		}
		fmt.Fprintf(&all, "%s=%q\n", name, value[:n])
	}
	return all.String(), nil
}
