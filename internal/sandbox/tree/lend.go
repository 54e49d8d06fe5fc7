package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/berthdev/berth/internal/sandbox/removal"
	"github.com/berthdev/berth/toolset"
)

// lentMode is a lent file's: everybody may read and run it.
const lentMode = 0o555

// Lend puts a copy of a directory of this host at an absolute path below the
// working directory, and the file tools do not write there from then on.
// Only regular files and directories are copied. They belong to the
// supervisor's user: where the session's is another, it can change none. What
// is there and the same stays; what differs is replaced, but not in a shared
// working directory, where it is somebody's own: that is ErrTaken.
func (t *Tree) Lend(ctx context.Context, from, target string) error {
	target = path.Clean(target)
	name, ok := strings.CutPrefix(target, t.workdir+"/")
	if !ok {
		return &fs.PathError{Op: "lend", Path: target, Err: toolset.ErrOutside}
	}
	if err := local(name); err != nil {
		return err
	}
	src, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer src.Close()
	if t.Far() {
		err = t.send(ctx, src.FS(), target)
	} else {
		err = t.lend(ctx, src.FS(), name)
	}
	if err != nil {
		return &fs.PathError{Op: "lend", Path: target, Err: err}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.Contains(t.readOnly, target) {
		t.readOnly = append(t.readOnly, target)
	}
	return nil
}

// ErrTaken says that a place in a shared directory has other files.
var ErrTaken = errors.New("the shared working directory has other files there")

// lend copies into the working directory at name.
func (t *Tree) lend(ctx context.Context, src fs.FS, name string) error {
	var into *os.Root
	err := t.reach(t.workdir, existing(func(rel string) (err error) {
		into, err = t.hold.root(rel)
		return err
	}))
	if err != nil {
		return err
	}
	there, err := prepare(ctx, src, into, name, t.shared)
	if there || err != nil {
		into.Close()
		return err
	}
	d, err := newDraft(into, owner{-1, -1}) // closes into
	if err != nil {
		into.Close()
		return err
	}
	defer d.Drop()
	err = fs.WalkDir(src, ".", func(at string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case e.IsDir():
			return d.Dir(path.Join(name, at))
		case !e.Type().IsRegular():
			return nil
		}
		in, err := src.Open(at)
		if err != nil {
			return err
		}
		defer in.Close()
		return d.Create(path.Join(name, at), lentMode, func(to io.Writer) error {
			_, err := io.Copy(to, in)
			return err
		})
	})
	if err != nil {
		return err
	}
	return d.Publish()
}

// prepare makes room for what is to be lent at name, unless it is there.
func prepare(ctx context.Context, src fs.FS, into *os.Root, name string, shared bool) (there bool, err error) {
	for above := path.Dir(name); above != "."; above = path.Dir(above) {
		if info, err := into.Lstat(above); err == nil && !info.IsDir() {
			return false, fmt.Errorf("%s: %w", above, toolset.ErrNotDir)
		}
	}
	_, err = into.Lstat(name)
	switch {
	case isNotExist(err):
		return false, nil
	case err != nil:
		return false, err
	case same(ctx, src, into, name):
		return true, nil
	case shared:
		return false, ErrTaken
	}
	return false, removal.In(into, name)
}

// same says whether a directory has all that is in src.
func same(ctx context.Context, src fs.FS, into *os.Root, name string) bool {
	return nil == fs.WalkDir(src, ".", func(at string, e fs.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil {
			return errOther
		}
		if !e.IsDir() && !e.Type().IsRegular() {
			return nil
		}
		there, err := into.Lstat(path.Join(name, at))
		if err != nil || there.IsDir() != e.IsDir() {
			return errOther
		}
		if e.IsDir() {
			return nil
		}
		want, err := fs.Stat(src, at)
		if err != nil || there.Mode() != lentMode || there.Size() != want.Size() {
			return errOther
		}
		a, err := src.Open(at)
		if err != nil {
			return err
		}
		defer a.Close()
		b, err := into.OpenFile(filepath.FromSlash(path.Join(name, at)), os.O_RDONLY|syscall.O_NONBLOCK, 0) // it may be a FIFO by now
		if err != nil {
			return err
		}
		defer b.Close()
		if info, err := b.Stat(); err != nil || !info.Mode().IsRegular() || !sameBytes(a, b) {
			return errOther
		}
		return nil
	})
}

var errOther = errors.New("it is another")

func sameBytes(a, b io.Reader) bool {
	var bufs [2][32 << 10]byte
	for {
		n, errA := io.ReadFull(a, bufs[0][:])
		m, errB := io.ReadFull(b, bufs[1][:])
		if !bytes.Equal(bufs[0][:n], bufs[1][:m]) {
			return false
		}
		if errA != nil || errB != nil {
			end := func(err error) bool { return err == io.EOF || err == io.ErrUnexpectedEOF }
			return end(errA) && end(errB)
		}
	}
}

// send writes a directory's files on a machine that can only be asked. They get
// the modes and the owner that it gives to new files.
func (t *Tree) send(ctx context.Context, src fs.FS, target string) error {
	return fs.WalkDir(src, ".", func(at string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		text, err := fs.ReadFile(src, at)
		if err != nil {
			return err
		}
		return t.WriteFile(path.Join(target, at), text)
	})
}

// guarded says whether the tools do not write to a path.
func (t *Tree) guarded(rel string) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return within("/"+rel, t.readOnly)
}
