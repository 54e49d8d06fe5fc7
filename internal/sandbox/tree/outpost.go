package tree

import (
	"errors"
	"io"
	"io/fs"
	"path"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/toolset"
)

// outpost is a draft's ground on a machine that can only be asked. What is in it
// has the owner that the machine gives, and may be read there.
type outpost struct {
	h   far
	rel string // the directory
}

func newOutpost(h far, rel string) (*outpost, error) {
	o := &outpost{h, rel}
	if err := o.remove(draftName); err != nil {
		return nil, err
	}
	return o, h.mkdir(o.draft("."))
}

func (o *outpost) draft(name string) string { return path.Join(o.rel, draftName, name) }

func (o *outpost) create(name string, mode fs.FileMode, fill func(io.Writer) error) error {
	w := &parcel{h: o.h, path: at(o.draft(name)), mode: int64(mode.Perm())}
	if err := fill(w); err != nil {
		return err
	}
	return w.close()
}

// parcel is a new file that is sent as it is written, a chunk at a time. A small
// one goes with the request that makes it.
type parcel struct {
	h    far
	path string
	mode int64
	sent int64
	made bool
	next []byte // not sent yet
}

func (p *parcel) Write(b []byte) (n int, err error) {
	for n < len(b) {
		if len(p.next) == agentwire.MaxChunk {
			if err := p.send(0); err != nil {
				return n, err
			}
		}
		m := min(len(b)-n, agentwire.MaxChunk-len(p.next))
		p.next = append(p.next, b[n:n+m]...)
		n += m
	}
	return n, nil
}

// send sends what has gathered, and makes the file with it where that is to be
// done.
func (p *parcel) send(mode int64) error {
	r := agentwire.FileRequest{Op: agentwire.FilePut, Path: p.path, Offset: p.sent, Data: p.next}
	if !p.made {
		r = agentwire.FileRequest{Op: agentwire.FileCreate, Path: p.path, Length: mode, Data: p.next}
	}
	if _, err := p.h.do(r); err != nil {
		return err
	}
	p.made = true
	p.sent += int64(len(p.next))
	p.next = p.next[:0]
	return nil
}

func (p *parcel) close() error {
	whole := !p.made
	if err := p.send(p.mode); err != nil || whole && p.mode != 0 {
		return err
	}
	_, err := p.h.do(agentwire.FileRequest{Op: agentwire.FileChmod, Path: p.path, Length: p.mode})
	return err
}

func (o *outpost) link(name, target string) error {
	_, err := o.h.do(agentwire.FileRequest{Op: agentwire.FileSymlink, Path: at(o.draft(name)), Data: []byte(target)})
	return err
}

func (o *outpost) mkdir(name string) error { return o.h.mkdir(o.draft(name)) }

func (o *outpost) read(dir string) ([]dirent, error) {
	l, err := o.h.list(o.draft(dir))
	if err != nil {
		return nil, err
	}
	return l.names(), nil
}

func (o *outpost) lstat(name string) (fs.FileInfo, error) { return o.h.lstat(path.Join(o.rel, name)) }

func (o *outpost) publish(name string) error {
	_, err := o.h.do(agentwire.FileRequest{Op: agentwire.FileRename, Path: at(o.draft(name)), To: at(path.Join(o.rel, name))})
	return err
}

func (o *outpost) drop() error { return o.remove(draftName) }

// remove removes what is at a name in the directory, whatever that is.
func (o *outpost) remove(name string) error {
	p := path.Join(o.rel, name)
	if len(p) > maxPath {
		return errTooLong
	}
	l, err := o.h.list(p)
	switch {
	case isNotExist(err):
		return nil
	case errors.Is(err, toolset.ErrNotDir), isMoved(err):
		_, err = o.h.do(agentwire.FileRequest{Op: agentwire.FileRemove, Path: at(p)})
		return err
	case err != nil:
		return err
	}
	for _, e := range l.names() {
		if e.mode.IsDir() {
			err = o.remove(path.Join(name, e.name))
		} else {
			_, err = o.h.do(agentwire.FileRequest{Op: agentwire.FileRemove, Path: at(path.Join(p, e.name))})
		}
		if err != nil && !isNotExist(err) {
			return err
		}
	}
	_, err = o.h.do(agentwire.FileRequest{Op: agentwire.FileRmdir, Path: at(p)})
	return err
}
