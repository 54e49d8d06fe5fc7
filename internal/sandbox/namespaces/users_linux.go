package namespaces

import (
	"hash/fnv"
	"sync"
)

// The private range of user ids, above those that distributions give to
// people, services and containers.
const (
	firstUser = 2_000_000_000
	userRange = 100_000_000
)

// users gives each live session a user of its own. A session gets the same one
// every time, unless another session has it just then, so that its tree need
// not change hands.
type users struct {
	mu    sync.Mutex
	taken map[int]bool
}

func (u *users) take(session string) int {
	h := fnv.New32a()
	h.Write([]byte(session))
	u.mu.Lock()
	defer u.mu.Unlock()
	id := firstUser + int(h.Sum32()%userRange)
	for u.taken[id] {
		if id++; id >= firstUser+userRange {
			id = firstUser
		}
	}
	u.taken[id] = true
	return id
}

func (u *users) keep(id int) {
	u.mu.Lock()
	u.taken[id] = true
	u.mu.Unlock()
}

func (u *users) release(id int) {
	u.mu.Lock()
	delete(u.taken, id)
	u.mu.Unlock()
}
