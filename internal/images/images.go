// Package images turns an image, wherever it is, into a root directory on this
// machine: unpacked once, kept by its digest, shared by every sandbox that
// uses it and never written to again.
package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/berthdev/berth/internal/archive"
	"github.com/berthdev/berth/internal/sandbox"
)

// Config says where images are kept and how they come in. Only Dir is needed.
type Config struct {
	// Dir holds sha256/DIGEST/root, locks/ and archives/. More processes than
	// one may use it.
	Dir string
	// Limits are of one image with all its layers; zero fields mean 1,000,000
	// members and 32 GiB.
	Limits archive.Limits
	// Keychain has the registries' credentials; nil is Docker's own files.
	Keychain authn.Keychain
	// Transport reaches registries; nil is http.DefaultTransport. Plain HTTP
	// is refused to all but this machine, whichever it is.
	Transport http.RoundTripper
	// Log hears of progress; nil is silence.
	Log *slog.Logger
}

// Store keeps unpacked images. Safe for concurrent use.
type Store struct {
	cfg Config
	log *slog.Logger

	mu   sync.Mutex
	held map[string]*lock // images in use by this process, by digest
}

// Open opens the store in Config.Dir, which is made if it is missing.
func Open(cfg Config) (*Store, error) {
	if cfg.Limits.Members <= 0 {
		cfg.Limits.Members = 1_000_000
	}
	if cfg.Limits.Bytes <= 0 {
		cfg.Limits.Bytes = 32 << 30
	}
	if cfg.Keychain == nil {
		cfg.Keychain = authn.DefaultKeychain
	}
	if cfg.Transport == nil {
		cfg.Transport = http.DefaultTransport
	}
	cfg.Transport = onlyTLS{cfg.Transport}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	for _, name := range []string{"sha256", "locks", "archives"} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, name), 0o700); err != nil {
			return nil, fmt.Errorf("images: %w", err)
		}
	}
	return &Store{cfg: cfg, log: cfg.Log, held: map[string]*lock{}}, nil
}

// Close lets go of the images that Get gave; Collect may then remove them.
func (s *Store) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for digest, l := range s.held {
		l.release()
		delete(s.held, digest)
	}
}

// Error is an image that cannot be had or not be used.
type Error struct {
	Ref     string
	Problem string
	Cure    string
	Err     error // what was behind it, or nil
}

func (e *Error) Error() string { return e.What() + "; " + e.Cure }

