package queue

import (
	"slices"
	"sync"
	"time"
)

// rooms are the polls that wait for work, first come first served, by
// environment. Its methods may be called at once.
type rooms struct {
	clock Clock

	mu     sync.Mutex
	byEnv  map[string]*room
	closed bool
}

type room struct {
	waiting []*waiter
	// The alarm for what is held back now.
	alarmAt time.Time
	disarm  func()
	// tried is a held-back offer everybody has been woken for already.
	tried time.Time
}

// waiter is a poll that waits. woken holds a value when it was taken from the
// line: it must look, or pass the call on.
type waiter struct {
	env   string
	woken chan struct{}
}

// enter puts a waiter into the line, in front when it has waited before.
func (r *rooms) enter(w *waiter, front bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		w.woken <- struct{}{}
		return
	}
	if r.byEnv == nil {
		r.byEnv = map[string]*room{}
	}
	rm := r.byEnv[w.env]
	if rm == nil {
		rm = &room{}
		r.byEnv[w.env] = rm
	}
	if front {
		rm.waiting = slices.Insert(rm.waiting, 0, w)
	} else {
		rm.waiting = append(rm.waiting, w)
	}
}

// leave takes a waiter out of the line. False says that it had been called.
func (r *rooms) leave(w *waiter) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	rm := r.byEnv[w.env]
	if rm == nil {
		return false
	}
	i := slices.Index(rm.waiting, w)
	if i < 0 {
		return false
	}
	rm.waiting = slices.Delete(rm.waiting, i, i+1)
	r.tidy(w.env, rm)
	return true
}

// tidy forgets a room in which nobody waits.
func (r *rooms) tidy(env string, rm *room) {
	if len(rm.waiting) > 0 {
		return
	}
	if rm.disarm != nil {
		rm.disarm()
	}
	delete(r.byEnv, env)
}

// wakeOne calls whoever waits longest.
func (r *rooms) wakeOne(env string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rm := r.byEnv[env]
	if rm == nil || len(rm.waiting) == 0 {
		return
	}
	w := rm.waiting[0]
	rm.waiting = slices.Delete(rm.waiting, 0, 1)
	w.woken <- struct{}{}
	if rm.disarm == nil {
		r.tidy(env, rm)
	}
}

func (rm *room) callAll() {
	for _, w := range rm.waiting {
		w.woken <- struct{}{}
	}
	rm.waiting = nil
}

func (r *rooms) wakeEverybody() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for env, rm := range r.byEnv {
		rm.callAll()
		r.tidy(env, rm)
	}
}

// heldBack says that the environment will have an offer at a later time:
// somebody must look then. An offer that is kept for one worker for a moment
// calls everybody, once, for that worker may be in the line.
func (r *rooms) heldBack(env string, at, now time.Time, affinity time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rm := r.byEnv[env]
	if rm == nil {
		return
	}
	if rm.disarm == nil || at.Before(rm.alarmAt) {
		if rm.disarm != nil {
			rm.disarm()
		}
		rm.alarmAt = at
		rm.disarm = r.clock.AfterFunc(at.Sub(now), func() { r.ring(env, rm) })
	}
	if at.Sub(now) <= affinity && !rm.tried.Equal(at) {
		rm.tried = at
		rm.callAll()
	}
}

func (r *rooms) ring(env string, rm *room) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byEnv[env] == rm {
		rm.disarm = nil
		rm.callAll()
		r.tidy(env, rm)
	}
}

// close calls everybody and lets nobody wait any more.
func (r *rooms) close() {
	r.wakeEverybody()
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.wakeEverybody()
}

func (r *rooms) open() {
	r.mu.Lock()
	r.closed = false
	r.mu.Unlock()
}

// roll remembers when workers polled, in this process.
type roll struct {
	mu   sync.Mutex
	last map[[2]string]*sighting // by environment and worker
}

type sighting struct {
	at      time.Time
	written time.Time // when the store was last told
}

const (
	maxRoll    = 10_000
	rollKeep   = time.Minute
	writeEvery = 10 * time.Second
)

// sight notes a poll. True says that the store should be told.
func (r *roll) sight(env, worker string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil {
		r.last = map[[2]string]*sighting{}
	}
	key := [2]string{env, worker}
	s := r.last[key]
	if s == nil {
		if len(r.last) >= maxRoll {
			for k, o := range r.last {
				if now.Sub(o.at) > rollKeep {
					delete(r.last, k)
				}
			}
			if len(r.last) >= maxRoll {
				return false
			}
		}
		s = &sighting{}
		r.last[key] = s
	}
	s.at = now
	return s.written.IsZero() || now.Sub(s.written) >= writeEvery
}

// wrote says that the store was told.
func (r *roll) wrote(env, worker string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.last[[2]string{env, worker}]; s != nil {
		s.written = now
	}
}

// within says that a worker polled not longer than d ago.
func (r *roll) within(env, worker string, now time.Time, d time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.last[[2]string{env, worker}]
	return s != nil && now.Sub(s.at) <= d
}
