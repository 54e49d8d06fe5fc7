package archive

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"
)

// tree is the target while it is filled. Nobody else writes to it. Links are
// followed here, as they would be with the target as the root; the operations
// themselves go through os.Root by paths without links in them, so that no
// mistake here leads out.
type tree struct {
	root   *os.Root
	lim    Limits
	strict bool
	top    node
	folded map[string]string // strict: lower case to the name as it is

	members int
	bytes   int64

	at     *os.Root // the directory last used
	atPath string
}

// node is what is known of a path without links in it.
type node struct {
	kids   map[string]*node
	dir    bool // it is a directory
	made   bool // by this archive
	holds  bool // it has something below that this archive made
	opaque bool // nothing of the layers below is left in it
}

func (n *node) kid(name string) *node {
	k := n.kids[name]
	if k == nil {
		if n.kids == nil {
			n.kids = map[string]*node{}
		}
		k = &node{}
		n.kids[name] = k
	}
	return k
}

func newTree(root *os.Root, lim Limits, strict bool) *tree {
	return &tree{root: root, lim: lim.filled(), strict: strict, folded: map[string]string{}}
}

func (t *tree) close() {
	if t.at != nil {
		t.at.Close()
		t.at = nil
	}
}

// node gives what is known of a path, "" being the target.
func (t *tree) node(p string) *node {
	n := &t.top
	if p == "" {
		return n
	}
	for part := range strings.SplitSeq(p, "/") {
		n = n.kid(part)
	}
	return n
}

// mark notes that this archive made a path.
func (t *tree) mark(p string, dir bool) {
	n := &t.top
	for part := range strings.SplitSeq(p, "/") {
		n.holds = true
		n = n.kid(part)
	}
	n.made, n.dir = true, dir
}

// count takes a member and its size into the account before anything is done
// for it.
func (t *tree) count(member string, size int64) error {
	if t.members++; t.members > t.lim.Members {
		return bad("", "has more than %d members", t.lim.Members)
	}
	if size < 0 || size > t.lim.Bytes-t.bytes {
		return bad(member, "brings the archive above %d bytes", t.lim.Bytes)
	}
	t.bytes += size
	return nil
}

// place gives the path of a member without links but for its last part. The
// directories above are made.
func (t *tree) place(member string, parts []string) (string, error) {
	dir, err := t.follow(member, parts[:len(parts)-1], true)
	if err != nil {
		return "", err
	}
	p := path.Join(dir, parts[len(parts)-1])
	if t.strict {
		return p, t.unique(member, p)
	}
	return p, nil
}

// unique refuses a name that is there, also where case does not count.
func (t *tree) unique(member, p string) error {
	for ; p != "."; p = path.Dir(p) {
		key := strings.ToLower(p)
		as, ok := t.folded[key]
		if ok && as != p {
			return bad(member, "differs from another in case only")
		}
		if ok {
			return nil
		}
		t.folded[key] = p
	}
	return nil
}

// follow walks to a directory, following links inside the target. Missing ones
// are made, or fs.ErrNotExist.
func (t *tree) follow(member string, parts []string, build bool) (string, error) {
	cur, links := "", 0
	rest := append([]string(nil), parts...)
	for step := 0; len(rest) > 0; step++ {
		if step > maxSteps {
			return "", bad(member, "lies behind links that go too far about")
		}
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if cur = path.Dir(cur); cur == "." {
				cur = ""
			}
			continue
		}
		next := path.Join(cur, part)
		if t.node(next).dir {
			cur = next
			continue
		}
		info, err := t.root.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist) && build:
			if strings.Count(next, "/") >= t.lim.Depth {
				return "", bad(member, "lies deeper than %d directories", t.lim.Depth)
			}
			if err := t.count(member, 0); err != nil { // one that is made for it is one that it has
				return "", err
			}
			if err := t.root.Mkdir(next, 0o755); err != nil {
				return "", err
			}
			t.mark(next, true)
		case err != nil:
			return "", err
		case info.Mode()&fs.ModeSymlink != 0:
			if t.strict {
				return "", bad(member, "lies behind the link %s", next)
			}
			if links++; links > maxLinks {
				return "", bad(member, "lies behind links without end")
			}
			to, err := t.root.Readlink(next)
			if err != nil {
				return "", err
			}
			if strings.HasPrefix(to, "/") {
				cur = ""
			}
			rest = append(strings.Split(to, "/"), rest...)
			continue
		case !info.IsDir():
			return "", bad(member, "lies below %s, which is no directory", next)
		}
		t.node(next).dir = true
		cur = next
	}
	return cur, nil
}

