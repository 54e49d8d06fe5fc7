// Package journal is what a worker remembers across its own end: the calls it
// started, finished and has still to post, and the items it held.
package journal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver of File's database

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/worker"
)

const (
	// schema is the file's version; a newer one is refused.
	schema = 1
	// maxGroup bounds how many writes share a sync.
	maxGroup = 64
	// maxLater bounds what waits for the next write while writes fail. What that
	// loses costs little: a result stays for a week, an item until the next start.
	maxLater = 4096
	// keepCalls is how long a call is remembered after its last change, so
	// that one which comes back is not run again.
	keepCalls = 7 * 24 * time.Hour
	// sweepEvery is how often older ones are removed.
	sweepEvery = time.Hour
)

const tables = `
CREATE TABLE calls (
	session TEXT NOT NULL, call TEXT NOT NULL, state TEXT NOT NULL, result BLOB, birth TEXT NOT NULL DEFAULT '', at INTEGER NOT NULL,
	PRIMARY KEY (session, call)) WITHOUT ROWID;
CREATE TABLE items (
	work TEXT PRIMARY KEY, session TEXT NOT NULL, environment TEXT NOT NULL,
	last_beat TEXT NOT NULL, beat_at INTEGER NOT NULL, ttl INTEGER NOT NULL, secret BLOB) WITHOUT ROWID;
`

// File is a worker.Journal and a worker.Ledger in an SQLite file: what it has
// taken survives the process and the machine. Writes that wait at the same
// time share a sync. Safe for concurrent use; one process has the file.
type File struct {
	db    *sql.DB
	seal  *sealer
	stmts map[string]*sql.Stmt // on the one connection; of the writing goroutine

	mu      sync.RWMutex // held to send to writes, and whole to close it
	closed  bool
	writes  chan *write
	writing sync.WaitGroup

	lazy  sync.Mutex
	later []func() error // to be done with the next write
}

var (
	_ worker.Journal = (*File)(nil)
	_ worker.Ledger  = (*File)(nil)
)

// Open opens or makes the file, readable for its owner only. key seals the
// secrets of items, so that the file alone opens nothing; without a key they
// are not kept. Close it.
func Open(path, key string) (*File, error) {
	fail := func(err error) (*File, error) { return nil, fmt.Errorf("journal %s: %w", path, err) }
	seal, err := newSealer(key)
	if err != nil {
		return fail(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fail(err)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return fail(err)
	}
	dsn := url.URL{Scheme: "file", Path: abs, RawQuery: "_pragma=busy_timeout(5000)&_pragma=locking_mode(exclusive)&_pragma=journal_mode(wal)&_pragma=synchronous(full)" +
		"&_pragma=journal_size_limit(16777216)&_pragma=cache_size(-1000)&_txlock=immediate"}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return fail(err)
	}
	db.SetMaxOpenConns(1)
	if err := migrate(db); err != nil {
		db.Close()
		return fail(err)
	}
	j := &File{db: db, seal: seal, stmts: map[string]*sql.Stmt{}, writes: make(chan *write, maxGroup)}
	j.writing.Go(j.write)
	return j, nil
}

func migrate(db *sql.DB) error {
	var version int
	if err := db.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	switch {
	case version == schema: // to write keeps others out from here on, not from the first call on
		_, err := db.Exec("BEGIN IMMEDIATE; DROP INDEX IF EXISTS calls_age; COMMIT") // the index is of an earlier program: each write paid for it
		return err
	case version > schema:
		return fmt.Errorf("its schema %d is newer than this program's %d; use the newer program, or remove the file when no worker runs", version, schema)
	}
	_, err := db.Exec("BEGIN;" + tables + fmt.Sprintf("PRAGMA user_version = %d; COMMIT", schema))
	return err
}

// Close waits for what has been taken. Twice is fine.
func (f *File) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil
	}
	f.closed = true
	close(f.writes)
	f.mu.Unlock()
	f.writing.Wait()
	err := f.transact(nil) // what was left for later
	return errors.Join(err, f.db.Close())
}

// write is one change that waits for its sync.
type write struct {
	do   func() error
	err  error
	done chan struct{}
}

var errClosed = errors.New("journal: it is closed")

// update does a change durably. Once it has been taken it is done, whatever
// becomes of ctx.
func (f *File) update(ctx context.Context, what string, do func() error) error {
	w := &write{do: do, done: make(chan struct{})}
	if err := f.send(ctx, w); err != nil {
		return err
	}
	<-w.done
	if w.err != nil {
		return fmt.Errorf("journal: %s: %w", what, w.err)
	}
	return nil
}

