package tree

import (
	"cmp"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"syscall"
	"time"

	"github.com/berthdev/berth/toolset"
)

// portable is a hold on os.Root, for systems without openat2. os.Root never
// leaves its directory; that it did not follow a link on the way is checked
// by comparing the file with the one that was looked at first.
type portable struct {
	at  *os.Root
	own owner
}

func openPortable(dir string, own owner) (hold, error) {
	r, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &portable{r, own}, nil
}

func (p *portable) close() error { return p.at.Close() }

func (p *portable) lstat(rel string) (fs.FileInfo, error) {
	info, err := p.at.Lstat(rel)
	return info, plain(err)
}

func (p *portable) readlink(rel string) (string, error) {
	target, err := p.at.Readlink(rel)
	return target, plain(err)
}

// plain takes the host's names out of an error of os.Root.
func plain(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	if le, ok := errors.AsType[*os.LinkError](err); ok {
		err = le.Err
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOTDIR):
		return toolset.ErrNotDir
	case errors.Is(err, syscall.ELOOP):
		return errMoved
	}
	if _, ok := errors.AsType[syscall.Errno](err); ok || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// What else os.Root says is that the path leads outside: a link.
	return errMoved
}

func (p *portable) open(rel string) (toolset.File, error) {
	return p.openFile(rel, os.O_RDONLY)
}

func (p *portable) openFile(rel string, flag int) (*os.File, error) {
	was, err := p.lstat(rel)
	if err != nil {
		return nil, err
	}
	if err := regular(was.Mode()); err != nil {
		return nil, err
	}
	f, err := p.at.OpenFile(rel, flag|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, plain(err)
	}
	if is, err := f.Stat(); err != nil || !os.SameFile(was, is) {
		f.Close()
		return nil, errMoved
	}
	return f, nil
}

func (p *portable) mkdir(rel string) error {
	err := p.at.Mkdir(rel, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil && p.own.uid >= 0 {
		err = p.at.Lchown(rel, p.own.uid, p.own.gid)
	}
	return plain(err)
}

func (p *portable) write(rel string, data []byte) error {
	was, err := p.lstat(rel)
	mode, own := fs.FileMode(0o644), p.own
	switch {
	case isNotExist(err):
	case err != nil:
		return err
	default:
		if err := regular(was.Mode()); err != nil {
			return err
		}
		st := was.Sys().(*syscall.Stat_t)
		if st.Nlink > 1 {
			return p.writeInPlace(rel, data)
		}
		mode, own = was.Mode().Perm(), owner{int(st.Uid), int(st.Gid)}
	}
	tmp := path.Join(path.Dir(rel), temporary())
	f, err := p.at.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) && was != nil {
			return p.writeInPlace(rel, data)
		}
		return plain(err)
	}
	err = func() error {
		defer f.Close()
		if own.uid >= 0 {
			if st, err := f.Stat(); err != nil || !owns(st, own) {
				if err := f.Chown(own.uid, own.gid); err != nil {
					return err
				}
			}
		}
		if err := f.Chmod(mode); err != nil {
			return err
		}
		_, err := f.Write(data)
		return err
	}()
	if err == nil {
		err = p.at.Rename(tmp, rel)
	}
	if err != nil {
		p.at.Remove(tmp)
		if errors.Is(err, fs.ErrPermission) && was != nil {
			return p.writeInPlace(rel, data)
		}
	}
	return plain(err)
}

func owns(info fs.FileInfo, o owner) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == o.uid && int(st.Gid) == o.gid
}

func (p *portable) writeInPlace(rel string, data []byte) error {
	f, err := p.openFile(rel, os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	return plain(overwrite(f, data))
}

// maxKept is how much old content is kept in memory while it is overwritten.
const maxKept = 64 << 20

// overwrite replaces a file's content under its name. When that fails the old
// content is put back, unless it is longer than maxKept.
func overwrite(f *os.File, data []byte) error {
	old, err := io.ReadAll(io.NewSectionReader(f, 0, maxKept+1))
	if err != nil {
		return err
	}
	put := func(b []byte) error {
		if _, err := f.WriteAt(b, 0); err != nil {
			return err
		}
		return f.Truncate(int64(len(b)))
	}
	if err = put(data); err != nil && len(old) <= maxKept {
		err = errors.Join(err, put(old))
	}
	return err
}

// temporary is a name nobody guesses.
func temporary() string { return ".berth-" + rand.Text()[:16] }

func (p *portable) remove(rel string, dir bool) error {
	info, err := p.lstat(rel)
	switch {
	case err != nil:
		return err
	case info.IsDir() != dir:
		return syscall.EISDIR
	}
	return plain(p.at.Remove(rel))
}

func (p *portable) list(rel string) (listing, error) {
	was, err := p.lstat(rel)
	if err != nil {
		return nil, err
	}
	if !was.IsDir() {
		if was.Mode()&fs.ModeSymlink != 0 {
			return nil, errMoved
		}
		return nil, toolset.ErrNotDir
	}
	f, err := p.at.OpenFile(rel, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, plain(err)
	}
	defer f.Close()
	if is, err := f.Stat(); err != nil || !os.SameFile(was, is) {
		return nil, errMoved
	}
	found, err := f.ReadDir(maxListed + 1)
	if err != nil && err != io.EOF {
		return nil, plain(err)
	}
	if len(found) > maxListed {
		return nil, errListed
	}
	l := &portableListing{hold: p, rel: rel}
	for _, d := range found {
		l.ents = append(l.ents, dirent{d.Name(), d.Type()})
	}
	slices.SortFunc(l.ents, func(a, b dirent) int { return cmp.Compare(a.name, b.name) })
	return l, nil
}

// root may be led through a link that appears meanwhile, never out of the tree.
func (p *portable) root(rel string) (*os.Root, error) {
	r, err := p.at.OpenRoot(rel)
	return r, plain(err)
}

type portableListing struct {
	hold *portable
	rel  string
	ents []dirent
}

func (l *portableListing) names() []dirent { return l.ents }
func (l *portableListing) keep()           {}
func (l *portableListing) close()          {}

func (l *portableListing) open(name string) (toolset.File, error) {
	return l.hold.open(l.rel + "/" + name)
}

func (l *portableListing) lstat(name string) (fs.FileInfo, error) {
	return l.hold.lstat(l.rel + "/" + name)
}

func (l *portableListing) modified(name string) (time.Time, error) {
	return modified(l.lstat(name))
}
