package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/toolset"
)

// Remote does operations with the files of a machine that this one cannot
// reach but by asking. Its answers are not trusted.
type Remote interface {
	File(agentwire.FileRequest) (agentwire.FileReply, error)
}

// Over opens the tree of a session whose files are somewhere else, at the paths
// that hold inside. A place that cannot be made there is not part of the tree;
// the working directory must be. Of the configuration Root, Share, UID and GID
// have no meaning.
func Over(r Remote, c Config) (*Tree, error) {
	c.UID, c.GID = -1, -1
	t, err := newTree(c)
	if err != nil {
		return nil, err
	}
	t.hold = far{r}
	if err := t.makeDir(t.workdir[1:]); err != nil {
		return nil, fmt.Errorf("tree: make %s: %w", t.workdir, err)
	}
	var places []string
	for _, p := range t.places {
		if t.makeDir(p[1:]) == nil {
			places = append(places, p)
		}
	}
	if !within(t.workdir, places) {
		places = append(places, t.workdir)
	}
	t.places = places
	return t, nil
}

// Far says that the files are on a machine that can only be asked.
func (t *Tree) Far() bool {
	_, far := t.hold.(far)
	return far
}

// Holds says whether a place is part of the tree.
func (t *Tree) Holds(place string) bool { return within(place, t.places) }

// far is a hold on files somewhere else.
type far struct{ Remote }

func (h far) close() error { return nil }

func (h far) root(string) (*os.Root, error) { return nil, errFar }

var errFar = errors.New("the directory is on another machine")

// do asks, and makes an error of an answer that is one.
func (h far) do(r agentwire.FileRequest) (agentwire.FileReply, error) {
	reply, err := h.File(r)
	if err != nil {
		return reply, err
	}
	switch reply.Errno {
	case 0:
		return reply, nil
	case agentwire.FileMoved:
		return reply, errMoved
	case agentwire.FileOutside:
		return reply, toolset.ErrOutside
	case uint32(syscall.ENOTDIR):
		return reply, toolset.ErrNotDir
	case uint32(syscall.EISDIR):
		return reply, toolset.ErrIsDir
	}
	return reply, syscall.Errno(reply.Errno & 0xfff)
}

func at(rel string) string {
	if rel == "." {
		return "/"
	}
	return "/" + rel
}

func (h far) lstat(rel string) (fs.FileInfo, error) {
	reply, err := h.do(agentwire.FileRequest{Op: agentwire.FileStat, Path: at(rel)})
	if err != nil {
		return nil, err
	}
	return farInfo{path.Base(at(rel)), reply.Info}, nil
}

func (h far) readlink(rel string) (string, error) {
	reply, err := h.do(agentwire.FileRequest{Op: agentwire.FileLink, Path: at(rel)})
	if errors.Is(err, syscall.EINVAL) {
		err = errMoved // it is none any more
	}
	return string(reply.Data), err
}

func (h far) mkdir(rel string) error {
	_, err := h.do(agentwire.FileRequest{Op: agentwire.FileMkdir, Path: at(rel)})
	return err
}

// ahead is how much of a file comes when it is opened: all of most files.
const ahead = 256 << 10

func (h far) open(rel string) (toolset.File, error) {
	reply, err := h.do(agentwire.FileRequest{Op: agentwire.FileRead, Path: at(rel), Length: ahead})
	if errors.Is(err, syscall.EINVAL) {
		err = toolset.ErrNotRegular
	}
	if err != nil {
		return nil, err
	}
	return &farFile{h: h, path: at(rel), info: reply.Info, first: reply.Data}, nil
}

// write replaces a file as the holds on this machine do: by a new one that
// takes its name, or in place where it has several.
func (h far) write(rel string, data []byte) error {
	mode := int64(0o644)
	there, err := h.do(agentwire.FileRequest{Op: agentwire.FileStat, Path: at(rel)})
	switch {
	case isNotExist(err):
	case err != nil:
		return err
	default:
		info := farInfo{"", there.Info}
		if err := regular(info.Mode()); err != nil {
			return err
		}
		if there.Info.Links > 1 {
			return h.overwrite(at(rel), data)
		}
		mode = int64(info.Mode().Perm())
	}
	tmp := path.Join(path.Dir(at(rel)), temporary())
	if _, err = h.do(agentwire.FileRequest{Op: agentwire.FileCreate, Path: tmp}); err == nil {
		if err = h.put(tmp, data); err == nil {
			_, err = h.do(agentwire.FileRequest{Op: agentwire.FileChmod, Path: tmp, Length: mode})
		}
		if err == nil {
			_, err = h.do(agentwire.FileRequest{Op: agentwire.FileRename, Path: tmp, To: at(rel)})
		}
		if err != nil {
			_, _ = h.do(agentwire.FileRequest{Op: agentwire.FileRemove, Path: tmp})
		}
	}
	if there.Errno == 0 && errors.Is(err, fs.ErrPermission) {
		return h.overwrite(at(rel), data)
	}
	return err
}

// put writes data from the beginning of a file on.
func (h far) put(path string, data []byte) error {
	for off := 0; off < len(data); off += agentwire.MaxChunk {
		part := data[off:min(off+agentwire.MaxChunk, len(data))]
		if _, err := h.do(agentwire.FileRequest{Op: agentwire.FilePut, Path: path, Offset: int64(off), Data: part}); err != nil {
			return err
		}
	}
	return nil
}

