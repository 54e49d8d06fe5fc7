package sqlite_test

import (
	"errors"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/sqlite"
	"github.com/berthdev/berth/internal/store/storetest"
)

// What the store remembers of work items follows what is written.
func TestRememberedItems(t *testing.T) {
	st := storetest.SQLite(t)
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	item := plane.WorkItem{ID: "work_1", EnvironmentID: "env_1", SessionID: "sesn_1", State: api.WorkQueued, TokenID: "token001", CreatedAt: now}
	update := func(fn func(tx store.Tx) error) {
		t.Helper()
		if err := st.Update(t.Context(), fn); err != nil {
			t.Fatal(err)
		}
	}
	set := func(tx store.Tx, s api.WorkState) error {
		w, err := tx.LockWork("work_1")
		if err != nil {
			return err
		}
		w.State = s
		return tx.UpdateWork(w)
	}
	want := func(when string, s api.WorkState) {
		t.Helper()
		for range 2 { // read, then remembered
			if w, err := st.WorkByToken(t.Context(), "token001"); err != nil || w.State != s {
				t.Errorf("%s: readers see %q, %v; want %s", when, w.State, err, s)
			}
			update(func(tx store.Tx) error {
				for way, read := range map[string]func() (plane.WorkItem, error){
					"id":   func() (plane.WorkItem, error) { return tx.Work("work_1") },
					"live": func() (plane.WorkItem, error) { return tx.LiveWork("sesn_1") },
					"last": func() (plane.WorkItem, error) { return tx.LastWork("sesn_1") },
				} {
					w, err := read()
					if s == api.WorkStopped && way == "live" {
						if plane.KindOf(err) != plane.NotFound {
							t.Errorf("%s: the writer sees a live item: %+v, %v", when, w, err)
						}
					} else if err != nil || w.State != s {
						t.Errorf("%s: the writer sees by %s %q, %v; want %s", when, way, w.State, err, s)
					}
				}
				return nil
			})
		}
	}
	update(func(tx store.Tx) error {
		return errors.Join(tx.InsertEnvironment(storetest.Environment("env_1", "one", now)),
			tx.InsertSession(storetest.Session("sesn_1", "env_1", now)), tx.InsertWork(item))
	})
	want("new", api.WorkQueued)
	update(func(tx store.Tx) error { return set(tx, api.WorkStarting) })
	want("written", api.WorkStarting)

	taken := errors.New("taken back")
	if err := st.Update(t.Context(), func(tx store.Tx) error {
		err := set(tx, api.WorkStopping)
		if w, _ := tx.Work("work_1"); w.State != api.WorkStopping {
			t.Errorf("a transaction does not see what it wrote: %s", w.State)
		}
		return errors.Join(err, taken)
	}); !errors.Is(err, taken) {
		t.Fatal(err)
	}
	want("taken back", api.WorkStarting)

	update(func(tx store.Tx) error { return set(tx, api.WorkActive) })
	if err := st.View(t.Context(), func(r store.Reader) error {
		if _, err := r.Session("sesn_1"); err != nil { // from here on it sees this moment
			return err
		}
		update(func(tx store.Tx) error { return set(tx, api.WorkStopping) })
		w, err := r.WorkByToken("token001")
		if err == nil && w.State != api.WorkActive {
			t.Errorf("a view sees %q, which was written after it began", w.State)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	want("written beside a reader", api.WorkStopping)

	update(func(tx store.Tx) error { return set(tx, api.WorkStopped) })
	want("stopped", api.WorkStopped)
	update(func(tx store.Tx) error { return set(tx, api.WorkActive) })
	want("alive again", api.WorkActive)

	update(func(tx store.Tx) error { return errors.Join(tx.DeleteSession("sesn_1"), tx.DeleteEnvironment("env_1")) })
	if err := func() error { _, err := st.WorkByToken(t.Context(), "token001"); return err }(); plane.KindOf(err) != plane.NotFound {
		t.Errorf("after its environment: %v", err)
	}
	if err := st.Update(t.Context(), func(tx store.Tx) error { _, err := tx.LiveWork("sesn_1"); return err }); plane.KindOf(err) != plane.NotFound {
		t.Errorf("after its environment: %v", err)
	}
}

// Keys are made and revoked beside the server that uses the database: one that
// was revoked there is of no use here, however often it was read and written.
func TestKeysOfAnotherProcess(t *testing.T) {
	path := t.TempDir() + "/berth.db"
	open := func() store.Store {
		st, err := sqlite.Open(t.Context(), path, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { st.Close() })
		return st
	}
	here, beside := open(), open()
	now := time.Date(2026, 11, 27, 3, 0, 0, 0, time.UTC)
	change := func(st store.Store, fn func(*plane.Key)) {
		t.Helper()
		err := st.Update(t.Context(), func(tx store.Tx) error {
			k, err := tx.Key("key_1")
			if err != nil {
				return err
			}
			fn(&k)
			return tx.UpdateKey(k)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	err := here.Update(t.Context(), func(tx store.Tx) error {
		return tx.InsertKey(plane.Key{ID: "key_1", Kind: plane.KeyAPI, Name: "one", CreatedAt: now})
	})
	if err != nil {
		t.Fatal(err)
	}
	used := func(k *plane.Key) { k.LastUsedAt = &now }
	change(here, used)
	change(beside, func(k *plane.Key) { k.RevokedAt = &now })
	if k, err := here.Key(t.Context(), "key_1"); err != nil || k.RevokedAt == nil {
		t.Errorf("a reader takes it for good: %+v %v", k, err)
	}
	err = here.Update(t.Context(), func(tx store.Tx) error {
		if k, err := tx.Key("key_1"); err != nil || k.RevokedAt == nil {
			t.Errorf("the writer takes it for good: %+v %v", k, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A stopped item is not remembered, also when it was to live again and could not.
func TestStoppedItemsAreNotRemembered(t *testing.T) {
	st := storetest.SQLite(t)
	now := time.Date(2026, 11, 27, 4, 0, 0, 0, time.UTC)
	ended := plane.WorkItem{ID: "work_1", EnvironmentID: "env_1", SessionID: "sesn_1", State: api.WorkStopped, CreatedAt: now, StoppedAt: &now}
	live := plane.WorkItem{ID: "work_2", EnvironmentID: "env_1", SessionID: "sesn_1", State: api.WorkQueued, CreatedAt: now}
	if err := st.Update(t.Context(), func(tx store.Tx) error {
		return errors.Join(tx.InsertEnvironment(storetest.Environment("env_1", "one", now)),
			tx.InsertSession(storetest.Session("sesn_1", "env_1", now)), tx.InsertWork(ended), tx.InsertWork(live))
	}); err != nil {
		t.Fatal(err)
	}
	if err := st.Update(t.Context(), func(tx store.Tx) error {
		again := ended
		again.State = api.WorkQueued
		return tx.UpdateWork(again)
	}); plane.KindOf(err) != plane.Conflict {
		t.Fatalf("two live items: %v", err)
	}
	if err := st.Update(t.Context(), func(tx store.Tx) error {
		if err := tx.PruneWork(now.Add(time.Hour), now); err != nil {
			return err
		}
		if w, err := tx.Work("work_1"); plane.KindOf(err) != plane.NotFound {
			t.Errorf("of an item that was deleted: %+v %v", w, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
