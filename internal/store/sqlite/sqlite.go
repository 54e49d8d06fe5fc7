// Package sqlite keeps the control plane's data in one SQLite file: WAL,
// synchronous=FULL, one connection that writes (transitions that wait share a
// commit) and a few that read. One process at a time may have it open;
// whoever opens it sees to that.
package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/fold"
	"github.com/berthdev/berth/internal/store/record"
)

// walLimit is how far the log may grow before readers are held for a moment
// so that it can be emptied. Ordinary checkpoints keep it near 4 MiB; only
// readers that always overlap let it grow. patience is how long the writer
// waits for them.
const (
	walLimit = 64 << 20
	patience = 100 * time.Millisecond
)

// Store is a store.Store.
type Store struct {
	path   string
	write  *conn
	writer *fold.Writer
	hub    *fold.Hub

	readers chan *conn
	all     []*conn
	memory  *memories

	walLimit int64         // of the writer's goroutine
	patience time.Duration // likewise

	closing sync.Once
	closed  chan struct{}
	err     error
}

// Open opens or creates the database at path, mode 0600, and brings its
// schema up to date unless o says otherwise.
func Open(ctx context.Context, path string, o store.Options) (*Store, error) {
	if err := create(path); err != nil {
		return nil, err
	}
	if err := prepare(ctx, path, o); err != nil {
		return nil, err
	}
	connector, err := sqlite.NewConnector(dsn(path))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	s := &Store{path: path, walLimit: walLimit, patience: patience, memory: newMemories(), closed: make(chan struct{})}
	n := o.Readers
	if n <= 0 {
		n = 4
	}
	s.readers = make(chan *conn, n)
	for i := range n + 1 {
		c, err := connect(connector)
		if err != nil {
			for _, c := range s.all {
				c.close()
			}
			return nil, fmt.Errorf("open %s: %w", path, err)
		}
		s.all = append(s.all, c)
		if i > 0 {
			s.readers <- c
		}
	}
	s.write = s.all[0]
	s.hub = fold.StartHub()
	s.writer = fold.Start(s.hub.Publish, engine{s})
	return s, nil
}

// create makes the file itself, so that nobody else may read it or the files
// beside it, which take its mode. One that exists is not touched: to close a
// file drops the locks that this process has on it.
func create(path string) error {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("open database: %s is not a regular file", path)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(filepath.Dir(path)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open database: directory %s does not exist", filepath.Dir(path))
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	return f.Close()
}

func dsn(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	u := url.URL{Scheme: "file", Path: path, RawQuery: "_pragma=busy_timeout(5000)&_pragma=journal_mode(wal)" +
		"&_pragma=synchronous(full)&_pragma=foreign_keys(1)&_pragma=journal_size_limit(67108864)&_pragma=cache_size(-4000)&_pragma=temp_store(memory)"}
	return u.String()
}

func (s *Store) Update(ctx context.Context, fn func(store.Tx) error) error {
	return s.writer.Update(ctx, fn)
}

func (s *Store) View(ctx context.Context, fn func(store.Reader) error) error {
	return s.reading(ctx, func(c *conn) error {
		if _, err := c.exec("BEGIN"); err != nil {
			return unavailable(err)
		}
		defer c.exec("ROLLBACK")
		r := c.reader()
		return fn(&r)
	})
}

// reading runs fn with a connection of its own.
func (s *Store) reading(ctx context.Context, fn func(*conn) error) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closed:
		return plane.Errorf(plane.Unavailable, "the store is closed")
	case c := <-s.readers:
		defer func() { s.readers <- c }()
		return fn(c)
	}
}

func (s *Store) Key(ctx context.Context, publicID string) (plane.Key, error) {
	return last(ctx, s, nil, record.Key, func(r *record.Reader) (plane.Key, error) { return r.Key(publicID) })
}

func (s *Store) Environment(ctx context.Context, id string) (plane.Environment, error) {
	return last(ctx, s, s.memory.environments.last(id), record.Environment, func(r *record.Reader) (plane.Environment, error) { return r.Environment(id) })
}

func (s *Store) Session(ctx context.Context, id string) (plane.Session, error) {
	return last(ctx, s, s.memory.sessions.last(id), record.Session, func(r *record.Reader) (plane.Session, error) { return r.Session(id) })
}

func (s *Store) WorkByToken(ctx context.Context, publicID string) (plane.WorkItem, error) {
	return last(ctx, s, s.memory.byToken(publicID), record.Work, func(r *record.Reader) (plane.WorkItem, error) { return r.WorkByToken(publicID) })
}

// last is a remembered row, or what read says in a statement of its own.
func last[T any](ctx context.Context, s *Store, known []driver.Value, decode func(record.Row) (T, error), read func(*record.Reader) (T, error)) (v T, err error) {
	if known != nil {
		return decode(&row{values: known})
	}
	err = s.reading(ctx, func(c *conn) (err error) {
		r := c.reader()
		v, err = read(&r)
		return err
	})
	return v, err
}

func (s *Store) Listen(hear func(store.Note)) (cancel func()) { return s.hub.Listen(hear) }

// Shared is false: the file belongs to this process.
func (s *Store) Shared() bool { return false }

// Commits counts the commits since Open.
func (s *Store) Commits() int64 { return s.writer.Commits() }

// Lanes is how many groups of transitions may be on their way at once.
func (s *Store) Lanes() int { return s.writer.Lanes() }

// Close waits for every Update, View and Note that has begun. Twice is fine.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.writer.Stop()
		s.hub.Stop()
		close(s.closed)
		for range cap(s.readers) {
			<-s.readers
		}
		var errs []error
		for _, c := range s.all {
			errs = append(errs, c.close())
		}
		s.err = errors.Join(errs...)
	})
	return s.err
}

// engine begins transactions on the writing connection.
type engine struct{ s *Store }

func (e engine) Begin(_ bool) (fold.Attempt, error) {
	if _, err := e.s.write.exec("BEGIN IMMEDIATE"); err != nil {
		return nil, err
	}
	return &tx{Reader: e.s.write.reader(), s: e.s}, nil
}

// Retry: only another process can be in the way, and the busy timeout has
// waited for it already.
func (engine) Retry(err error) bool {
	code := resultCode(err)
	return code == sqlite3.SQLITE_BUSY || code == sqlite3.SQLITE_LOCKED
}

// resultCode is the primary result code, 0 when err is not SQLite's.
func resultCode(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() & 0xff
	}
	return 0
}

func unique(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && (e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}

func foreign(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code() == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY
}

func unavailable(err error) error {
	return plane.Wrap(plane.Unavailable, err, "the store could not read; try again")
}

// boundLog empties the WAL when it has grown beyond its limit. A reader that
// does not end in time, because it waits for this very commit say, puts that
// off until the log has grown some more.
func (s *Store) boundLog() {
	info, err := os.Stat(s.path + "-wal")
	if err != nil || info.Size() < s.walLimit {
		return
	}
	held := make([]*conn, 0, cap(s.readers))
	defer func() {
		for _, c := range held {
			s.readers <- c
		}
	}()
	timeout := time.NewTimer(s.patience)
	defer timeout.Stop()
	for range cap(s.readers) {
		select {
		case c := <-s.readers:
			held = append(held, c)
		case <-timeout.C:
			s.walLimit = info.Size() + walLimit/4
			return
		}
	}
	// What fails here fails again, loudly, at the next commit.
	record.All(s.write.ask, record.Int, "PRAGMA wal_checkpoint(TRUNCATE)")
	s.walLimit = min(s.walLimit, walLimit)
}
