// Package storetest is the suite that every engine of the store passes, and
// a way for other rooms' tests to run on each engine.
package storetest

import (
	"path/filepath"
	"testing"

	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/postgres"
	"github.com/berthdev/berth/internal/store/sqlite"
	"github.com/berthdev/berth/internal/store/storetest/pgtest"
)

// Each runs f as a subtest per engine, each with an empty store of its own
// that is closed at the end. An engine that this machine cannot run is
// skipped, saying why; under CI=true that is a failure.
func Each(t *testing.T, f func(t *testing.T, st store.Store)) {
	t.Run("sqlite", func(t *testing.T) { f(t, SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { f(t, Postgres(t)) })
}

// SQLite is an empty store in a file of the test's own.
func SQLite(t testing.TB) store.Store {
	t.Helper()
	st, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "berth.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, st)
	return st
}

// Postgres is an empty store in a database of the test's own.
func Postgres(t testing.TB) store.Store {
	t.Helper()
	return PostgresWith(t, store.Options{})
}

// PostgresWith is Postgres with options of the test's own.
func PostgresWith(t testing.TB, o store.Options) store.Store {
	t.Helper()
	o.NoMigrate = true
	url := pgtest.Prepared(t, func(url string) error { return postgres.Migrate(t.Context(), url) },
		"DELETE FROM environments; DELETE FROM agents; DELETE FROM settings; DELETE FROM keys")
	st, err := postgres.Open(t.Context(), url, o)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, st)
	return st
}

func closeAtEnd(t testing.TB, st store.Store) {
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Errorf("close the store: %v", err)
		}
	})
}
