package archive

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// Untar unpacks a tar archive of files that are somebody's own: regular files,
// directories and links that stay inside; anything else, a name that is there
// twice and one that reads differently elsewhere refuses the archive. Files
// get mode 0644 or 0755.
func Untar(root *os.Root, r io.Reader, lim Limits) error {
	t := newTree(root, lim, true)
	defer t.close()
	return t.tar(r, func(h *tar.Header, r io.Reader) error { return t.strictMember(h, r) })
}

// Unlayer unpacks a layer of an image over those that the target has already.
// Whiteouts remove what the layers below have. Links are followed as they will
// be with the target as the root. Devices and FIFOs are passed over, as are
// owners, setuid and setgid bits and extended attributes that are not a user's; the
// owner may always read, and enter and change directories. used says how much of the limits it
// took. The stream is read to its end.
func Unlayer(root *os.Root, r io.Reader, lim Limits) (used Limits, err error) {
	t := newTree(root, lim, false)
	defer t.close()
	err = t.tar(r, func(h *tar.Header, r io.Reader) error { return t.layerMember(h, r) })
	return Limits{Members: t.members, Bytes: t.bytes}, err
}

// overhead is what a member may take of the stream beside its content: headers
// with their extensions, and padding.
const overhead = 8 << 10

// tar reads every member, and the stream to its end.
func (t *tree) tar(r io.Reader, member func(*tar.Header, io.Reader) error) error {
	bounded := &bound{r: r, left: t.lim.Bytes + int64(t.lim.Members)*overhead + 1<<20}
	in := tar.NewReader(bounded)
	for {
		h, err := in.Next()
		if err == io.EOF {
			_, err = io.Copy(io.Discard, bounded)
			return err
		}
		if err != nil {
			if errors.Is(err, tar.ErrHeader) {
				return bad("", "is no tar archive, or is damaged")
			}
			if errors.Is(err, io.ErrUnexpectedEOF) {
				return bad("", "ends in the middle")
			}
			return err
		}
		if err := t.count(h.Name, h.Size); err != nil {
			return err
		}
		if err := member(h, in); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				return bad(h.Name, "ends in the middle")
			}
			return err
		}
	}
}

func (t *tree) strictMember(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	parts, err := split(h.Name, true, t.lim.Depth)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		if h.Typeflag == tar.TypeDir {
			return nil
		}
		return bad(h.Name, "has no name")
	}
	switch h.Typeflag {
	case tar.TypeDir, tar.TypeReg, tar.TypeGNUSparse:
	default:
		if t.lim.Plain {
			return nil
		}
	}
	p, err := t.place(h.Name, parts)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return t.dir(h.Name, p, 0o755, nil)
	case tar.TypeReg, tar.TypeGNUSparse:
		return t.file(h.Name, p, t.plainMode(h.FileInfo().Mode()), h.ModTime, h.Size, nil, r)
	case tar.TypeSymlink:
		if err := checkTarget(h.Name, parts, h.Linkname); err != nil {
			return err
		}
		return t.symlink(h.Name, p, h.Linkname)
	case tar.TypeLink:
		return t.link(h.Name, p, h.Linkname)
	}
	return bad(h.Name, "is a device, a FIFO or something unknown")
}

func (t *tree) plainMode(m fs.FileMode) fs.FileMode {
	if m&0o111 != 0 || t.lim.Plain {
		return 0o755
	}
	return 0o644
}

// Whiteouts, as the image specification spells them.
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
	reserved = ".wh..wh." // an older storage's own
)

func (t *tree) layerMember(h *tar.Header, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeXGlobalHeader, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return nil
	}
	parts, err := split(h.Name, false, t.lim.Depth)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		if h.Typeflag == tar.TypeDir {
			return nil
		}
		return bad(h.Name, "has no name")
	}
	for _, above := range parts[:len(parts)-1] {
		if strings.HasPrefix(above, whiteout) {
			return bad(h.Name, "lies below a whiteout")
		}
	}
	base := parts[len(parts)-1]
	if base != opaque && strings.HasPrefix(base, reserved) {
		return nil
	}
	if hidden, ok := strings.CutPrefix(base, whiteout); ok {
		return t.hide(h.Name, parts, hidden)
	}
	p, err := t.place(h.Name, parts)
	if err != nil {
		return err
	}
	mode := h.FileInfo().Mode()
	attrs, err := attributes(h)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return t.dir(h.Name, p, mode.Perm()|mode&fs.ModeSticky, attrs)
	case tar.TypeReg, tar.TypeGNUSparse:
		return t.file(h.Name, p, mode.Perm(), h.ModTime, h.Size, attrs, r)
	case tar.TypeSymlink:
		return t.symlink(h.Name, p, h.Linkname)
	case tar.TypeLink:
		return t.link(h.Name, p, h.Linkname)
	}
	return bad(h.Name, "is of an unknown kind")
}

// hide applies a whiteout: to what the layers below have, and to nothing of
// this one, whatever the order.
func (t *tree) hide(member string, parts []string, hidden string) error {
	dir, err := t.follow(member, parts[:len(parts)-1], false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if member := path.Base(member); member == opaque {
		return t.hideAll(dir)
	}
	switch hidden {
	case "", ".", "..":
		return bad(member, "hides what is no name")
	}
	return t.hideOne(path.Join(dir, hidden))
}

// hideOne removes a path, but for what this layer made there.
func (t *tree) hideOne(p string) error {
	info, err := t.root.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	n := t.node(p)
	switch {
	case !n.made && !n.holds:
		return t.remove(p)
	case info.IsDir():
		return t.hideAll(p)
	}
	return nil
}

// hideAll removes what a directory has of the layers below.
func (t *tree) hideAll(dir string) error {
	n := t.node(dir)
	if n.opaque {
		return nil
	}
	n.opaque = true
	open := dir
	if open == "" {
		open = "."
	}
	d, err := t.root.Open(open)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := t.hideOne(path.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// bound ends a stream that is longer than it may be.
type bound struct {
	r    io.Reader
	left int64
}

func (b *bound) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, bad("", "is longer than its files may be")
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	return n, err
}
