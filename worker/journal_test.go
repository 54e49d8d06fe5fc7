package worker_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/workertest"
)

func TestJournal(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	t.Run("a started call is answered as interrupted", func(t *testing.T) {
		t.Parallel()
		j := newMemory()
		p := workertest.New(t)
		s := p.Session(workertest.Calls("a"))
		if _, err := j.Started(ctx, worker.CallKey{Session: s.ID, Call: s.CallIDs()[0]}, ""); err != nil {
			t.Fatal(err)
		}
		l := startAt(t, p, func(c *worker.Config) { c.Journal = j })
		l.finished(s)
		if got := s.Answers(); !got[0].IsError || !strings.HasPrefix(got[0].Text, "interrupted") || l.kit.ran(s.CallIDs()[0]) != 0 {
			t.Errorf("answers %q, ran %v", texts(s), l.kit.order)
		}
	})
	t.Run("a finished one is posted again", func(t *testing.T) {
		t.Parallel()
		j := newMemory()
		p := workertest.New(t)
		s := p.Session(workertest.Calls("a"))
		id := s.CallIDs()[0]
		if err := j.Finished(ctx, worker.CallKey{Session: s.ID, Call: id},
			[]byte(`{"type":"user.tool_result","tool_use_id":"`+id+`","is_error":false,"content":[{"type":"text","text":"kept"}]}`)); err != nil {
			t.Fatal(err)
		}
		l := startAt(t, p, func(c *worker.Config) { c.Journal = j })
		l.finished(s)
		if diff := cmp.Diff([]string{"kept false"}, texts(s)); diff != "" || l.kit.ran(id) != 0 {
			t.Error(diff, l.kit.order)
		}
	})
	t.Run("one that fails lets nothing run", func(t *testing.T) {
		t.Parallel()
		l := start(t, func(c *worker.Config) { c.Journal = brokenJournal{} })
		s := l.plane.Session(workertest.Calls("a"))
		l.finished(s)
		if got := s.Answers(); !got[0].IsError || !strings.Contains(got[0].Text, "not run") || len(l.kit.order) != 0 {
			t.Errorf("answers %q, ran %v", texts(s), l.kit.order)
		}
	})
	t.Run("is told in order", func(t *testing.T) {
		t.Parallel()
		j := &tracingJournal{Journal: newMemory()}
		l := start(t, func(c *worker.Config) { c.Journal = j })
		l.kit.result = func(worker.Call) ([]api.Block, bool) { j.note("run"); return nil, false }
		s := l.plane.Session(workertest.Calls("a"))
		l.finished(s)
		l.wait("the last entry", func() bool { return len(j.get()) == 4 })
		if diff := cmp.Diff([]string{"started", "run", "finished", "posted"}, j.get()); diff != "" {
			t.Error(diff)
		}
	})
}

type brokenJournal struct{}

func (brokenJournal) Started(context.Context, worker.CallKey, string) (worker.Known, error) {
	return worker.Known{}, errors.New("disk full")
}

func (brokenJournal) Finished(context.Context, worker.CallKey, []byte) error {
	return errors.New("disk full")
}

func (brokenJournal) Posted(context.Context, worker.CallKey) error { return errors.New("disk full") }

// What a former worker let go and could not forget any more is told so by its
// first beat; nothing else is done for it.
func TestAnItemThatIsOver(t *testing.T) {
	t.Parallel()
	p, ledger := workertest.New(t), &crashed{}
	with := func(c *worker.Config) { idleSoon(c); c.Ledger = ledger }
	first := startAt(t, p, with)
	s := p.Session(workertest.Calls("a"))
	first.finished(s)
	first.wait("the item's end", func() bool { return p.Live() == 0 })
	first.stop()
	if err := first.ended(); err != nil {
		t.Fatal(err)
	}
	s.More(workertest.Calls("b"))
	before := len(p.Requests(""))
	second := startAt(t, p, with)
	second.finished(s)
	second.wait("the next item's end", func() bool { return p.Live() == 0 })
	if opened, _, _ := second.boxes.count(); opened != 1 || !slices.Equal(second.kit.began(), s.CallIDs()[1:]) {
		t.Errorf("ran %v in %d sandboxes", second.kit.began(), opened)
	}
	old, beats := p.Requests(workertest.Ack)[0].Work, 0
	for _, r := range p.Requests("")[before:] {
		switch {
		case r.Credential != "sk-test-req01-"+old:
		case r.Route == workertest.Beat:
			beats++
		case r.Route != workertest.Stop:
			t.Errorf("%s for an item that is over", r.Route)
		}
	}
	if beats != 1 {
		t.Errorf("%d beats for an item that is over", beats)
	}
}

// crashed is a ledger that never comes to forget.
type crashed struct {
	mu    sync.Mutex
	items []worker.HeldItem
}

func (l *crashed) Hold(_ context.Context, h worker.HeldItem) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	h.Acked = true
	l.items = append(l.items, h)
	return nil
}

func (l *crashed) Release(context.Context, string) error { return nil }

func (l *crashed) Items(context.Context) ([]worker.HeldItem, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.items), nil
}
