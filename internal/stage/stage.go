// Package stage brings what a session asks for in its metadata into its
// working directory before its first tool call: files of this host below
// allowed roots, of the web and of S3, and git repositories at a commit. All
// of it comes, or nothing. What metadata says is hostile: it is bounded, and
// leads nowhere that the worker's operator has not allowed.
package stage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config says what inputs may be. The zero value allows public https: and
// git+https: alone.
type Config struct {
	// Roots are directories of this host that file: may read from.
	Roots []string
	// Buckets are what s3: may read from: "bucket", or "bucket/prefix".
	Buckets []string
	// Private lets https: and git+https: reach addresses that are not public.
	Private bool
	// CA is a PEM file of further authorities for https: and git+https:.
	CA string
	// S3Endpoint is the S3 server, "" for that of AWS's own settings.
	S3Endpoint string
	// MaxBytes bounds all inputs of a session together; 0 means 16 GiB.
	MaxBytes int64
	// Time bounds the staging of one session; 0 means 30 minutes.
	Time time.Duration
	// Dir is where repositories are fetched to, "" for the system's place of
	// temporary files.
	Dir string
	// Log hears of progress.
	Log *slog.Logger
}

const (
	defaultMaxBytes = 16 << 30
	defaultTime     = 30 * time.Minute
	parallel        = 4
	// maxFiles bounds the files of one repository.
	maxFiles = 200_000
	tellEach = 10 * time.Second
)

// Draft is where inputs are written until all of them are there.
type Draft interface {
	Create(name string, mode fs.FileMode, fill func(io.Writer) error) error
	Link(name, target string) error
	Dir(name string) error
	Publish() error
	Drop() error
}

// Stager fetches inputs. Safe for concurrent use.
type Stager struct {
	cfg    Config
	web    *web
	store  *objects
	gits   chan struct{} // room for gits at work
	bounds bounds        // of each of them
}

// New makes a Stager. It fails when a root or the CA cannot be read.
func New(cfg Config) (*Stager, error) {
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = defaultMaxBytes
	}
	if cfg.Time <= 0 {
		cfg.Time = defaultTime
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	for _, root := range cfg.Roots {
		if info, err := os.Stat(root); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("stage: the input root %s is no directory", root)
		}
	}
	web, err := newWeb(cfg)
	if err != nil {
		return nil, err
	}
	return &Stager{
		cfg: cfg, web: web, store: &objects{endpoint: cfg.S3Endpoint},
		gits: make(chan struct{}, atOnce), bounds: bounds{memory: memoryBound(), time: gitTime},
	}, nil
}

// Error is why a session's inputs could not be had, for the session to read:
// no path of this host, no credential and no query is in it.
type Error struct {
	Input  string // "" when it is about all of them
	Reason string
	// Passing says that a later try may go better.
	Passing bool
}

func (e *Error) Error() string {
	if e.Input == "" {
		return "the session's inputs could not be staged: " + e.Reason
	}
	return "the input " + e.Input + " could not be staged: " + e.Reason
}

// refused and passing are reasons of one input's failure.
type failure struct {
	reason  string
	passing bool
}

func (f *failure) Error() string { return f.reason }

func refused(format string, args ...any) error { return &failure{fmt.Sprintf(format, args...), false} }
func passing(format string, args ...any) error { return &failure{fmt.Sprintf(format, args...), true} }