// in opens the directory of a path and gives the name in it.
func (t *tree) in(p string) (*os.Root, string, error) {
	dir, name := path.Split(p)
	dir = strings.TrimSuffix(dir, "/")
	if t.at != nil && t.atPath == dir {
		return t.at, name, nil
	}
	t.close()
	if dir == "" {
		dir = "."
	}
	at, err := t.root.OpenRoot(dir)
	if err != nil {
		return nil, "", err
	}
	if dir == "." {
		dir = ""
	}
	t.at, t.atPath = at, dir
	return at, name, nil
}

// clear removes what is at a path, unless it and what comes are directories.
// A strict archive has nothing twice but directories.
func (t *tree) clear(member, p string, dir bool) (there bool, err error) {
	at, name, err := t.in(p)
	if err != nil {
		return false, err
	}
	info, err := at.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case dir && info.IsDir():
		return true, nil
	case t.strict:
		return false, bad(member, "is there twice")
	}
	return false, t.remove(p)
}

// remove removes a path with all below it.
func (t *tree) remove(p string) error {
	if t.at != nil && (t.atPath == p || strings.HasPrefix(t.atPath, p+"/")) {
		t.close()
	}
	at, name, err := t.in(p)
	if err != nil {
		return err
	}
	dir, _ := path.Split(p)
	delete(t.node(strings.TrimSuffix(dir, "/")).kids, name)
	return at.RemoveAll(name)
}

func (t *tree) dir(member, p string, mode fs.FileMode, attrs map[string]string) error {
	there, err := t.clear(member, p, true)
	if err != nil {
		return err
	}
	at, name, err := t.in(p)
	if err != nil {
		return err
	}
	if !there {
		if err := at.Mkdir(name, 0o700); err != nil {
			return err
		}
	}
	t.mark(p, true)
	if !t.strict && (there || len(attrs) > 0) {
		d, err := at.Open(name)
		if err != nil {
			return err
		}
		err = attribute(member, d, attrs, there)
		d.Close()
		if err != nil {
			return err
		}
	}
	return at.Chmod(name, mode|0o700)
}

// file writes a regular file of a size that is known.
func (t *tree) file(member, p string, mode fs.FileMode, mtime time.Time, size int64, attrs map[string]string, r io.Reader) error {
	if _, err := t.clear(member, p, false); err != nil {
		return err
	}
	at, name, err := t.in(p)
	if err != nil {
		return err
	}
	f, err := at.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(r, size+1))
	switch {
	case err != nil:
	case n > size:
		err = bad(member, "holds more than the %d bytes that it says", size)
	case n < size:
		err = bad(member, "holds %d bytes of the %d that it says", n, size)
	default:
		if err = attribute(member, f, attrs, false); err == nil {
			err = f.Chmod(mode | 0o400)
		}
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil && !mtime.IsZero() {
		err = at.Chtimes(name, mtime, mtime)
	}
	if err == nil {
		t.mark(p, false)
	}
	return err
}

func (t *tree) symlink(member, p, target string) error {
	if target == "" || len(target) > maxPath || strings.IndexByte(target, 0) >= 0 {
		return bad(member, "links to what is no path")
	}
	if _, err := t.clear(member, p, false); err != nil {
		return err
	}
	at, name, err := t.in(p)
	if err != nil {
		return err
	}
	t.mark(p, false)
	return at.Symlink(target, name)
}

// link makes another name for a file that is there.
func (t *tree) link(member, p, target string) error {
	parts, err := split(target, t.strict, t.lim.Depth)
	if err != nil || len(parts) == 0 {
		return bad(member, "is another name for what is no path")
	}
	dir, err := t.follow(member, parts[:len(parts)-1], false)
	from := path.Join(dir, parts[len(parts)-1])
	var info fs.FileInfo
	if err == nil {
		info, err = t.root.Lstat(from)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return bad(member, "is another name for a file that is not there")
	case err != nil:
		return err
	case from == p:
		return bad(member, "is another name for itself")
	case info.IsDir():
		return bad(member, "is another name for a directory")
	}
	if _, err := t.clear(member, p, false); err != nil {
		return err
	}
	if _, err := t.root.Lstat(from); err != nil {
		return bad(member, "is another name for a file that it replaces")
	}
	t.mark(p, false)
	return t.root.Link(from, p)
}
