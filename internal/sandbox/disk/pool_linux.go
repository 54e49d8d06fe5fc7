package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Pool makes disks and keeps some ready. Safe for concurrent use.
type Pool struct {
	cfg  Config
	able func() error
	wg   sync.WaitGroup

	mu      sync.Mutex
	stopped bool
	next    int
	sizes   map[int64]*shelf
}

// shelf holds the ready disks of one size.
type shelf struct {
	making   bool
	ready    []blank
	template sync.Mutex // held while the template is made
}

// blank is a disk without a session: an image and its mount, which is nowhere
// and goes when this process does.
type blank struct {
	image string
	mount *os.File
}

// NewPool makes a pool. Nothing is made before the first Mount; what an earlier
// process left in Config.Dir is removed.
func NewPool(cfg Config) (*Pool, error) {
	if cfg.Ready <= 0 {
		cfg.Ready = defaultReady
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.RemoveAll(cfg.Dir); err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	p := &Pool{cfg: cfg, sizes: map[int64]*shelf{}}
	p.able = sync.OnceValue(p.try)
	return p, nil
}

// Able says whether disks can be made here, by making one; it asks once.
func (p *Pool) Able() error { return p.able() }

func (p *Pool) try() error {
	b, err := p.make(MinBytes)
	if err != nil {
		return err
	}
	b.mount.Close()
	return os.Remove(b.image)
}

// Mount shows the folder's disk at its tree: the one that it has, whatever its
// size is, or a new one of so many bytes. Mounted already is no error.
func (p *Pool) Mount(ctx context.Context, folder string, bytes int64) error {
	tree := treeOf(folder)
	if _, mounted, err := Size(folder); err != nil || mounted {
		return err
	}
	if _, err := os.Lstat(imageOf(folder)); err == nil {
		return Remount(folder)
	}
	if bytes < MinBytes {
		return fmt.Errorf("disk: a limit of %d bytes is less than the smallest, %d", bytes, MinBytes)
	}
	entries, err := os.ReadDir(tree)
	if err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	if len(entries) > 0 {
		return ErrFull
	}
	b, err := p.take(ctx, bytes)
	if err != nil {
		return err
	}
	defer b.mount.Close()
	if err := os.Rename(b.image, imageOf(folder)); err != nil {
		return errors.Join(fmt.Errorf("disk: %w", err), os.Remove(b.image))
	}
	if err := attach(b.mount, tree); err != nil {
		return errors.Join(err, os.Remove(imageOf(folder)))
	}
	return nil
}

// take gives a ready disk, or one made now, and has the shelf filled again.
func (p *Pool) take(ctx context.Context, bytes int64) (blank, error) {
	if err := ctx.Err(); err != nil {
		return blank{}, err
	}
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		return blank{}, errors.New("disk: the pool has stopped")
	}
	s := p.shelf(bytes)
	var b blank
	if n := len(s.ready); n > 0 {
		b = s.ready[n-1]
		s.ready = s.ready[:n-1]
	}
	if !s.making {
		s.making = true
		p.wg.Go(func() { p.fill(s, bytes) })
	}
	p.mu.Unlock()
	if b.mount != nil {
		return b, nil
	}
	return p.make(bytes)
}

func (p *Pool) shelf(bytes int64) *shelf {
	s := p.sizes[bytes]
	if s == nil {
		s = &shelf{}
		p.sizes[bytes] = s
	}
	return s
}

// fill makes disks until enough are ready; it ends with the pool.
func (p *Pool) fill(s *shelf, bytes int64) {
	for {
		p.mu.Lock()
		if p.stopped || len(s.ready) >= p.cfg.Ready {
			s.making = false
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		b, err := p.make(bytes)
		if err != nil {
			p.cfg.Log.Warn("a disk cannot be made ahead", "bytes", bytes, "err", err)
			p.mu.Lock()
			s.making = false
			p.mu.Unlock()
			return
		}
		p.mu.Lock()
		s.ready = append(s.ready, b)
		p.mu.Unlock()
	}
}

// Stop ends the making and removes what nobody has taken. Disks that are
// mounted stay. Twice is fine.
func (p *Pool) Stop() error {
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	p.wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.sizes {
		for _, b := range s.ready {
			b.mount.Close()
		}
		s.ready = nil
	}
	if err := os.RemoveAll(p.cfg.Dir); err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	return nil
}

// make makes a disk from the template of its size.
func (p *Pool) make(bytes int64) (b blank, err error) {
	p.mu.Lock()
	p.next++
	image := filepath.Join(p.cfg.Dir, strconv.Itoa(p.next)+".img")
	s := p.shelf(bytes)
	p.mu.Unlock()
	template := filepath.Join(p.cfg.Dir, "template-"+strconv.FormatInt(bytes, 10))
	s.template.Lock()
	if _, err = os.Lstat(template); err != nil {
		err = format(template, bytes)
	}
	s.template.Unlock()
	if err != nil {
		return blank{}, err
	}
	defer func() {
		if err != nil {
			os.Remove(image)
		}
	}()
	if err := copySparse(template, image, bytes); err != nil {
		return blank{}, fmt.Errorf("disk: make an image: %w", err)
	}
	mount, err := open(image)
	if err != nil {
		return blank{}, err
	}
	// It is made by mke2fs for what a check finds, and nobody checks.
	if err := unix.Unlinkat(int(mount.Fd()), "lost+found", unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
		mount.Close()
		return blank{}, fmt.Errorf("disk: empty the image: %w", err)
	}
	return blank{image: image, mount: mount}, nil
}

// copySparse copies the parts of an image that hold anything.
func copySparse(from, to string, bytes int64) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := out.Truncate(bytes); err != nil {
		return err
	}
	for at := int64(0); at < bytes; {
		data, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		if err != nil {
			return err
		}
		hole, err := unix.Seek(int(in.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := in.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := out.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(out, in, hole-data); err != nil {
			return err
		}
		at = hole
	}
	return out.Close()
}

// Leftovers gives the folders in dir whose disks are mounted.
func Leftovers(dir string) ([]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	} else if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var folders []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 4 && filepath.Base(f[4]) == treeName && filepath.Dir(filepath.Dir(f[4])) == dir {
			folders = append(folders, filepath.Dir(f[4]))
		}
	}
	return folders, nil
}
