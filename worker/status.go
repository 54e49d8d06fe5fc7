package worker

import (
	"slices"
	"sync"
	"time"
)

// SlotState is what an attached session is doing.
type SlotState string

const (
	StateClaiming SlotState = "claiming" // its item is being acked
	StateStarting SlotState = "starting" // its history is being read, its sandbox opened
	StateQueued   SlotState = "queued"   // it has work and waits for a slot
	StateTurn     SlotState = "turn"     // the control plane's turn
	StateRunning  SlotState = "running"  // a tool call runs
	StatePosting  SlotState = "posting"  // a result is being posted
	StateParked   SlotState = "parked"   // nothing to do; it keeps its sandbox
	StateClosing  SlotState = "closing"  // it is being let go
)

// Attached is a session this worker holds, as it is now.
type Attached struct {
	SessionID string
	WorkID    string
	State     SlotState
	Tool      string // of StateRunning and StatePosting
	Since     time.Time
	Claimed   time.Time
}

// Status gives what this worker holds, the oldest claim first.
func (w *Worker) Status() []Attached {
	w.mu.Lock()
	var all []Attached
	for s := range w.attached {
		all = append(all, s.get())
	}
	w.mu.Unlock()
	slices.SortFunc(all, func(a, b Attached) int { return a.Claimed.Compare(b.Claimed) })
	return all
}

// status is an Attached that changes. Safe for concurrent use.
type status struct {
	mu  sync.Mutex
	now Attached
}

func (s *status) set(state SlotState, tool string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now.State != state || s.now.Tool != tool {
		s.now.State, s.now.Tool, s.now.Since = state, tool, time.Now()
	}
}

func (s *status) get() Attached {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// attach lists an item in Status until the returned func is called.
func (w *Worker) attach(item Item) (*status, func()) {
	now := time.Now()
	s := &status{now: Attached{
		SessionID: item.Work.Data.ID, WorkID: item.Work.ID, State: StateClaiming, Since: now, Claimed: now,
	}}
	w.mu.Lock()
	w.attached[s] = true
	w.mu.Unlock()
	return s, func() {
		w.mu.Lock()
		delete(w.attached, s)
		w.mu.Unlock()
	}
}