func (f *File) send(ctx context.Context, w *write) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.closed {
		return errClosed
	}
	select {
	case f.writes <- w:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// write commits what waits, until Close.
func (f *File) write() {
	var swept time.Time
	for w := range f.writes {
		group := []*write{w}
	more:
		for len(group) < maxGroup {
			select {
			case w, ok := <-f.writes:
				if !ok {
					break more
				}
				group = append(group, w)
			default:
				break more
			}
		}
		f.commit(group)
		if now := time.Now(); now.Sub(swept) > sweepEvery {
			swept = now
			_, _ = f.exec("DELETE FROM calls WHERE at < ?", now.Add(-keepCalls).UnixMicro())
		}
	}
}

// commit does a group in one transaction, or each of it alone when that
// fails, so that each failure is its own.
func (f *File) commit(group []*write) {
	err := f.transact(group)
	if err != nil && len(group) > 1 {
		for _, w := range group {
			f.commit([]*write{w})
		}
		return
	}
	for _, w := range group {
		w.err = err
		close(w.done)
	}
}

func (f *File) transact(group []*write) (err error) {
	if _, err := f.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	later := f.takeLater()
	defer func() {
		if err != nil {
			f.putLater(later)
			_, _ = f.exec("ROLLBACK") // what it says is no news
		}
	}()
	for _, do := range later {
		if err := do(); err != nil {
			return err
		}
	}
	for _, w := range group {
		if err := w.do(); err != nil {
			return err
		}
	}
	_, err = f.exec("COMMIT")
	return err
}

// prepare gives a statement; it is kept.
func (f *File) prepare(text string) (*sql.Stmt, error) {
	s, ok := f.stmts[text]
	if ok {
		return s, nil
	}
	s, err := f.db.Prepare(text)
	if err == nil {
		f.stmts[text] = s
	}
	return s, err
}

func (f *File) exec(text string, args ...any) (int64, error) {
	s, err := f.prepare(text)
	if err != nil {
		return 0, err
	}
	res, err := s.Exec(args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// Started notes that a call is about to run, unless something is known of it.
func (f *File) Started(ctx context.Context, c worker.CallKey, birth string) (known worker.Known, err error) {
	err = f.update(ctx, "note a call's start", func() error {
		now := time.Now()
		n, err := f.exec("INSERT INTO calls (session, call, state, birth, at) VALUES (?, ?, 'started', ?, ?) ON CONFLICT DO NOTHING", c.Session, c.Call, birth, now.UnixMicro())
		if err != nil || n == 1 {
			known = worker.Known{State: worker.CallNew, At: now}
			return err
		}
		var at int64
		known = worker.Known{}
		err = f.db.QueryRow("SELECT state, result, birth, at FROM calls WHERE session = ? AND call = ?", c.Session, c.Call).Scan(&known.State, &known.Result, &known.Birth, &at)
		known.At = time.UnixMicro(at)
		return err
	})
	return known, err
}

// Finished keeps a call's result until it has been posted.
func (f *File) Finished(ctx context.Context, c worker.CallKey, result []byte) error {
	return f.update(ctx, "keep a result", func() error {
		_, err := f.exec(`INSERT INTO calls (session, call, state, result, at) VALUES (?, ?, 'finished', ?, ?)
			ON CONFLICT DO UPDATE SET state = excluded.state, result = excluded.result, at = excluded.at WHERE state <> 'posted'`,
			c.Session, c.Call, result, time.Now().UnixMicro())
		return err
	})
}

// Posted drops a call's result and remembers for a week that it was there. When
// a crash comes before the next write, the result is posted again.
func (f *File) Posted(_ context.Context, c worker.CallKey) error {
	f.postpone(func() error {
		_, err := f.exec(`INSERT INTO calls (session, call, state, at) VALUES (?, ?, 'posted', ?)
			ON CONFLICT DO UPDATE SET state = excluded.state, result = NULL, at = excluded.at WHERE state <> 'posted'`,
			c.Session, c.Call, time.Now().UnixMicro())
		return err
	})
	return nil
}

// postpone leaves for the next write what needs no sync of its own.
func (f *File) postpone(do func() error) {
	f.lazy.Lock()
	defer f.lazy.Unlock()
	f.later = append(f.later[max(0, len(f.later)-maxLater+1):], do)
}

// takeLater gives what is to be done, putLater what was not.
func (f *File) takeLater() []func() error {
	f.lazy.Lock()
	defer f.lazy.Unlock()
	later := f.later
	f.later = nil
	return later
}

func (f *File) putLater(later []func() error) {
	f.lazy.Lock()
	defer f.lazy.Unlock()
	f.later = append(later, f.later...)
}

// Hold notes an item and its last beat.
func (f *File) Hold(ctx context.Context, h worker.HeldItem) error {
	var secret []byte
	if h.Work.Secret != nil {
		secret = f.seal.close(h.Work.ID, *h.Work.Secret)
	}
	return f.update(ctx, "note an item", func() error {
		_, err := f.exec(`INSERT INTO items (work, session, environment, last_beat, beat_at, ttl, secret) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET last_beat = excluded.last_beat, beat_at = excluded.beat_at, ttl = excluded.ttl`,
			h.Work.ID, h.Work.Data.ID, h.Work.EnvironmentID, h.LastHeartbeat, h.BeatAt.UnixMicro(), int64(h.TTL), secret)
		return err
	})
}

// Release forgets an item. When a crash comes before the next write, whoever
// comes after is told by the control plane that it is over.
func (f *File) Release(_ context.Context, work string) error {
	f.postpone(func() error {
		_, err := f.exec("DELETE FROM items WHERE work = ?", work)
		return err
	})
	return nil
}

// Items gives the items that are held, the oldest beat first. Those whose
// secret another key has sealed come without it.
func (f *File) Items(ctx context.Context) (items []worker.HeldItem, err error) {
	err = f.update(ctx, "read the items", func() error {
		items = nil
		rows, err := f.db.Query("SELECT work, session, environment, last_beat, beat_at, ttl, secret FROM items ORDER BY beat_at")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var h worker.HeldItem
			var at int64
			var secret []byte
			if err := rows.Scan(&h.Work.ID, &h.Work.Data.ID, &h.Work.EnvironmentID, &h.LastHeartbeat, &at, &h.TTL, &secret); err != nil {
				return err
			}
			h.Work.Type, h.Work.Data.Type, h.Work.State = "work", "session", api.WorkActive
			h.Acked, h.BeatAt = true, time.UnixMicro(at)
			if s, ok := f.seal.open(h.Work.ID, secret); ok {
				h.Work.Secret = &s
			}
			items = append(items, h)
		}
		return rows.Err()
	})
	return items, err
}
