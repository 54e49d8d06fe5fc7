package agent

import (
	"hash/fnv"
	"sync"
)

// The private range of user ids, above those that distributions give to
// people, services and containers.
const (
	FirstUser = 2_000_000_000
	UserRange = 100_000_000
)

// Users gives each live session a user of its own. A session gets the same one
// every time, unless another session has it just then, so that its tree need
// not change hands.
// The zero value is ready; safe for concurrent use.
type Users struct {
	mu    sync.Mutex
	taken map[int]bool
}

// Take gives the session a user until Release.
func (u *Users) Take(session string) int {
	h := fnv.New32a()
	h.Write([]byte(session))
	u.mu.Lock()
	defer u.mu.Unlock()
	id := FirstUser + int(h.Sum32()%UserRange)
	for u.taken[id] {
		if id++; id >= FirstUser+UserRange {
			id = FirstUser
		}
	}
	u.note(id)
	return id
}

// Keep notes a user that a session has already.
func (u *Users) Keep(id int) {
	u.mu.Lock()
	u.note(id)
	u.mu.Unlock()
}

func (u *Users) note(id int) {
	if u.taken == nil {
		u.taken = map[int]bool{}
	}
	u.taken[id] = true
}

// Release gives a user back.
func (u *Users) Release(id int) {
	u.mu.Lock()
	delete(u.taken, id)
	u.mu.Unlock()
}
