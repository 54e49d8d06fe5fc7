package storetest

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/postgres"
	"github.com/berthdev/berth/internal/store/storetest/pgtest"
)

// elsewhere is a store with a session that another process has locked until
// release.
func elsewhere(t *testing.T) (st store.Store, release func() error) {
	database := pgtest.Database(t)
	st, err := postgres.Open(t.Context(), database, store.Options{Writers: 1})
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, st)
	world(t, st, "sesn_1")
	other, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close(context.Background()) })
	for _, sql := range []string{"BEGIN", "SELECT 1 FROM sessions FOR UPDATE"} {
		if _, err := other.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	return st, func() error {
		_, err := other.Exec(context.Background(), "ROLLBACK")
		return err
	}
}

// A transition of a group that wrote, and then takes a row that another
// process has for one that is gone, is undone and runs again.
func TestAGroupMeetsAnotherProcess(t *testing.T) {
	st, release := elsewhere(t)
	var first error
	runs, found := 0, false
	errs := group(st, set("a", "1"), func(tx store.Tx) error {
		runs++
		if err := tx.SetSetting("b", "1"); err != nil {
			return err
		}
		if _, err := tx.Setting("b"); err != nil { // sends the write on its way
			return err
		}
		_, err := tx.LockSession("sesn_1")
		if found = err == nil; runs == 1 {
			first = err
			return release()
		}
		return err
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "at first", first, plane.NotFound)
	if runs != 2 || !found {
		t.Errorf("it ran %d times, and found the row at last: %v", runs, found)
	}
	same(t, "the other's", setting(t, st, "a"), "1")
	same(t, "its own", setting(t, st, "b"), "1")
}

// Who waits for another process makes nobody else of its group wait.
func TestAGroupDoesNotWaitForAnotherProcess(t *testing.T) {
	st, release := elsewhere(t)
	var runs [2]int
	errs := group(st, func(tx store.Tx) error {
		if runs[0]++; runs[0] == 2 { // by itself
			if err := release(); err != nil {
				return err
			}
		}
		_, err := tx.LockSession("sesn_1")
		return err
	}, func(tx store.Tx) error {
		runs[1]++
		return tx.SetSetting("a", "1")
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	same(t, "runs", runs, [2]int{2, 1})
}
