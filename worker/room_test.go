package worker_test

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/workertest"
)

// mostAttached watches how many sessions a worker holds, at each step of any.
type mostAttached struct {
	mu   sync.Mutex
	w    *worker.Worker
	most int
}

func (m *mostAttached) look(string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.w != nil {
		m.most = max(m.most, len(m.w.Status()))
	}
}

func (m *mostAttached) seen() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.most
}

func TestRoom(t *testing.T) {
	t.Parallel()
	t.Run("bounds what is attached and starves nobody", func(t *testing.T) {
		t.Parallel()
		const sessions, room = 40, 10
		var attached mostAttached
		l := newLab(t, workertest.New(t), func(c *worker.Config) {
			c.MaxSessions, c.Room, c.MaxIdle, c.At = 16, room, -1, attached.look
		})
		attached.w = l.w
		l.kit.result = func(c worker.Call) ([]api.Block, bool) {
			attached.look("")
			return []api.Block{api.Text("ran")}, false
		}
		var all []*workertest.Session
		for range sessions {
			all = append(all, l.plane.Session(workertest.Calls("a"), workertest.Calls("b"), workertest.Turn{}))
		}
		l.run()
		for _, s := range all {
			l.finished(s)
		}
		if n := attached.seen(); n != room {
			t.Errorf("%d sessions attached at one time, want %d", n, room)
		}
		l.boxes.mu.Lock()
		defer l.boxes.mu.Unlock()
		if l.boxes.most > room {
			t.Errorf("%d sandboxes at one time, room for %d", l.boxes.most, room)
		}
	})
	t.Run("is not polled for while every session is at work", func(t *testing.T) {
		t.Parallel()
		l := start(t, func(c *worker.Config) { c.MaxSessions, c.Room = 4, 2 })
		g := l.kit.gate("slow")
		first, second := l.plane.Session(workertest.Calls("slow")), l.plane.Session(workertest.Calls("slow"))
		<-g.entered
		<-g.entered
		third := l.plane.Session(workertest.Calls("a"))
		if items := l.plane.Items(third); len(items) != 1 || items[0] != api.WorkQueued {
			t.Errorf("the third session's items: %v", items)
		}
		g.let()
		for _, s := range []*workertest.Session{first, second, third} {
			l.finished(s)
		}
	})
	t.Run("an item that nobody makes room for in time is left to the queue", func(t *testing.T) {
		t.Parallel()
		still(t, func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
			left := make(chan string, 100)
			l := newLab(t, p, via, func(c *worker.Config) {
				c.MaxSessions, c.Room, c.MaxIdle, c.Reclaim = 2, 1, -1, 50*time.Millisecond
				c.Logger = slog.New(slog.NewTextHandler(heard{"leaving it to the queue", left}, nil))
			})
			l.boxes.hold = newGate()
			l.run()
			t.Cleanup(l.boxes.hold.let)
			l.finished(l.plane.Session(workertest.Calls("a")))
			late := l.plane.Session(workertest.Calls("b"))
			for what, ch := range map[string]<-chan string{"the parked session gives way": l.boxes.hold.entered, "the item is left": left} {
				select {
				case <-ch:
				case <-time.After(soon):
					t.Fatal("not in time: ", what)
				}
			}
			if n := len(l.w.Status()); n != 1 {
				t.Errorf("%d attached, room for 1", n)
			}
			l.boxes.hold.let()
			l.finished(late)
		})
	})
}

// heard tells when a log line holds text.
type heard struct {
	text string
	tell chan<- string
}

func (h heard) Write(line []byte) (int, error) {
	if strings.Contains(string(line), h.text) {
		h.tell <- h.text
	}
	return len(line), nil
}
