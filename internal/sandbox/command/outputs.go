package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/removal"
	"github.com/berthdev/berth/internal/sandbox/tree"
	"github.com/berthdev/berth/toolset"
)

// Bounds of what is fetched of a session's outputs.
const (
	maxFiles = 100_000
	maxBytes = 16 << 30
	// fetchTime bounds the fetching at a session's end, of all files together.
	fetchTime = 2 * time.Minute
	// maxMissing is how many of those that do not come are named.
	maxMissing = 1000
)

// freshName is where outputs are fetched to, beside their place in the tree
// and shown to nobody.
const freshName = ".fetched"

// fetch is the copying of a session's outputs to its tree on this machine.
type fetch struct {
	files *tree.Tree
	root  *os.Root // the tree here
	until time.Time
	count int
	left  int64 // bytes that may still come

	missing []sandbox.Unfetched
	more    int // missing, and not named
}

// fetchOutputs copies the session's outputs to its tree on this machine, in
// the place of what an earlier sandbox has left there, and gives what did not
// come. It takes a little longer than limit at most: for a while after it
// files are named and no longer copied, and then letGo has whoever waits for
// the far side wait no more.
func fetchOutputs(ctx context.Context, spec sandbox.Spec, files *tree.Tree, limit time.Duration, letGo func()) ([]sandbox.Unfetched, error) {
	ctx, cancel := context.WithTimeout(ctx, limit+limit/8)
	defer cancel()
	defer context.AfterFunc(ctx, letGo)()
	root, err := os.OpenRoot(spec.Tree)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f := &fetch{files: files, root: root, until: time.Now().Add(limit), left: maxBytes}
	if !files.Holds(outputs) {
		return nil, nil // the far side's user could not make the directory
	}
	switch _, err := files.Stat(outputs); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, sandbox.ErrGone):
		f.miss(".", "the far side does not answer any more: "+err.Error())
		return f.missing, nil
	case err != nil:
		f.miss(".", "the far side cannot be looked at: "+err.Error())
		return f.missing, nil
	}
	if err := removal.In(root, freshName); err != nil {
		return nil, err
	}
	if err := root.MkdirAll(freshName, 0o755); err != nil {
		return nil, err
	}
	defer removal.In(root, freshName)
	if err := f.walk(ctx); err != nil {
		return f.missing, err
	}
	if f.more > 0 {
		f.missing = append(f.missing, sandbox.Unfetched{Name: []byte("."), Reason: fmt.Sprintf("%d more files were not fetched", f.more)})
	}
	return f.missing, f.publish()
}

func (f *fetch) miss(name, why string) {
	if len(f.missing) >= maxMissing {
		f.more++
		return
	}
	f.missing = append(f.missing, sandbox.Unfetched{Name: []byte(name), Reason: "it was not fetched: " + why})
}

// walk copies what there is. Its error is this machine's.
func (f *fetch) walk(ctx context.Context) error {
	var here error
	err := f.files.Walk(ctx, outputs, func(full string, e toolset.Entry) error {
		name := strings.TrimPrefix(full, outputs+"/")
		if f.count++; f.count > maxFiles {
			f.miss(".", fmt.Sprintf("there are more than %d files, and those from %q on were not looked at", maxFiles, name))
			return fs.SkipAll
		}
		switch {
		case e.IsDir():
			here = f.dir(name)
		case e.Type() != 0:
		case !time.Now().Before(f.until):
			f.miss(name, "the time for all outputs was over")
		default:
			here = f.file(name, e)
		}
		if here != nil {
			return fs.SkipAll
		}
		return nil
	})
	if here == nil && err != nil {
		f.miss(".", "the far side cannot be listed to the end: "+err.Error())
	}
	return here
}

// dir makes one directory. Its error is this machine's.
func (f *fetch) dir(name string) error {
	return f.unmade(name, f.root.MkdirAll(path.Join(freshName, name), 0o755))
}

// unmade says of what could not be made whether its name is to blame, as only
// the far side has it or says that it has: then that file alone is missing.
func (f *fetch) unmade(name string, err error) error {
	for _, impossible := range []error{syscall.ENAMETOOLONG, syscall.EEXIST, syscall.ENOTDIR, syscall.EINVAL} {
		if errors.Is(err, impossible) {
			f.miss(name, "this machine cannot have it: "+impossible.Error())
			return nil
		}
	}
	return err
}

// file copies one file. Its error is this machine's.
func (f *fetch) file(name string, e toolset.Entry) error {
	from, err := e.Open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it went meanwhile
	}
	if err != nil {
		f.miss(name, err.Error())
		return nil
	}
	defer from.Close()
	mode := fs.FileMode(0o644)
	if info, err := from.Stat(); err == nil {
		mode = info.Mode().Perm() | 0o400
	}
	at := path.Join(freshName, name)
	to, err := f.root.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return f.unmade(name, err)
	}
	in := &timed{from: from, until: f.until}
	n, err := io.Copy(to, io.LimitReader(in, f.left+1))
	if e := to.Close(); err == nil && e != nil {
		return e
	}
	why := in.err
	if err == nil && n > f.left {
		why = fmt.Errorf("the outputs are larger than %d bytes", int64(maxBytes))
	}
	if why != nil {
		f.miss(name, why.Error())
		return f.root.Remove(at)
	}
	f.left -= n
	return err
}

// timed is a file at the far side that can be read for a time. err is why it
// could not be read to its end.
type timed struct {
	from  toolset.File
	until time.Time
	err   error
}

func (t *timed) Read(b []byte) (n int, err error) {
	if time.Now().Before(t.until) {
		n, err = t.from.Read(b)
	} else {
		err = errors.New("the time for all outputs was over")
	}
	if err != nil && err != io.EOF {
		t.err = err
	}
	return n, err
}

// publish puts what was fetched in the place of what was there. Where not all
// of it came nothing goes: what was there may be the outputs themselves, where
// the command shows the tree at the far side.
func (f *fetch) publish() error {
	place := strings.TrimPrefix(outputs, "/")
	if err := f.root.MkdirAll(path.Dir(place), 0o755); err != nil {
		return err
	}
	if len(f.missing) == 0 {
		if err := removal.In(f.root, place); err != nil {
			return err
		}
		return f.root.Rename(freshName, place)
	}
	return fs.WalkDir(f.root.FS(), freshName, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(place, strings.TrimPrefix(name, freshName))
		if e.IsDir() {
			return f.root.MkdirAll(to, 0o755)
		}
		return f.root.Rename(name, to)
	})
}
