package stage

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

var (
	errNotRegular = errors.New("it is no regular file")
	errShorter    = passing("it became shorter while it was copied")
)

// file copies a file of this host. The kernel does the copying, or shares the
// blocks, where it can.
func (s *Stager) file(ctx context.Context, in Input, j *load) error {
	from, err := s.open(in)
	if err != nil {
		return err
	}
	defer from.Close()
	info, err := from.Stat()
	switch {
	case err != nil:
		return passing("%s", plain(err))
	case !info.Mode().IsRegular():
		return refused("%s", errNotRegular)
	}
	if err := j.take(info.Size()); err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	return j.draft.Create(in.Name, mode, func(to io.Writer) error {
		if here, ok := to.(*os.File); ok {
			return j.clone(ctx, in, here, from, info.Size())
		}
		left := info.Size()
		err := j.stream(in, to, io.LimitReader(from, left), func(n int64) error {
			left -= n
			return context.Cause(ctx)
		})
		if err == nil && left > 0 {
			err = errShorter
		}
		return err
	})
}

// open opens the file below the root that holds it.
func (s *Stager) open(in Input) (*os.File, error) {
	name := path.Clean(in.URL.Path)
	for _, root := range s.cfg.Roots {
		root = filepath.Clean(root)
		rel, ok := strings.CutPrefix(name, strings.TrimSuffix(root, "/")+"/")
		if !ok {
			continue
		}
		f, err := openBelow(root, rel)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, fs.ErrNotExist):
			return nil, refused("there is no such file")
		case leavesRoot(err):
			return nil, refused("a link in its path leads out of the input root")
		case errors.Is(err, errNotRegular), errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.EISDIR):
			return nil, refused("%s", errNotRegular)
		}
		return nil, refused("%s", plain(err))
	}
	return nil, refused("it is not below a directory that the worker reads inputs from (--input-root)")
}

func openPortable(root, rel string) (*os.File, error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	info, err := r.Stat(rel)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errNotRegular
	}
	return r.OpenFile(rel, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

// pieceBytes is how much is copied between two looks at the context.
const pieceBytes = 256 << 20

// clone copies size bytes from one file to another. A digest is taken of what
// was written, beside the copying.
func (j *load) clone(ctx context.Context, in Input, to, from *os.File, size int64) error {
	if err := reserve(to, size); err != nil {
		return err
	}
	var written chan int64
	digest := make(chan error, 1)
	if in.SHA256 != "" {
		written = make(chan int64, size/pieceBytes+2)
		back, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", to.Fd()))
		if err != nil {
			return err
		}
		defer back.Close()
		go func() {
			sum, buf := sha256.New(), make([]byte, 256<<10)
			var bad error
			for n := range written {
				if bad == nil {
					_, bad = io.CopyBuffer(struct{ io.Writer }{sum}, io.LimitReader(back, n), buf)
				}
			}
			if bad == nil {
				bad = in.verify(sum)
			}
			digest <- bad
		}()
	}
	err := func() error {
		for done := int64(0); done < size; {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n, err := io.Copy(to, io.LimitReader(from, min(pieceBytes, size-done)))
			done += n
			j.add(n)
			if written != nil && n > 0 {
				written <- n
			}
			if err != nil {
				return err
			}
			if n == 0 {
				return errShorter
			}
		}
		return nil
	}()
	if written != nil {
		close(written)
		if e := <-digest; err == nil {
			err = e
		}
	}
	return err
}

// plain is an error without the host's names.
func plain(err error) string {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	return err.Error()
}
