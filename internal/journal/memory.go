// Package journal remembers a worker's calls: what was started, what was
// finished and not yet posted. Memory forgets all at the end of the process.
package journal

import (
	"context"
	"sync"
	"time"

	"github.com/berthdev/berth/worker"
)

// keepPosted is how many posted calls are remembered, so that one which comes
// back is not run again.
const keepPosted = 8192

// Memory is a worker.Journal for as long as the process lives. Safe for
// concurrent use.
type Memory struct {
	mu     sync.Mutex
	calls  map[worker.CallKey]worker.Known
	posted []worker.CallKey // oldest first; a ring once it is full
	oldest int
}

var _ worker.Journal = (*Memory)(nil)

// NewMemory makes an empty journal.
func NewMemory() *Memory {
	return &Memory{calls: map[worker.CallKey]worker.Known{}}
}

// Started notes that a call is about to run, unless something is known of it.
func (m *Memory) Started(_ context.Context, c worker.CallKey) (worker.Known, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if known, ok := m.calls[c]; ok {
		return known, nil
	}
	now := time.Now()
	m.calls[c] = worker.Known{State: worker.CallStarted, At: now}
	return worker.Known{State: worker.CallNew, At: now}, nil
}

// Finished keeps a call's result.
func (m *Memory) Finished(_ context.Context, c worker.CallKey, result []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.calls[c].State != worker.CallPosted {
		m.calls[c] = worker.Known{State: worker.CallFinished, Result: result, At: time.Now()}
	}
	return nil
}

// Posted drops a call's result and remembers for a while that it was there.
func (m *Memory) Posted(_ context.Context, c worker.CallKey) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.calls[c].State == worker.CallPosted {
		return nil
	}
	m.calls[c] = worker.Known{State: worker.CallPosted, At: time.Now()}
	if len(m.posted) < keepPosted {
		m.posted = append(m.posted, c)
		return nil
	}
	delete(m.calls, m.posted[m.oldest])
	m.posted[m.oldest] = c
	m.oldest = (m.oldest + 1) % keepPosted
	return nil
}
