// Package pgtest gives tests a PostgreSQL of their own: one private server
// per test binary, from the programs that Debian's postgresql package (or
// PATH) has, and a fresh database per test. The server listens on a unix
// socket in a directory of its own and ends with the test binary, however
// that ends.
package pgtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

// Database is the URL of a new, empty database. The test is skipped, saying
// why, when this machine has no PostgreSQL; under CI=true it fails.
func Database(t testing.TB) string {
	t.Helper()
	return database(t, func(s *Server) *pool { return &s.empty }, func(string) error { return nil }, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
}

// Prepared is a database that prepare has been at and that holds no rows; it
// is cheaper than Database. Every test of a binary names the same prepare,
// and clean deletes all rows.
func Prepared(t testing.TB, prepare func(url string) error, clean string) string {
	t.Helper()
	return database(t, func(s *Server) *pool { return &s.prepared }, prepare, clean)
}

func database(t testing.TB, of func(*Server) *pool, prepare func(string) error, clean string) string {
	t.Helper()
	s, err := start()
	if errors.Is(err, errNone) {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	if err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	name, err := s.create(t, of(s), prepare, clean)
	if err != nil {
		t.Fatalf("create a database: %v", err)
	}
	return s.url(name)
}

// Server is the private server.
type Server struct {
	dir  string
	life io.Closer // the keeper's input: the server lives while it is open

	mu              sync.Mutex
	made            int
	empty, prepared pool
}

// pool holds the databases of tests that are over.
type pool struct{ free []string }

var errNone = errors.New("no PostgreSQL server programs here (Debian: apt-get install postgresql)")

var start = sync.OnceValues(func() (*Server, error) {
	bin, err := find()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "berth-pg-")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir}
	attr, err := ordinary(dir)
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", filepath.Join(dir, "data"), "-U", "berth", "-A", "trust",
		"-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")
	initdb.SysProcAttr, initdb.Dir = attr, dir
	if out, err := initdb.CombinedOutput(); err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	// The shell waits for the end of its input, which is ours for as long as
	// we live, then stops the server and cleans up.
	keeper := exec.Command("/bin/sh", "-c", `
		cd "$1"
		"$2/postgres" -D data -k "$1" -c listen_addresses= -c max_connections=300 -c shared_buffers=64MB -c fsync=on \
			-c max_wal_size=1GB -c logging_collector=off -c log_min_messages=fatal </dev/null >log 2>&1 &
		echo started
		cat >/dev/null
		kill -QUIT $!
		wait $!
		cd /
		rm -rf "$1"`, "berth-pg", dir, bin)
	keeper.SysProcAttr, keeper.Dir = attr, dir
	attr.Setpgid = true // a Ctrl-C is for the tests, the cleaning comes after
	if s.life, err = keeper.StdinPipe(); err != nil {
		return nil, err
	}
	if err := keeper.Start(); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return s, s.wait()
})

// find is the directory of initdb and postgres, the newest there is.
func find() (string, error) {
	if p, err := exec.LookPath("initdb"); err == nil {
		if p, err = filepath.EvalSymlinks(p); err == nil {
			if _, err := os.Stat(filepath.Join(filepath.Dir(p), "postgres")); err == nil {
				return filepath.Dir(p), nil
			}
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	version := func(p string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(p))))
		return n
	}
	slices.SortFunc(found, func(a, b string) int { return version(a) - version(b) })
	if len(found) == 0 || version(found[len(found)-1]) < 15 {
		return "", errNone
	}
	return filepath.Dir(found[len(found)-1]), nil
}

// ordinary lets processes run as a user who is not root, as PostgreSQL wants,
// and gives that user the directory.
func ordinary(dir string) (*syscall.SysProcAttr, error) {
	if os.Getuid() != 0 {
		return &syscall.SysProcAttr{}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, err
		}
		if err := os.Chown(dir, int(uid), int(gid)); err != nil {
			return nil, err
		}
		return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
	}
	return nil, errors.New("PostgreSQL refuses to run as root, and there is no user postgres or nobody")
}
