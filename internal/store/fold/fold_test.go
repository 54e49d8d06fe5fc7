package fold

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
)

// cut is an engine whose connection breaks at every commit.
type cut struct{}

func (cut) Begin(bool) (Attempt, error) { return cutAttempt{}, nil }
func (cut) Retry(error) bool            { return true }

type cutAttempt struct{ store.Tx }

func (cutAttempt) Mark()                         {}
func (cutAttempt) Undo() bool                    { return true }
func (cutAttempt) Err() error                    { return nil }
func (cutAttempt) Blocked() *Ticket              { return nil }
func (cutAttempt) Commit() ([]store.Note, error) { return nil, &Unsure{errors.New("cut")} }
func (cutAttempt) Rollback()                     {}
func (cutAttempt) Close()                        {}

// A commit that may have happened is told of: its frames and offers may be
// there, and nobody else will say so.
func TestUnsureCommitsAreLookedAt(t *testing.T) {
	for _, n := range []int{1, 3} { // alone, and a group
		var mu sync.Mutex
		var told []store.Note
		w := &Writer{publish: func(notes []store.Note) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, notes...)
		}, lanes: 1}
		w.some.L = &w.mu
		var group []*job
		ran := 0
		for range n {
			group = append(group, &job{ctx: t.Context(), fn: func(store.Tx) error { ran++; return nil }, done: make(chan struct{})})
		}
		(&lane{Writer: w, engine: cut{}}).together(group)
		for _, j := range group {
			if plane.KindOf(j.err) != plane.Unavailable {
				t.Errorf("%d at once: %v", n, j.err)
			}
		}
		if ran != n {
			t.Errorf("%d transitions ran %d times", n, ran)
		}
		if !slices.ContainsFunc(told, func(n store.Note) bool { return n.Lost }) {
			t.Errorf("%d at once: listeners heard %+v", n, told)
		}
	}
}

// refusing is an engine whose group commits look whether somebody has been
// told what it came to, and fail.
type refusing struct {
	cutAttempt
	told func() bool
	t    *testing.T
}

func (r refusing) Begin(alone bool) (Attempt, error) {
	if alone {
		return quiet{}, nil
	}
	return r, nil
}

func (refusing) Retry(error) bool { return true }

func (r refusing) Commit() ([]store.Note, error) {
	if r.told() {
		r.t.Error("a refusal was told before the commit of what it came from")
	}
	return nil, errors.New("not now")
}

type quiet struct{ cutAttempt }

func (quiet) Commit() ([]store.Note, error) { return nil, nil }

// What a transition was refused for may be undone with its group: then it runs
// again.
func TestRefusalsHoldWhatTheyCameFrom(t *testing.T) {
	taken := false
	first := &job{ctx: t.Context(), done: make(chan struct{}), fn: func(store.Tx) error {
		if taken = !taken; !taken { // the second time
			return errors.New("not any more")
		}
		return nil
	}}
	second := &job{ctx: t.Context(), done: make(chan struct{}), fn: func(store.Tx) error {
		if taken {
			return errors.New("taken")
		}
		return nil
	}}
	told := func() bool {
		select {
		case <-second.done:
			return true
		default:
			return false
		}
	}
	w := &Writer{publish: func([]store.Note) {}, lanes: 1}
	w.some.L = &w.mu
	(&lane{Writer: w, engine: refusing{t: t, told: told}}).together([]*job{first, second})
	if first.err == nil || second.err != nil {
		t.Errorf("the first: %v, and the second: %v", first.err, second.err)
	}
}

// Who waits for a row longest comes first.
func TestPostponedInTurn(t *testing.T) {
	w := &Writer{waiting: []*job{{}}}
	w.some.L = &w.mu
	other := new(Keys).Begin()
	want := []*job{{}, {}, {}, w.waiting[0]}
	for _, j := range want[:3] {
		w.postpone(j, other.ticket)
	}
	other.End()
	if !slices.Equal(w.waiting, want) {
		t.Errorf("in line are %p, want %p", w.waiting, want)
	}
}
