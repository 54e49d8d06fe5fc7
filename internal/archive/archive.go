// Package archive unpacks archives that strangers made: tar, as it is or as a
// layer over others, and zip. Whatever is in one, nothing is read or written
// outside the target, and members, bytes, names and depth are bounded. What
// cannot be unpacked as it is meant is refused, so a caller that wants all or
// nothing uses Place.
package archive

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits bound what an archive may hold. Zero fields take the defaults.
type Limits struct {
	Members int   // 10,000
	Bytes   int64 // of all files together as they say of themselves; 1 GiB
	Depth   int   // directories within each other; 128
	// Plain passes over links, devices and the like, which are no part of what
	// is unpacked then, and gives every file mode 0755. For Untar and Unzip.
	Plain bool
}

func (l Limits) filled() Limits {
	if l.Members <= 0 {
		l.Members = 10_000
	}
	if l.Bytes <= 0 {
		l.Bytes = 1 << 30
	}
	if l.Depth <= 0 {
		l.Depth = 128
	}
	return l
}

// Limits of names, those of the kernel.
const (
	maxPath  = 4095
	maxName  = 255
	maxLinks = 40
	maxSteps = 512 // of a walk to one member
)

// Error is an archive that cannot be unpacked. Member is the one at fault, ""
// for the whole.
type Error struct {
	Member  string
	Problem string
}

func (e *Error) Error() string {
	if e.Member == "" {
		return "the archive " + e.Problem
	}
	name := e.Member
	if len(name) > 120 {
		name = name[:120] + "…"
	}
	return "the archive's member " + strconv.QuoteToASCII(name) + " " + e.Problem
}

func bad(member, problem string, args ...any) error {
	return &Error{member, fmt.Sprintf(problem, args...)}
}

// Place fills a directory in one step: fill gets an empty one beside it, which
// takes its name when all went well and is removed otherwise. The directory
// must not be there; fs.ErrExist when it is.
func Place(dir string, fill func(*os.Root) error) (err error) {
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".unpack-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	root, err := os.OpenRoot(tmp)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := fill(root); err != nil {
		return err
	}
	if _, err := os.Lstat(dir); err == nil {
		return &os.PathError{Op: "unpack", Path: dir, Err: os.ErrExist}
	}
	return os.Rename(tmp, dir)
}

// split checks a member's name and cuts it into its parts. A directory's name
// may end in a slash; "." alone has no parts.
func split(name string, strict bool, depth int) ([]string, error) {
	switch {
	case name == "":
		return nil, bad(name, "has no name")
	case len(name) > maxPath:
		return nil, bad(name, "has a name of more than %d bytes", maxPath)
	case strings.IndexByte(name, 0) >= 0:
		return nil, bad(name, "has a NUL in its name")
	case strict && !utf8.ValidString(name):
		return nil, bad(name, "has a name that is not UTF-8")
	case strict && strings.HasPrefix(name, "/"):
		return nil, bad(name, "has an absolute name")
	case strict && strings.ContainsAny(name, "\\"):
		return nil, bad(name, "has a backslash in its name")
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
		case part == "..":
			return nil, bad(name, "has .. in its name")
		case len(part) > maxName:
			return nil, bad(name, "has a name with a part of more than %d bytes", maxName)
		default:
			parts = append(parts, part)
		}
	}
	if len(parts) > depth {
		return nil, bad(name, "lies deeper than %d directories", depth)
	}
	return parts, nil
}

// checkTarget says whether a symbolic link may be made in a strict archive: it
// leads down from where it is, or first up and then down, and never out. A way
// up further on is refused: what it means depends on other links.
func checkTarget(member string, parts []string, target string) error {
	if strings.HasPrefix(target, "/") || strings.ContainsAny(target, "\\") {
		return bad(member, "links to %s, out of the archive", strconv.QuoteToASCII(target))
	}
	up, down := 0, false
	for part := range strings.SplitSeq(target, "/") {
		switch part {
		case "", ".":
		case "..":
			if down {
				return bad(member, "links to %s, by a way up that follows a way down", strconv.QuoteToASCII(target))
			}
			up++
		default:
			down = true
		}
	}
	if up > len(parts)-1 {
		return bad(member, "links to %s, out of the archive", strconv.QuoteToASCII(target))
	}
	return nil
}