// What is what happened, without the cure.
func (e *Error) What() string {
	s := "image " + e.Ref + ": " + e.Problem
	if e.Err != nil {
		s += ": " + strings.Join(strings.Fields(e.Err.Error()), " ")
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Get gives an image's root: one that is unpacked already, or a new one, which
// is there whole or not at all. ref is a registry's reference, or the path of
// an OCI layout (with :TAG or without) or of an archive of docker save or of
// an OCI layout; paths begin with / or with a dot. The image stays until
// Close. All errors but ctx's are *Error.
func (s *Store) Get(ctx context.Context, ref string) (sandbox.Image, error) {
	img, err := s.get(ctx, ref)
	if err == nil {
		return img, nil
	}
	if ctx.Err() != nil {
		return img, context.Cause(ctx)
	}
	ie, ok := errors.AsType[*Error](err)
	if !ok {
		ie = &Error{Problem: "it cannot be unpacked", Cure: "look at what the error says", Err: err}
		if ae, bad := errors.AsType[*archive.Error](err); bad {
			ie.Cure, ie.Err = "use another image: this one is damaged or hostile", ae
		} else if errors.Is(err, fs.ErrPermission) || errors.Is(err, errNoSpace) {
			ie.Cure = "make room or give access in " + s.cfg.Dir
		}
	}
	ie.Ref = ref
	return img, ie
}

func (s *Store) get(ctx context.Context, ref string) (sandbox.Image, error) {
	if m, ok := s.recall(ref); ok {
		err := s.hold(ctx, m.Digest, func(string) error { return errForgotten })
		if err == nil {
			return s.image(ref, m.Digest, m.Env), nil
		}
		if !errors.Is(err, errForgotten) {
			return sandbox.Image{}, err
		}
	}
	src, err := s.find(ctx, ref)
	if err != nil {
		return sandbox.Image{}, err
	}
	defer src.close()
	if err := s.hold(ctx, src.digest, func(dir string) error { return s.unpack(ctx, ref, src, dir) }); err != nil {
		return sandbox.Image{}, err
	}
	s.remember(ref, src)
	return s.image(ref, src.digest, src.env), nil
}

func (s *Store) image(ref, digest string, env []string) sandbox.Image {
	return sandbox.Image{Ref: ref, Digest: digest, Root: filepath.Join(s.dir(digest), "root"), Env: env}
}

// dir is where the image of a digest is.
func (s *Store) dir(digest string) string {
	return filepath.Join(s.cfg.Dir, "sha256", strings.TrimPrefix(digest, "sha256:"))
}

// hold takes the image's lock, shared and until Close, with the image in
// place; fill makes it where it is missing.
func (s *Store) hold(ctx context.Context, digest string, fill func(dir string) error) error {
	name := s.lockName(digest)
	dir := s.dir(digest)
	for {
		l, err := share(ctx, name)
		if err != nil {
			return err
		}
		now := time.Now()
		if err = os.Chtimes(dir, now, now); err == nil { // Collect goes by it
			s.keep(digest, l)
			return nil
		}
		l.release()
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		// Not waited for: who makes it meanwhile keeps the lock, shared.
		l, err = tryLock(name, true)
		if errors.Is(err, errBusy) {
			if err := pause(ctx); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if _, err = os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
			err = fill(dir)
		}
		l.release()
		if err != nil {
			return err
		}
	}
}

// keep keeps an image's lock until Close, one for each image.
func (s *Store) keep(digest string, l *lock) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[digest] == nil {
		s.held[digest] = l
		return
	}
	l.release()
}

// Leftover is an image that nobody needs, or what a broken unpacking left.
type Leftover struct {
	Name   string // the digest, or a path
	Remove func() error
}

// errInUse says that somebody took an image meanwhile.
var errInUse = errors.New("somebody uses it now")

// Leftovers lists the images that nobody has got for age, that no process
// holds and for whose digest keep does not say true.
func (s *Store) Leftovers(age time.Duration, keep func(digest string) bool) ([]Leftover, error) {
	entries, err := os.ReadDir(filepath.Join(s.cfg.Dir, "sha256"))
	if err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	var left []Leftover
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue
		}
		path := filepath.Join(s.cfg.Dir, "sha256", e.Name())
		old := time.Since(info.ModTime())
		digest := "sha256:" + e.Name()
		switch {
		case strings.HasPrefix(e.Name(), gonePrefix), strings.HasPrefix(e.Name(), ".") && old > max(age, 24*time.Hour):
			left = append(left, Leftover{path, func() error { return os.RemoveAll(path) }})
		case strings.HasPrefix(e.Name(), "."), old < age, keep != nil && keep(digest):
		default:
			l, err := tryLock(s.lockName(digest), true)
			if err != nil {
				continue // somebody has it
			}
			l.release()
			left = append(left, Leftover{digest, func() error { return s.remove(digest, age) }})
		}
	}
	return left, nil
}

// gonePrefix begins the name of an image that is being removed: half an image
// must never have its own.
const gonePrefix = ".gone-"

func (s *Store) remove(digest string, age time.Duration) error {
	l, err := tryLock(s.lockName(digest), true)
	if errors.Is(err, errBusy) {
		return errInUse
	}
	if err != nil {
		return err
	}
	defer l.release()
	path := s.dir(digest)
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if time.Since(info.ModTime()) < age {
		return errInUse
	}
	gone := filepath.Join(filepath.Dir(path), gonePrefix+filepath.Base(path))
	if err := os.Rename(path, gone); err != nil {
		return err
	}
	return os.RemoveAll(gone)
}

// Collect removes the Leftovers, and gives their names.
func (s *Store) Collect(age time.Duration, keep func(digest string) bool) (removed []string, err error) {
	left, err := s.Leftovers(age, keep)
	errs := []error{err}
	for _, l := range left {
		err := l.Remove()
		if err == nil {
			removed = append(removed, l.Name)
		} else if !errors.Is(err, errInUse) {
			errs = append(errs, err)
		}
	}
	return removed, errors.Join(errs...)
}

func (s *Store) lockName(digest string) string {
	return filepath.Join(s.cfg.Dir, "locks", strings.TrimPrefix(digest, "sha256:"))
}
