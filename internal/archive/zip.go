package archive

import (
	"archive/zip"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
)

// Unzip unpacks a zip archive of size bytes under the rules of Untar.
func Unzip(root *os.Root, r io.ReaderAt, size int64, lim Limits) error {
	t := newTree(root, lim, true)
	defer t.close()
	// The list of members is read whole before the first of them: it may be as
	// long as the list of as many members as there may be.
	list := &boundAt{r: r, left: int64(t.lim.Members)*(overhead/4) + 1<<20}
	z, err := zip.NewReader(list, size)
	if err != nil {
		if ae, ok := errors.AsType[*Error](err); ok {
			return ae
		}
		return bad("", "is no zip archive, or is damaged")
	}
	if len(z.File) > t.lim.Members {
		return bad("", "has more than %d members", t.lim.Members)
	}
	list.free = true
	for _, f := range z.File {
		if f.UncompressedSize64 > 1<<62 {
			return bad(f.Name, "brings the archive above %d bytes", t.lim.Bytes)
		}
		if err := t.count(f.Name, int64(f.UncompressedSize64)); err != nil {
			return err
		}
		if err := t.zipMember(f); err != nil {
			if errors.Is(err, zip.ErrChecksum) || errors.Is(err, zip.ErrFormat) || errors.Is(err, io.ErrUnexpectedEOF) {
				return bad(f.Name, "is damaged")
			}
			if errors.Is(err, zip.ErrAlgorithm) {
				return bad(f.Name, "is compressed in an unknown way")
			}
			return err
		}
	}
	return nil
}

func (t *tree) zipMember(f *zip.File) error {
	parts, err := split(f.Name, true, t.lim.Depth)
	if err != nil {
		return err
	}
	if f.Flags&1 != 0 {
		return bad(f.Name, "is encrypted")
	}
	mode := f.Mode()
	if len(parts) == 0 {
		if mode.IsDir() {
			return nil
		}
		return bad(f.Name, "has no name")
	}
	if t.lim.Plain && mode.Type()&^fs.ModeDir != 0 {
		return nil
	}
	p, err := t.place(f.Name, parts)
	if err != nil {
		return err
	}
	if strings.HasSuffix(f.Name, "/") != mode.IsDir() {
		return bad(f.Name, "is a directory by its name or by its mode, not by both")
	}
	if mode.IsDir() {
		return t.dir(f.Name, p, 0o755, nil)
	}
	if mode.Type() != 0 && mode.Type() != fs.ModeSymlink {
		return bad(f.Name, "is a device, a FIFO or something unknown")
	}
	in, err := f.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	if mode.Type() == fs.ModeSymlink {
		to, err := io.ReadAll(io.LimitReader(in, maxPath+1))
		if err != nil {
			return err
		}
		if err := checkTarget(f.Name, parts, string(to)); err != nil {
			return err
		}
		return t.symlink(f.Name, p, string(to))
	}
	return t.file(f.Name, p, t.plainMode(mode), f.Modified, int64(f.UncompressedSize64), nil, in)
}

// boundAt ends the reading of a list that is longer than it may be.
type boundAt struct {
	r    io.ReaderAt
	left int64
	free bool // the list has been read
}

func (b *boundAt) ReadAt(p []byte, off int64) (int, error) {
	if !b.free {
		if b.left -= int64(len(p)); b.left < 0 {
			return 0, bad("", "has a longer list of members than there may be members")
		}
	}
	return b.r.ReadAt(p, off)
}
