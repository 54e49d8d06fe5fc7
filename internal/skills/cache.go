package skills

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/internal/archive"
)

const (
	// maxArchive bounds a download in bytes.
	maxArchive = 128 << 20
	// tries is how often a download is begun, pauseFirst what lies between,
	// doubling.
	tries      = 3
	pauseFirst = 300 * time.Millisecond
	// keep is how long a skill stays that no session asks for.
	keep = 30 * 24 * time.Hour
	// stale is how old an unfinished unpacking or download is that nobody
	// goes on with.
	stale = time.Hour
	// trimEvery lies between two looks for what is old.
	trimEvery = time.Hour
)

// cache is a directory:
//
//	sha256/<digest>/files/  an archive's content, never written after
//	versions/<digest>       of a plane, a skill and a version: the archive's digest
//	tmp/                    downloads
//
// Safe for concurrent use.
type cache struct {
	dir string

	mu      sync.Mutex
	held    map[string]int // digests in use, and by how many
	trimmed time.Time      // when it was last looked for what is old
}

// openCache opens a cache and clears it of what is old.
func openCache(dir string) (*cache, error) {
	c := &cache{dir: dir, held: map[string]int{}}
	for _, sub := range []string{"sha256", "versions", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	return c, c.trim(time.Now())
}

// trim removes what is old and not in use, if that has not been looked for just
// now.
func (c *cache) trim(now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.trimmed) < trimEvery {
		return nil
	}
	c.trimmed = now
	for sub, age := range map[string]time.Duration{"sha256": keep, "versions": keep, "tmp": stale} {
		at := filepath.Join(c.dir, sub)
		all, err := os.ReadDir(at)
		if err != nil {
			return err
		}
		for _, e := range all {
			limit := age
			if e.Name()[0] == '.' {
				limit = stale
			}
			if info, err := e.Info(); err != nil || now.Sub(info.ModTime()) <= limit || c.held[e.Name()] > 0 {
				continue
			}
			if err := os.RemoveAll(filepath.Join(at, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// hold keeps an archive's content from being removed until release; false when
// it is not there.
func (c *cache) hold(digest string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := os.Stat(c.files(digest)); err != nil {
		return false
	}
	c.held[digest]++
	return true
}

func (c *cache) release(digest string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[digest]--; c.held[digest] <= 0 {
		delete(c.held, digest)
	}
}

func (c *cache) files(digest string) string { return filepath.Join(c.dir, "sha256", digest, "files") }

// get brings a skill's version and gives its digest, which is held: release it.
func (c *cache) get(ctx context.Context, cl *client.Client, id, version string) (string, error) {
	sum := sha256.Sum256([]byte(cl.BaseURL() + "\x00" + id + "\x00" + version))
	known := filepath.Join(c.dir, "versions", hex.EncodeToString(sum[:]))
	if digest, err := os.ReadFile(known); err == nil && len(digest) == 2*sha256.Size {
		if c.hold(string(digest)) {
			now := time.Now() // in use: see keep
			for _, at := range []string{known, filepath.Dir(c.files(string(digest)))} {
				if err := os.Chtimes(at, now, now); err != nil {
					c.release(string(digest))
					return "", err
				}
			}
			return string(digest), nil
		}
	}
	f, digest, err := c.download(ctx, cl, id, version)
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := c.unpack(f, digest); err != nil {
		return "", err
	}
	if err := replace(known, digest); err != nil {
		return "", err
	}
	if !c.hold(digest) {
		return "", errors.New("it is gone from the cache as soon as it was there")
	}
	return digest, nil
}

// replace writes a small file in one step.
func replace(name, text string) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// download gives the archive in a file that is the caller's to remove.
func (c *cache) download(ctx context.Context, cl *client.Client, id, version string) (f *os.File, digest string, err error) {
	if f, err = os.CreateTemp(filepath.Join(c.dir, "tmp"), "skill-"); err != nil {
		return nil, "", err
	}
	pause := pauseFirst
	for try := 1; ; try++ {
		digest, err = once(ctx, cl, id, version, f)
		if err == nil {
			return f, digest, nil
		}
		e, answered := errors.AsType[*client.Error](err)
		_, final := errors.AsType[problem](err)
		if try == tries || ctx.Err() != nil || final || answered && !e.Temporary() {
			break
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
		pause *= 2
	}
	return nil, "", errors.Join(err, f.Close(), os.Remove(f.Name()))
}

func once(ctx context.Context, cl *client.Client, id, version string, f *os.File) (digest string, err error) {
	if err := f.Truncate(0); err != nil {
		return "", err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	body, err := cl.SkillContent(ctx, id, version)
	if err != nil {
		return "", err
	}
	defer body.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(body, maxArchive+1))
	if err != nil {
		return "", err
	}
	if n > maxArchive {
		return "", problem(fmt.Sprintf("its archive is larger than %d MiB", maxArchive>>20))
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// unpack puts an archive's content into the cache, unless it is there.
func (c *cache) unpack(f *os.File, digest string) error {
	if _, err := os.Stat(c.files(digest)); err == nil {
		return nil
	}
	err := archive.Place(filepath.Dir(c.files(digest)), func(root *os.Root) error {
		if err := root.Mkdir("in", 0o755); err != nil {
			return err
		}
		in, err := root.OpenRoot("in")
		if err != nil {
			return err
		}
		defer in.Close()
		if err := extract(in, f); err != nil {
			return err
		}
		top, err := topOf(in)
		if err != nil {
			return err
		}
		if err := root.Rename(filepath.Join("in", top), "files"); err != nil {
			return err
		}
		return root.RemoveAll("in")
	})
	if ae, ok := errors.AsType[*archive.Error](err); ok {
		return problem(ae.Error())
	}
	if errors.Is(err, fs.ErrExist) { // another session's
		return nil
	}
	return err
}

// topOf is the directory of the skill in what was unpacked: the sole one at the
// top, or the top itself. It must have a SKILL.md.
func topOf(in *os.Root) (string, error) {
	all, err := fs.ReadDir(in.FS(), ".")
	if err != nil {
		return "", err
	}
	top := "."
	if len(all) == 1 && all[0].IsDir() {
		top = all[0].Name()
	}
	info, err := in.Lstat(filepath.Join(top, "SKILL.md"))
	if err != nil || !info.Mode().IsRegular() {
		return "", problem("its archive has no SKILL.md")
	}
	return top, nil
}

// extract unpacks a zip, or a tar as it is or compressed.
func extract(in *os.Root, f *os.File) error {
	lim := archive.Limits{Plain: true}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r := bufio.NewReader(f)
	head, err := r.Peek(4)
	if err != nil && err != io.EOF {
		return err
	}
	switch {
	case bytes.HasPrefix(head, []byte("PK")):
		info, err := f.Stat()
		if err != nil {
			return err
		}
		return archive.Unzip(in, f, info.Size(), lim)
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(r)
		if err != nil {
			return problem("its archive is damaged")
		}
		return untar(in, z, lim)
	case bytes.HasPrefix(head, []byte("BZh")):
		return untar(in, bzip2.NewReader(r), lim)
	}
	return untar(in, r, lim)
}

func untar(in *os.Root, r io.Reader, lim archive.Limits) error {
	err := archive.Untar(in, r, lim)
	_, broken := errors.AsType[bzip2.StructuralError](err)
	if broken || errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) || errors.Is(err, io.ErrUnexpectedEOF) {
		return problem("its archive is damaged")
	}
	return err
}
