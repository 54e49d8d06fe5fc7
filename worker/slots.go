package worker

import (
	"context"
	"slices"
	"sync"
	"time"
)

// slots bounds how many sessions have work to do, how many more stay attached
// without, and how many are attached at all. Safe for concurrent use.
type slots struct {
	maxParked int
	room      int // of all attached sessions, 0 for no bound

	mu       sync.Mutex
	free     int
	attached int
	resumed  []chan struct{} // parked sessions with a new turn: served first
	claimed  []chan struct{} // fresh items that found no slot
	changed  chan struct{}   // closed and replaced when a poll may have become possible
	parked   []*parking      // oldest first
}

// parking is a session that stays attached without a slot.
type parking struct {
	evict   chan struct{} // closed when the session must give way
	waiting bool          // it waits for a person: others give way first
	since   time.Time
	resumed bool // its turn began before it gave way
}

func newSlots(max, maxParked, room int) *slots {
	return &slots{free: max, maxParked: maxParked, room: room, changed: make(chan struct{})}
}

// tell needs mu.
func (s *slots) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// take asks for a slot; the channel is closed when it is there. A session
// that resumes is served before every fresh item.
func (s *slots) take(resume bool) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	ch := make(chan struct{})
	switch {
	case s.free > 0:
		s.free--
		close(ch)
	case resume:
		s.resumed = append(s.resumed, ch)
	default:
		s.claimed = append(s.claimed, ch)
	}
	return ch
}

// give ends a take, whether the slot was there already or not.
func (s *slots) give(ch chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, queue := range []*[]chan struct{}{&s.resumed, &s.claimed} {
		if i := slices.Index(*queue, ch); i >= 0 {
			*queue = slices.Delete(*queue, i, i+1)
			return
		}
	}
	for _, queue := range []*[]chan struct{}{&s.resumed, &s.claimed} {
		if len(*queue) > 0 {
			close((*queue)[0])
			*queue = slices.Delete(*queue, 0, 1)
			return
		}
	}
	s.free++
	s.tell()
}

// vacancy says whether a poll may be sent; else the channel is closed when
// that may have changed.
func (s *slots) vacancy() (bool, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.free > 0 && (s.fits() || len(s.parked) > 0), s.changed
}

// fits needs mu.
func (s *slots) fits() bool { return s.room == 0 || s.attached < s.room }

// enter attaches a session as soon as there is room; a parked one gives way
// for it. False when ctx ended first.
func (s *slots) enter(ctx context.Context) bool {
	var leaving *parking
	for {
		s.mu.Lock()
		if s.fits() {
			s.attached++
			s.mu.Unlock()
			return true
		}
		if leaving == nil || leaving.resumed {
			leaving = s.evict()
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// squeeze attaches a session that this host has already, room or not.
func (s *slots) squeeze() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attached++
}

// exit ends an enter or a squeeze.
func (s *slots) exit() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attached--
	s.tell()
}

// park notes a session without work. The oldest one gives way when there are
// more than maxParked, sessions that wait for a person last.
func (s *slots) park(waiting bool) *parking {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &parking{evict: make(chan struct{}), waiting: waiting, since: time.Now()}
	s.parked = append(s.parked, p)
	if len(s.parked) > s.maxParked {
		s.evict()
	}
	s.tell()
	return p
}

// evict tells the oldest parked session to give way, nil for none. It needs mu.
func (s *slots) evict() *parking {
	if len(s.parked) == 0 {
		return nil
	}
	i := max(0, slices.IndexFunc(s.parked, func(p *parking) bool { return !p.waiting }))
	p := s.parked[i]
	close(p.evict)
	s.parked = slices.Delete(s.parked, i, i+1)
	return p
}

// drain lets every parked session give way, and those that would park later.
func (s *slots) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.maxParked = 0
	for _, p := range s.parked {
		close(p.evict)
	}
	s.parked = nil
}

// unpark ends a park, whether the session was told to give way or not. One
// that resumes keeps its room.
func (s *slots) unpark(p *parking, resumes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.resumed = resumes; resumes {
		s.tell()
	}
	if i := slices.Index(s.parked, p); i >= 0 {
		s.parked = slices.Delete(s.parked, i, i+1)
	}
}

// keyed lets one holder at a time have a name. Safe for concurrent use.
type keyed struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when the name is free again
}

// hold waits for the name; release gives it back.
func (k *keyed) hold(ctx context.Context, name string) (release func(), err error) {
	for {
		k.mu.Lock()
		busy := k.held[name]
		if busy == nil {
			if k.held == nil {
				k.held = map[string]chan struct{}{}
			}
			ch := make(chan struct{})
			k.held[name] = ch
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.held, name)
				k.mu.Unlock()
				close(ch)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
