package worker_test

import (
	"context"
	"sync"
	"time"

	"github.com/berthdev/berth/worker"
)

// memory is a journal for as long as the test lives. Safe for concurrent use.
type memory struct {
	mu    sync.Mutex
	calls map[worker.CallKey]worker.Known
}

func newMemory() *memory { return &memory{calls: map[worker.CallKey]worker.Known{}} }

func (m *memory) Started(_ context.Context, c worker.CallKey, birth string) (worker.Known, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if known, ok := m.calls[c]; ok {
		return known, nil
	}
	m.calls[c] = worker.Known{State: worker.CallStarted, At: time.Now(), Birth: birth}
	return worker.Known{State: worker.CallNew}, nil
}

func (m *memory) Finished(_ context.Context, c worker.CallKey, result []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.calls[c].State != worker.CallPosted {
		m.calls[c] = worker.Known{State: worker.CallFinished, Result: result, At: time.Now()}
	}
	return nil
}

func (m *memory) Posted(_ context.Context, c worker.CallKey) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls[c] = worker.Known{State: worker.CallPosted, At: time.Now()}
	return nil
}