// Stage brings the inputs into a draft and publishes it. The draft is ended
// in any case. Its error is an *Error, or ctx's.
func (s *Stager) Stage(ctx context.Context, inputs []Input, d Draft) error {
	defer d.Drop()
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.Time, passing("it took longer than %s", s.cfg.Time))
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var total totals
	total.left.Store(s.cfg.MaxBytes)
	s.cfg.Log.Info("staging inputs", "inputs", len(inputs))
	stop := s.tell(&total, began, len(inputs))
	room := make(chan struct{}, parallel)
	var all sync.WaitGroup
	for _, in := range inputs {
		all.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			if ctx.Err() != nil {
				return
			}
			began, j := time.Now(), &load{draft: d, total: &total}
			if err := s.fetch(ctx, in, j); err != nil {
				if ctx.Err() != nil && context.Cause(ctx) != nil {
					err = context.Cause(ctx)
				}
				fail(asError(in, err))
				return
			}
			s.cfg.Log.Info("input staged", "input", in, "bytes", j.got, "took", time.Since(began).Round(time.Millisecond))
		})
	}
	all.Wait()
	stop()
	if ctx.Err() != nil {
		err := context.Cause(ctx)
		if _, ok := errors.AsType[*failure](err); ok { // the time of all
			err = &Error{Reason: err.Error(), Passing: true}
		}
		return err
	}
	if err := d.Publish(); err != nil {
		return &Error{Reason: err.Error()}
	}
	s.cfg.Log.Info("inputs staged", "inputs", len(inputs), "bytes", total.got.Load(), "took", time.Since(began).Round(time.Millisecond))
	return nil
}

func asError(in Input, err error) error {
	if f, ok := errors.AsType[*failure](err); ok {
		return &Error{in.String(), f.reason, f.passing}
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e // of another input, which ended this one
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	// What is left is of the disk: the tree is full, or broken.
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	return &Error{in.String(), "it cannot be written: " + err.Error(), true}
}

func (s *Stager) fetch(ctx context.Context, in Input, j *load) error {
	switch in.Scheme {
	case "file":
		return s.file(ctx, in, j)
	case "https":
		return s.web.fetch(ctx, in, j)
	case "s3":
		return s.object(ctx, in, j)
	case "git":
		return s.repository(ctx, in, j)
	}
	return refused("%q is no scheme of inputs", in.Scheme)
}

// totals are of all inputs of a session.
type totals struct {
	left atomic.Int64 // bytes that may still come
	got  atomic.Int64
}

// load is the staging of one input, by one goroutine.
type load struct {
	draft Draft
	total *totals
	got   int64 // bytes
}

// add notes bytes that have come.
func (j *load) add(n int64) {
	j.got += n
	j.total.got.Add(n)
}

// take asks for room for n more bytes.
func (j *load) take(n int64) error {
	if n < 0 || j.total.left.Add(-n) < 0 {
		j.total.left.Add(max(n, 0))
		return refused("it is larger than what the worker takes for one session (--input-bytes)")
	}
	return nil
}

// tell logs how far the staging is, until it is stopped.
func (s *Stager) tell(total *totals, began time.Time, inputs int) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(tellEach)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
				s.cfg.Log.Info("still staging inputs", "inputs", inputs, "bytes", total.got.Load(), "for", time.Since(began).Round(time.Second))
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

// write brings a stream of unknown length into a file of the draft. alive,
// when set, is told of every read.
func (j *load) write(in Input, from io.Reader, alive func()) error {
	return j.draft.Create(in.Name, 0o644, func(to io.Writer) error {
		return j.stream(in, to, from, func(n int64) error {
			if alive != nil {
				alive()
			}
			return j.take(n)
		})
	})
}

// stream copies to the end of from, asks may before each piece, and compares the
// digest of what went through.
func (j *load) stream(in Input, to io.Writer, from io.Reader, may func(n int64) error) error {
	sum := sha256.New()
	buf := make([]byte, 256<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if err := may(int64(n)); err != nil {
				return err
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return err
			}
			j.add(int64(n))
			if in.SHA256 != "" {
				sum.Write(buf[:n])
			}
		}
		if err == io.EOF {
			return in.verify(sum)
		}
		if err != nil {
			return passing("it broke off: %s", plain(err))
		}
	}
}

// verify compares what came with what was promised.
func (in Input) verify(sum hash.Hash) error {
	if in.SHA256 == "" {
		return nil
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != in.SHA256 {
		return refused("its SHA-256 is %s, not %s", got, in.SHA256)
	}
	return nil
}

// within says whether p is root or below it.
func within(p, root string) bool {
	root = strings.TrimSuffix(root, "/")
	return p == root || strings.HasPrefix(p, root+"/")
}
