package archive

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// attribute gives a file these attributes of its member. before says that it may
// have others from a layer below, which go. A file system without such attributes
// leaves them out.
func attribute(member string, f *os.File, all map[string]string, before bool) error {
	fd := int(f.Fd())
	if before {
		for _, name := range listed(fd) {
			if _, stays := all[name]; own(name) && !stays {
				if err := unix.Fremovexattr(fd, name); err != nil {
					return &os.PathError{Op: "fremovexattr", Path: f.Name(), Err: err}
				}
			}
		}
	}
	for name, value := range all {
		switch err := unix.Fsetxattr(fd, name, []byte(value), 0); {
		case errors.Is(err, unix.ENOTSUP):
			return nil
		case errors.Is(err, unix.E2BIG), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.ERANGE):
			return bad(member, "has extended attributes for which its file has no room")
		case err != nil:
			return &os.PathError{Op: "fsetxattr", Path: f.Name(), Err: err}
		}
	}
	return nil
}

// listed are the names of a file's attributes.
func listed(fd int) []string {
	n, err := unix.Flistxattr(fd, nil)
	if err != nil || n == 0 {
		return nil
	}
	buf := make([]byte, n)
	if n, err = unix.Flistxattr(fd, buf); err != nil {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
}
