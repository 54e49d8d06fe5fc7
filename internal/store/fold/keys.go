package fold

import (
	"slices"
	"sync"
)

// Ticket stands for an attempt of one lane, for others to wait for its end.
type Ticket struct {
	mu    sync.Mutex
	over  bool
	after []func()
}

// Busy blocks a transition of a group whose row another process has: it runs
// alone instead, where it may wait.
var Busy = new(Ticket)

// Then calls f when the attempt is over, at once if it is; the latest first.
func (t *Ticket) Then(f func()) {
	t.mu.Lock()
	if !t.over {
		t.after = append(t.after, f)
		t.mu.Unlock()
		return
	}
	t.mu.Unlock()
	f()
}

// Keys says which lane's attempt has which row, so that lanes of one process
// never wait for each other in the database: a transition that asks for
// another lane's row is put off until that lane has committed. The zero value
// is ready. Safe for concurrent use.
type Keys struct {
	mu    sync.Mutex
	owner map[string]*Ticket
}

// Hold is what one attempt has of Keys. One goroutine at a time.
type Hold struct {
	keys   *Keys
	ticket *Ticket
	held   []string
}

// Begin starts an attempt's hold.
func (k *Keys) Begin() *Hold {
	return &Hold{keys: k, ticket: &Ticket{}}
}

// Take takes a key for the attempt, or gives the ticket of its owner.
func (h *Hold) Take(key string) *Ticket {
	h.keys.mu.Lock()
	defer h.keys.mu.Unlock()
	if h.keys.owner == nil {
		h.keys.owner = make(map[string]*Ticket)
	}
	switch owner := h.keys.owner[key]; owner {
	case h.ticket:
		return nil
	case nil:
		h.keys.owner[key] = h.ticket
		h.held = append(h.held, key)
		return nil
	default:
		return owner
	}
}

// End gives all keys back. Twice is fine.
func (h *Hold) End() {
	h.keys.mu.Lock()
	for _, key := range h.held {
		delete(h.keys.owner, key)
	}
	h.held = nil
	h.keys.mu.Unlock()
	t := h.ticket
	t.mu.Lock()
	after := t.after
	t.after, t.over = nil, true
	t.mu.Unlock()
	for _, f := range slices.Backward(after) {
		f()
	}
}
