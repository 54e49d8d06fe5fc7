package worker_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/workertest"
)

func TestSandboxes(t *testing.T) {
	t.Parallel()
	t.Run("one that will not open is an answer", func(t *testing.T) {
		t.Parallel()
		l := newLab(t, workertest.New(t))
		l.boxes.fail = []error{errors.New("a"), errors.New("b"), errors.New("c")}
		l.run()
		s := l.plane.Session(workertest.Calls("first", "second"))
		l.finished(s)
		got := s.Answers()
		if !got[0].IsError || !strings.Contains(got[0].Text, "could not be started") || got[1].Text != "ran second" {
			t.Errorf("answers %v", texts(s))
		}
		if l.kit.ran(s.CallIDs()[0]) != 0 {
			t.Error("ran without a sandbox")
		}
	})
	t.Run("a lost workspace is told once", func(t *testing.T) {
		t.Parallel()
		l := newLab(t, workertest.New(t))
		l.boxes.lost = true
		l.run()
		s := l.plane.Session(workertest.Calls("first", "second"))
		l.finished(s)
		got := s.Answers()
		if !strings.HasPrefix(got[0].Text, "[the session's earlier workspace is gone") || !strings.HasSuffix(got[0].Text, "\nran first") || got[1].Text != "ran second" {
			t.Errorf("answers %q", texts(s))
		}
	})
	t.Run("one that breaks is replaced", func(t *testing.T) {
		t.Parallel()
		l := newLab(t, workertest.New(t), func(c *worker.Config) { c.Tools = nil })
		l.run()
		s := l.plane.Session(workertest.Turn{Calls: []workertest.Call{{Name: "bash", Input: `{"command":"x"}`}}})
		l.finished(s)
		if diff := cmp.Diff([]string{"hello false"}, texts(s)); diff != "" {
			t.Error(diff)
		}
		l.boxes.mu.Lock()
		l.boxes.broken = true
		l.boxes.mu.Unlock()
		s.More(workertest.Turn{Calls: []workertest.Call{{Name: "bash", Input: `{"command":"x"}`}, {Name: "bash", Input: `{"command":"y"}`}}})
		l.finished(s)
		got := s.Answers()
		if !got[1].IsError || got[2].IsError || got[2].Text != "hello" {
			t.Errorf("answers %q", texts(s))
		}
		if opened, closed, _ := l.boxes.count(); opened != 2 || closed != 1 {
			t.Errorf("opened %d, closed %d", opened, closed)
		}
	})
	t.Run("none for tools that are not ours", func(t *testing.T) {
		t.Parallel()
		l := start(t, func(c *worker.Config) { c.Tools = nil; c.MaxIdle = 20 * time.Millisecond })
		s := l.plane.Session(workertest.Calls("web_search"))
		l.wait("the wait for somebody else", func() bool {
			st := l.w.Status()
			return len(st) == 1 && st[0].State == worker.StateParked
		})
		s.Interrupt(false)
		l.wait("its end", func() bool { return l.plane.Live() == 0 })
		if routes(l.plane, workertest.Send) != 0 {
			t.Error("answered")
		}
	})
}
