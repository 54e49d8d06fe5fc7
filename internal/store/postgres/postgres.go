// Package postgres keeps the control plane's data in PostgreSQL 15 or newer,
// where several control planes may share it. One connection writes
// (transitions that wait share a commit), a few read, and one hears what
// other processes committed.
package postgres

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/fold"
	"github.com/berthdev/berth/internal/store/record"
)

const (
	connectLimit = 5 * time.Second
	// connectTries bounds how often a transition waits for a connection.
	connectTries = 5
	minVersion   = 150000
	// defaultWriters is measured: see docs/design/0004-store.md.
	defaultWriters = 4
)

// Store is a store.Store.
type Store struct {
	cfg     *pgconn.Config
	log     *slog.Logger
	self    string // tells our notes from those of other processes
	lanes   []*lane
	keys    fold.Keys
	writer  *fold.Writer
	hub     *fold.Hub
	ears    *ears
	readers chan *conn // nil or broken ones connect when they are needed

	closing sync.Once
	closed  chan struct{}
}

// Open opens the database and brings its schema up to date unless o says
// otherwise. Only a failure to connect now is an error of Open; connections
// that are lost later are made again.
func Open(ctx context.Context, url string, o store.Options) (*Store, error) {
	cfg, err := config(url)
	if err != nil {
		return nil, err
	}
	if err := prepare(ctx, url, o); err != nil {
		return nil, err
	}
	n := o.Readers
	if n <= 0 {
		n = 4
	}
	s := &Store{cfg: cfg, log: o.Log, self: rand.Text()[:12], readers: make(chan *conn, n), closed: make(chan struct{})}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	writing := cfg.Copy()
	// A group that another process has crossed gives way soon, and its
	// transitions run one by one.
	writing.RuntimeParams["lock_timeout"] = "250"
	// A process that stands still amid a transaction has its rows taken away.
	writing.RuntimeParams["idle_in_transaction_session_timeout"] = "5000"
	s.hub = fold.StartHub()
	if s.ears, err = listen(ctx, cfg, s.self, s.hub, s.log); err != nil {
		s.hub.Stop()
		return nil, err
	}
	var engines []fold.Engine
	for range cmp.Or(o.Writers, defaultWriters) {
		c, err := dial(ctx, writing)
		if err != nil {
			s.closeLanes()
			s.ears.stop()
			s.hub.Stop()
			return nil, err
		}
		l := &lane{s: s, cfg: writing, c: c}
		s.lanes = append(s.lanes, l)
		engines = append(engines, l)
	}
	for range n {
		s.readers <- nil
	}
	s.writer = fold.Start(s.hub.Publish, engines...)
	return s, nil
}

func config(url string) (*pgconn.Config, error) {
	cfg, err := pgconn.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("database URL: %w", err)
	}
	set := func(name, value string) {
		if _, given := cfg.RuntimeParams[name]; !given {
			cfg.RuntimeParams[name] = value
		}
	}
	set("application_name", "berth")
	set("jit", "off") // its start-up costs more than any query here
	// Every query here has its index. Plans are made once, often on tables
	// that are still empty, and must not depend on how full they were then.
	set("plan_cache_mode", "force_generic_plan")
	set("enable_seqscan", "off")
	set("enable_bitmapscan", "off")
	set("enable_sort", "off")
	set("idle_in_transaction_session_timeout", "60000")
	// Acknowledged means durable, whatever the server's default.
	switch cfg.RuntimeParams["synchronous_commit"] {
	case "", "off", "local":
		cfg.RuntimeParams["synchronous_commit"] = "on"
	}
	return cfg, nil
}

func dial(ctx context.Context, cfg *pgconn.Config) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	c, err := connect(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	return c, nil
}

func (s *Store) Update(ctx context.Context, fn func(store.Tx) error) error {
	return s.writer.Update(ctx, fn)
}

func (s *Store) View(ctx context.Context, fn func(store.Reader) error) error {
	return s.reading(ctx, &view{s: s, begin: true}, func(r *record.Reader) error { return fn(r) })
}

func (s *Store) reading(ctx context.Context, v *view, fn func(*record.Reader) error) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closed:
		return plane.Errorf(plane.Unavailable, "the store is closed")
	case v.c = <-s.readers:
	}
	defer func() { s.readers <- v.end() }()
	r := reader(func(sql string, values []any, read func(*pgconn.ResultReader) error) error {
		return v.ask(ctx, sql, values, read)
	})
	return fn(&r)
}

func (s *Store) Key(ctx context.Context, publicID string) (plane.Key, error) {
	return last(ctx, s, func(r *record.Reader) (plane.Key, error) { return r.Key(publicID) })
}

func (s *Store) Environment(ctx context.Context, id string) (plane.Environment, error) {
	return last(ctx, s, func(r *record.Reader) (plane.Environment, error) { return r.Environment(id) })
}

func (s *Store) Session(ctx context.Context, id string) (plane.Session, error) {
	return last(ctx, s, func(r *record.Reader) (plane.Session, error) { return r.Session(id) })
}

