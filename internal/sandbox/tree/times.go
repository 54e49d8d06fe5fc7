package tree

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/berthdev/berth/toolset"
)

const (
	timedAtOnce = 256 // entries whose times are looked up in one go
	timedAhead  = 16  // such lots that may wait, each with its directory open
)

// WalkTimes is Walk that looks up the times of what pick chooses, beside the
// walk and several at once; see toolset.Timer.
func (t *Tree) WalkTimes(ctx context.Context, root string, pick func(path string, e toolset.Entry) (bool, error), found func(path string, modified time.Time)) error {
	w := timer{ctx: ctx, found: found, lots: make(chan *lot, timedAhead)}
	for range min(runtime.GOMAXPROCS(0), 4) {
		w.workers.Go(w.work)
	}
	err := t.Walk(ctx, root, func(p string, e toolset.Entry) error {
		picked, err := pick(p, e)
		if picked {
			w.add(p, e.(*entry))
		}
		return err
	})
	w.send()
	close(w.lots)
	w.workers.Wait()
	return err
}

type timer struct {
	ctx     context.Context // of the one walk
	lots    chan *lot
	workers sync.WaitGroup
	next    *lot // what the walk fills

	mu    sync.Mutex
	found func(path string, modified time.Time)
}

// lot is some entries of one directory.
type lot struct {
	dir   listing
	ents  []picked
	times []time.Time
}

type picked struct{ path, name string }

var lots = sync.Pool{New: func() any { return new(lot) }}

func (w *timer) add(path string, e *entry) {
	if w.next == nil || w.next.dir != e.dir || len(w.next.ents) == timedAtOnce {
		w.send()
		w.next = lots.Get().(*lot)
		w.next.dir = e.dir
		e.dir.keep()
	}
	w.next.ents = append(w.next.ents, picked{path, e.name})
}

func (w *timer) send() {
	if w.next != nil {
		w.lots <- w.next
		w.next = nil
	}
}

func (w *timer) work() {
	for l := range w.lots {
		if w.ctx.Err() == nil {
			l.look()
			w.tell(l)
		}
		l.dir.close()
		clear(l.ents)
		l.dir, l.ents, l.times = nil, l.ents[:0], l.times[:0]
		lots.Put(l)
	}
}

// look finds the times of those that are still there, and forgets the others.
func (l *lot) look() {
	there := l.ents[:0]
	for _, e := range l.ents {
		if when, err := l.dir.modified(e.name); err == nil {
			there, l.times = append(there, e), append(l.times, when)
		}
	}
	l.ents = there
}

func (w *timer) tell(l *lot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, e := range l.ents {
		w.found(e.path, l.times[i])
	}
}
