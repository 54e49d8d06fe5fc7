package storetest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

// Run is the suite. open gives an empty store that is closed at the end of
// the test.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, store.Store)
	}{
		{"Keys", testKeys},
		{"Environments", testEnvironments},
		{"EnvironmentDelete", testEnvironmentDelete},
		{"Agents", testAgents},
		{"Settings", testSettings},
		{"Sessions", testSessions},
		{"SessionLists", testSessionLists},
		{"SessionsWanted", testSessionsWanted},
		{"SessionDelete", testSessionDelete},
		{"Events", testEvents},
		{"EventFilters", testEventFilters},
		{"Frames", testFrames},
		{"Calls", testCalls},
		{"Replays", testReplays},
		{"Sends", testSends},
		{"Work", testWork},
		{"WorkOneLive", testWorkOneLive},
		{"ClaimOrder", testClaimOrder},
		{"ClaimHeldBack", testClaimHeldBack},
		{"ClaimReclaim", testClaimReclaim},
		{"ClaimPrefer", testClaimPrefer},
		{"ClaimOnce", testClaimOnce},
		{"ClaimTogether", testClaimTogether},
		{"WorkTimes", testWorkTimes},
		{"WorkStats", testWorkStats},
		{"WorkPrune", testWorkPrune},
		{"HostileText", testHostileText},
		{"NotFound", testNotFound},
		{"UpdateUndone", testUpdateUndone},
		{"UpdateTogether", testUpdateTogether},
		{"UpdateDropsOut", testUpdateDropsOut},
		{"UpdateAlone", testUpdateAlone},
		{"UpdatePanic", testUpdatePanic},
		{"UpdateCancelled", testUpdateCancelled},
		{"UpdateReadsItsWrites", testUpdateReadsItsWrites},
		{"UpdateCounts", testUpdateCounts},
		{"UpdateTurns", testUpdateTurns},
		{"UpdateMissing", testUpdateMissing},
		{"ViewSnapshot", testViewSnapshot},
		{"Notes", testNotes},
		{"NotesOfTheUndone", testNotesOfTheUndone},
		{"ListenCancel", testListenCancel},
		{"Closed", testClosed},
		{"Model", testModel},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

// at is a time that every engine keeps exactly.
func at(seconds int) time.Time {
	return time.Date(2026, 11, 23, 12, 0, 0, 123456000, time.UTC).Add(time.Duration(seconds) * time.Second)
}

func ptr[T any](v T) *T { return &v }

func update(t testing.TB, st store.Store, fn func(store.Tx) error) {
	t.Helper()
	if err := st.Update(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

func view(t testing.TB, st store.Store, fn func(store.Reader) error) {
	t.Helper()
	if err := st.View(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

// see is the result of one read.
func see[T any](t testing.TB, st store.Store, read func(store.Reader) (T, error)) (v T) {
	t.Helper()
	view(t, st, func(r store.Reader) (err error) {
		v, err = read(r)
		return err
	})
	return v
}

func same(t testing.TB, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func wantKind(t testing.TB, what string, err error, kind plane.Kind) {
	t.Helper()
	if err == nil || plane.KindOf(err) != kind {
		t.Errorf("%s: error %v, want one of kind %d", what, err, kind)
	}
}

// world is an environment with some sessions.
func world(t testing.TB, st store.Store, sessions ...string) {
	t.Helper()
	update(t, st, func(tx store.Tx) error {
		if err := tx.InsertEnvironment(Environment("env_1", "one", at(0))); err != nil {
			return err
		}
		for _, id := range sessions {
			if err := tx.InsertSession(Session(id, "env_1", at(0))); err != nil {
				return err
			}
		}
		return nil
	})
}

// pages walks a list with windows of two and checks every turn of it: forth,
// and back from its end. all is what one big window gives.
func pages[T any](t *testing.T, id func(T) string, list func(store.Window) ([]T, error), asc bool, want []string) {
	t.Helper()
	names := func(rows []T) (out []string) {
		for _, r := range rows {
			out = append(out, id(r))
		}
		return out
	}
	whole, err := list(store.Window{Asc: asc})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "whole list", names(whole), want)

	var forth []string
	for after := ""; ; {
		rows, err := list(store.Window{After: after, Limit: 2, Asc: asc})
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) > 2 {
			t.Fatalf("%d rows where 2 were asked for", len(rows))
		}
		forth = append(forth, names(rows)...)
		if len(rows) == 0 {
			break
		}
		after = id(rows[len(rows)-1])
	}
	same(t, "page by page", forth, want)

	if len(want) == 0 {
		return
	}
	back := []string{want[len(want)-1]}
	for {
		rows, err := list(store.Window{After: back[len(back)-1], Limit: 2, Asc: asc, Backward: true})
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) == 0 {
			break
		}
		back = append(back, names(rows)...) // nearest first
	}
	slices.Reverse(back)
	same(t, "page by page, backward", back, want)
}
