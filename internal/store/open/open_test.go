package open_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	_ "modernc.org/sqlite"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/open"
	"github.com/berthdev/berth/internal/store/storetest/pgtest"
)

// engines gives the URL of an empty database of each, and a way to run SQL
// on it behind the store's back.
func engines(t *testing.T, f func(t *testing.T, url string, exec func(string))) {
	t.Run("sqlite", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "with space?.db")
		f(t, "sqlite:"+path, func(text string) {
			db, err := sql.Open("sqlite", "file:"+strings.NewReplacer("?", "%3f", " ", "%20").Replace(path))
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if _, err := db.Exec(text); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("postgres", func(t *testing.T) {
		url := pgtest.Database(t)
		f(t, url, func(text string) {
			c, err := pgx.Connect(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(t.Context())
			if _, err := c.Exec(t.Context(), text); err != nil {
				t.Fatal(err)
			}
		})
	})
}

func TestOpenAgainKeepsEverything(t *testing.T) {
	engines(t, func(t *testing.T, url string, _ func(string)) {
		for i := range 3 {
			st, err := open.Open(t.Context(), url, store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			err = st.View(t.Context(), func(r store.Reader) error {
				got, err := r.Setting("round")
				if want := strings.Repeat("x", i); got != want {
					t.Errorf("round %d: setting %q", i, got)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			err = st.Update(t.Context(), func(tx store.Tx) error { return tx.SetSetting("round", strings.Repeat("x", i+1)) })
			if err != nil {
				t.Fatal(err)
			}
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestSchema(t *testing.T) {
	engines(t, func(t *testing.T, url string, exec func(string)) {
		ctx := t.Context()
		before, err := open.Status(ctx, url)
		if err != nil {
			t.Fatal(err)
		}
		if before.Current != 0 || before.Latest < 1 || len(before.Pending) != int(before.Latest) {
			t.Errorf("status of an empty database: %+v", before)
		}
		if _, err := open.Open(ctx, url, store.Options{NoMigrate: true}); err == nil || !strings.Contains(err.Error(), "berth migrate") {
			t.Errorf("open without a schema: %v, want it to name the cure", err)
		}
		// As several replicas that start at once do; a file has one owner.
		n := 3
		if strings.HasPrefix(url, "sqlite") {
			n = 1
		}
		errs := make(chan error)
		for range n {
			go func() { errs <- open.Migrate(context.WithoutCancel(ctx), url) }()
		}
		for range n {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		after, err := open.Status(ctx, url)
		if err != nil {
			t.Fatal(err)
		}
		if after.Current != after.Latest || len(after.Pending) != 0 {
			t.Errorf("status after migrating: %+v", after)
		}
		st, err := open.Open(ctx, url, store.Options{NoMigrate: true})
		if err != nil {
			t.Fatal(err)
		}
		st.Close()

		exec(fmt.Sprintf("INSERT INTO goose_db_version (version_id, is_applied) VALUES (%d, true)", after.Latest+1))
		for _, o := range []store.Options{{}, {NoMigrate: true}} {
			if _, err := open.Open(ctx, url, o); err == nil || !strings.Contains(err.Error(), "newer") && !strings.Contains(err.Error(), "needs") {
				t.Errorf("open of a newer schema: %v", err)
			}
		}
	})
}

// A database of the first schema keeps what it has, and knows sends from then
// on.
func TestTheFirstSchemaIsBroughtUpToDate(t *testing.T) {
	engines(t, func(t *testing.T, url string, exec func(string)) {
		ctx := t.Context()
		within := func(do func(store.Tx) error) {
			t.Helper()
			st, err := open.Open(ctx, url, store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			if err := st.Update(ctx, do); err != nil {
				t.Fatal(err)
			}
		}
		env := plane.Environment{}
		env.ID, env.Name = "env_1", "lab"
		s := plane.Session{ThreadID: "sthr_1", Turn: plane.TurnRest}
		s.ID, s.EnvironmentID, s.CreatedAt = "sesn_1", env.ID, time.Now()
		s.UpdatedAt = s.CreatedAt
		within(func(tx store.Tx) error { return errors.Join(tx.InsertEnvironment(env), tx.InsertSession(s)) })
		exec("DROP TABLE sends")
		exec("DROP INDEX events_queued")
		exec("CREATE INDEX events_by_emit ON events (session_id, emit)")
		exec("DELETE FROM goose_db_version WHERE version_id > 1")
		if st, err := open.Status(ctx, url); err != nil || st.Current != 1 || len(st.Pending) != 2 {
			t.Fatalf("the first schema: %+v, %v", st, err)
		}
		within(func(tx store.Tx) error {
			if _, err := tx.LockSession(s.ID); err != nil {
				return err
			}
			return tx.InsertSend(plane.Send{SessionID: s.ID, Key: "k", Digest: [32]byte{1}, EventIDs: []string{}, At: s.CreatedAt})
		})
	})
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	for url, want := range map[string]string{
		"":                           "no database",
		"sqlite:":                    "no path",
		"mysql://root:secret@host/x": "unknown kind",
		dir + "/missing/berth.db":    "does not exist",
		dir:                          "not a regular file",
		"postgres://u:secret@%zz/x":  "does not parse",
		"postgres://u:secret@127.0.0.1:1/x?connect_timeout=1": "connect",
	} {
		st, err := open.Open(t.Context(), url, store.Options{})
		if err == nil {
			st.Close()
			t.Errorf("%q opened", url)
			continue
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %q does not say %q", url, err, want)
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: error %q tells the password", url, err)
		}
	}
}

func TestSQLiteFilesArePrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "berth.db")
	st, err := open.Open(t.Context(), path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if err := st.Update(t.Context(), func(tx store.Tx) error { return tx.SetSetting("a", "b") }); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + f)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("berth.db%s has mode %v", f, info.Mode().Perm())
		}
	}
}