func (s *Store) WorkByToken(ctx context.Context, publicID string) (plane.WorkItem, error) {
	return last(ctx, s, func(r *record.Reader) (plane.WorkItem, error) { return r.WorkByToken(publicID) })
}

// last reads one record in a statement of its own.
func last[T any](ctx context.Context, s *Store, read func(*record.Reader) (T, error)) (v T, err error) {
	err = s.reading(ctx, &view{s: s}, func(r *record.Reader) (err error) {
		v, err = read(r)
		return err
	})
	return v, err
}

func (s *Store) Listen(hear func(store.Note)) (cancel func()) { return s.hub.Listen(hear) }

// Shared is true: other processes may write to the same database.
func (s *Store) Shared() bool { return true }

// Commits counts the commits since Open.
func (s *Store) Commits() int64 { return s.writer.Commits() }

// Lanes is how many groups of transitions may be on their way at once.
func (s *Store) Lanes() int { return s.writer.Lanes() }

// Close waits for every Update, View and Note that has begun. Twice is fine.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.writer.Stop()
		s.ears.stop()
		s.hub.Stop()
		close(s.closed)
		for range cap(s.readers) {
			if c := <-s.readers; c.usable() {
				c.close()
			}
		}
		s.closeLanes()
	})
	return nil
}

func (s *Store) closeLanes() {
	for _, l := range s.lanes {
		if l.c.usable() {
			l.c.close()
		}
	}
}

// view reads on a connection of its own: one snapshot with begin, and else
// what is there at each statement.
type view struct {
	s     *Store
	c     *conn
	begin bool
	begun bool
}

func (v *view) ask(ctx context.Context, sql string, values []any, read func(*pgconn.ResultReader) error) error {
	if v.begun {
		if !v.c.usable() {
			return plane.Errorf(plane.Unavailable, "the store could not read; try again")
		}
		return unavailable(v.send(sql, values, read))
	}
	// An idle connection may have died unnoticed; nothing was read on it yet.
	fresh := false
	for {
		if !v.c.usable() {
			c, err := dial(ctx, v.s.cfg)
			if err != nil {
				return unavailable(err)
			}
			v.c, fresh = c, true
		}
		err := v.send(sql, values, read)
		if err != nil && !fresh && lostConnection(err) && !v.c.usable() {
			v.begun = false
			continue
		}
		return unavailable(err)
	}
}

func (v *view) send(sql string, values []any, read func(*pgconn.ResultReader) error) error {
	v.c.pg.Conn().SetDeadline(time.Now().Add(roundTripLimit))
	k, err := v.c.call(sql, values)
	if err != nil {
		return err
	}
	k.read = read
	calls := []call{k}
	if v.begin && !v.begun {
		begin, err := v.c.call("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", nil)
		if err != nil {
			return err
		}
		v.begun = true
		calls = []call{begin, k}
	}
	return v.c.send(calls...)
}

// end gives the connection back to be used again, nil if it cannot be.
func (v *view) end() *conn {
	if !v.c.usable() {
		return nil
	}
	if v.begun {
		k, err := v.c.call("ROLLBACK", nil)
		if err == nil {
			err = v.c.send(k)
		}
		if err != nil {
			v.c.close()
			return nil
		}
	}
	return v.c
}

// unavailable gives a kind to an error that has none.
func unavailable(err error) error {
	if err == nil {
		return nil
	}
	if _, ours := errors.AsType[*plane.Error](err); ours {
		return err
	}
	return plane.Wrap(plane.Unavailable, err, "the store could not read; try again")
}

// lane is a writing connection: a fold.Engine.
type lane struct {
	s   *Store
	cfg *pgconn.Config
	c   *conn
}

// Begin sends nothing yet: BEGIN goes out with the first question.
func (l *lane) Begin(alone bool) (fold.Attempt, error) {
	for try := 1; !l.c.usable(); try++ {
		c, err := dial(context.Background(), l.cfg)
		if err == nil {
			l.s.log.Info("connected to PostgreSQL again", "try", try)
			l.c = c
			break
		}
		if try == connectTries {
			return nil, err
		}
		pause(time.Duration(try) * 50 * time.Millisecond)
	}
	l.c.pg.Conn().SetDeadline(time.Now().Add(roundTripLimit))
	return newAttempt(l.c, l.s.self, l.s.keys.Begin(), alone), nil
}

// Retry: another process was in the way, or the connection was lost before
// the commit left.
func (l *lane) Retry(err error) bool {
	switch sqlState(err) {
	case stateSerialize, stateDeadlock, stateLocked:
		pause(5 * time.Millisecond)
		return true
	}
	if lostConnection(err) {
		// What the server no longer wants is not asked again.
		if l.c.usable() && sqlState(err) != "" {
			l.c.close()
		}
		l.s.log.Warn("lost the connection to PostgreSQL", "error", err)
		return true
	}
	return false
}

// pause waits about d, so that processes that collided part.
func pause(d time.Duration) {
	time.Sleep(d/2 + mathrand.N(d))
}
