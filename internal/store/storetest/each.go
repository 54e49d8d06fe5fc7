// Package storetest is the suite that every engine of the store passes, and
// a way for other rooms' tests to run on each engine.
package storetest

import (
	"path/filepath"
	"testing"

	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/sqlite"
)

// Each runs f as a subtest per engine, each with an empty store of its own
// that is closed at the end. An engine that this machine cannot run is
// skipped, saying why; under CI=true that is a failure.
func Each(t *testing.T, f func(t *testing.T, st store.Store)) {
	t.Run("sqlite", func(t *testing.T) { f(t, SQLite(t)) })
}

// SQLite is an empty store in a file of the test's own.
func SQLite(t testing.TB) store.Store {
	t.Helper()
	st, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "berth.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Errorf("close the store: %v", err)
		}
	})
	return st
}
