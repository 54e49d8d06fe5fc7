package pgtest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func (s *Server) url(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User("berth"), Path: "/" + database, RawQuery: url.Values{"host": {s.dir}}.Encode()}
	return u.String()
}

// wait returns when the server takes connections.
func (s *Server) wait() error {
	var err error
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = s.do("postgres", "SELECT 1"); err == nil {
			return nil
		}
	}
	log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	return fmt.Errorf("%w\n%s", err, log)
}

func (s *Server) do(database, sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c, err := pgx.Connect(ctx, s.url(database))
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	_, err = c.Exec(ctx, sql)
	return err
}

// create makes a database, or takes one whose test is over. clean empties
// it for the next test, in the pool's own way.
func (s *Server) create(t testing.TB, p *pool, prepare func(url string) error, clean string) (string, error) {
	s.mu.Lock()
	var name string
	if n := len(p.free); n > 0 {
		name, p.free = p.free[n-1], p.free[:n-1]
	} else {
		s.made++
	}
	made := s.made
	s.mu.Unlock()
	if name == "" {
		name = fmt.Sprintf("test%d", made)
		if err := s.do("postgres", "CREATE DATABASE "+name); err != nil {
			return "", err
		}
		if err := prepare(s.url(name)); err != nil {
			return "", err
		}
	}
	t.Cleanup(func() {
		// Whatever still holds on to it, a process that was killed say, goes.
		err := s.do(name, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();"+clean)
		if err != nil {
			return // not to be used again
		}
		s.mu.Lock()
		p.free = append(p.free, name)
		s.mu.Unlock()
	})
	return name, nil
}
