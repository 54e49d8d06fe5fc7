package fold

import (
	"sync"

	"github.com/berthdev/berth/internal/store"
)

// Hub tells listeners what was committed, from one goroutine and in the order
// of Publish. Make one with StartHub.
type Hub struct {
	mu        sync.Mutex
	waiting   []store.Note
	listeners []*listener
	closed    bool

	wake    chan struct{}
	stopped chan struct{}
}

type listener struct {
	hear func(store.Note)
	mu   sync.Mutex // held while hear runs
	gone bool
}

// StartHub starts the hub's goroutine.
func StartHub() *Hub {
	h := &Hub{wake: make(chan struct{}, 1), stopped: make(chan struct{})}
	go h.run()
	return h
}

// Publish queues notes. It never blocks.
func (h *Hub) Publish(notes []store.Note) {
	h.mu.Lock()
	h.waiting = append(h.waiting, notes...)
	h.mu.Unlock()
	h.nudge()
}

// Listen is store.Store's.
func (h *Hub) Listen(hear func(store.Note)) (cancel func()) {
	l := &listener{hear: hear}
	h.mu.Lock()
	// Copied, for the goroutine may be walking the old list.
	h.listeners = append(append([]*listener(nil), h.listeners...), l)
	h.mu.Unlock()
	return func() {
		h.mu.Lock()
		var rest []*listener
		for _, other := range h.listeners {
			if other != l {
				rest = append(rest, other)
			}
		}
		h.listeners = rest
		h.mu.Unlock()
		l.mu.Lock()
		l.gone = true
		l.mu.Unlock()
	}
}

// Stop returns when all that was published has been heard. Twice is fine.
func (h *Hub) Stop() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.nudge()
	<-h.stopped
}

func (h *Hub) nudge() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (h *Hub) run() {
	defer close(h.stopped)
	for {
		h.mu.Lock()
		notes, listeners, closed := h.waiting, h.listeners, h.closed
		h.waiting = nil
		h.mu.Unlock()
		if len(notes) == 0 {
			if closed {
				return
			}
			<-h.wake
			continue
		}
		for _, n := range notes {
			for _, l := range listeners {
				l.mu.Lock()
				if !l.gone {
					l.hear(n)
				}
				l.mu.Unlock()
			}
		}
	}
}