func (h far) overwrite(path string, data []byte) error {
	if err := h.put(path, data); err != nil {
		return err
	}
	_, err := h.do(agentwire.FileRequest{Op: agentwire.FileTruncate, Path: path, Offset: int64(len(data))})
	return err
}

func (h far) remove(rel string, dir bool) error {
	op := agentwire.FileRemove
	if dir {
		op = agentwire.FileRmdir
	}
	_, err := h.do(agentwire.FileRequest{Op: op, Path: at(rel)})
	return err
}

func (h far) list(rel string) (listing, error) {
	l := &farListing{h: h, rel: rel}
	for {
		reply, err := h.do(agentwire.FileRequest{Op: agentwire.FileList, Path: at(rel), Offset: int64(len(l.ents))})
		if err != nil {
			return nil, err
		}
		for _, e := range reply.Entries {
			if e.Name == "" || e.Name == "." || e.Name == ".." || strings.ContainsAny(e.Name, "/\x00") || len(e.Name) > maxName {
				return nil, fmt.Errorf("the far side lists an impossible name: %q", e.Name)
			}
			l.ents = append(l.ents, dirent{e.Name, direntMode(e.Type)})
		}
		if len(l.ents) > maxListed {
			return nil, errListed
		}
		if !reply.More || len(reply.Entries) == 0 {
			slices.SortFunc(l.ents, func(a, b dirent) int { return strings.Compare(a.name, b.name) })
			return l, nil
		}
	}
}

// direntMode is of the kernel's DT_ values; unknown ones are looked at when
// they are opened.
func direntMode(t uint8) fs.FileMode {
	switch t {
	case 4:
		return fs.ModeDir
	case 8:
		return 0
	case 10:
		return fs.ModeSymlink
	}
	return fs.ModeIrregular
}

type farListing struct {
	h    far
	rel  string
	ents []dirent
}

func (l *farListing) names() []dirent { return l.ents }
func (l *farListing) keep()           {}
func (l *farListing) close()          {}

func (l *farListing) open(name string) (toolset.File, error) {
	f, err := l.h.open(path.Join(l.rel, name))
	if isMoved(err) {
		err = toolset.ErrNotRegular
	}
	return f, err
}

func (l *farListing) lstat(name string) (fs.FileInfo, error) {
	return l.h.lstat(path.Join(l.rel, name))
}

func (l *farListing) modified(name string) (time.Time, error) {
	return modified(l.lstat(name))
}

// farFile is a file that is read in pieces. One goroutine uses it at a time.
type farFile struct {
	h     far
	path  string
	info  agentwire.FileInfo
	first []byte // what came when it was opened
	pos   int64
	done  bool
}

func (f *farFile) Stat() (fs.FileInfo, error) { return farInfo{path.Base(f.path), f.info}, nil }

func (f *farFile) Close() error {
	if f.done {
		return fs.ErrClosed
	}
	f.done = true
	return nil
}

func (f *farFile) Read(b []byte) (int, error) {
	n, err := f.ReadAt(b, f.pos)
	f.pos += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (f *farFile) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += f.pos
	case io.SeekEnd:
		offset += f.info.Size
	}
	if offset < 0 {
		return f.pos, syscall.EINVAL
	}
	f.pos = offset
	return offset, nil
}

func (f *farFile) ReadAt(b []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, syscall.EINVAL
	}
	for n < len(b) {
		m, err := f.piece(b[n:], off+int64(n))
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (f *farFile) piece(b []byte, off int64) (int, error) {
	if off < int64(len(f.first)) {
		return copy(b, f.first[off:]), nil
	}
	if f.info.Size <= int64(len(f.first)) {
		return 0, io.EOF
	}
	want := min(len(b), agentwire.MaxChunk)
	reply, err := f.h.do(agentwire.FileRequest{Op: agentwire.FileRead, Path: f.path, Offset: off, Length: int64(want)})
	switch {
	case err != nil:
		return 0, err
	case reply.Info.Inode != f.info.Inode:
		return 0, errors.New("another file took its place while it was read")
	case len(reply.Data) > want:
		return 0, errors.New("the far side sent more than was asked for")
	case len(reply.Data) == 0:
		return 0, io.EOF
	}
	return copy(b, reply.Data), nil
}

// farInfo is what another machine says of a file.
type farInfo struct {
	name string
	i    agentwire.FileInfo
}

func (i farInfo) Name() string       { return i.name }
func (i farInfo) Size() int64        { return i.i.Size }
func (i farInfo) IsDir() bool        { return i.Mode().IsDir() }
func (i farInfo) ModTime() time.Time { return i.i.Time }
func (i farInfo) Sys() any           { return nil }

// Mode makes Go's of the kernel's.
func (i farInfo) Mode() fs.FileMode {
	mode := fs.FileMode(i.i.Mode & 0o777)
	switch i.i.Mode & 0o170000 {
	case 0o100000:
	case 0o040000:
		mode |= fs.ModeDir
	case 0o120000:
		mode |= fs.ModeSymlink
	case 0o010000:
		mode |= fs.ModeNamedPipe
	case 0o140000:
		mode |= fs.ModeSocket
	case 0o020000:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case 0o060000:
		mode |= fs.ModeDevice
	default:
		mode |= fs.ModeIrregular
	}
	return mode
}
