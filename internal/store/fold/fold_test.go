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
