package worker_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/workertest"
)

// preparer notes what it is asked for.
type preparer struct {
	mu    sync.Mutex
	notes []string
	fail  []error
	shut  []error // of opened
}

func (p *preparer) opened(context.Context, worker.Sandbox) error {
	p.note("opened")
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.shut) == 0 {
		return nil
	}
	err := p.shut[0]
	p.shut = p.shut[1:]
	return err
}

func (p *preparer) note(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notes = append(p.notes, what)
}

func (p *preparer) get() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.notes, " ")
}

func (p *preparer) Prepare(ctx context.Context, in worker.PrepareInput) (*worker.Prepared, error) {
	s, err := in.Client.Session(ctx, in.Session.ID) // by the item's credential
	if err != nil {
		return nil, err
	}
	p.note("prepare")
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.fail) > 0 {
		err := p.fail[0]
		p.fail = p.fail[1:]
		return nil, err
	}
	return &worker.Prepared{
		Mounts:   []worker.Mount{{Source: "/skills/" + s.ID, Target: "skills/x", ReadOnly: true}},
		Warnings: []string{"one is missing"},
		After:    func(context.Context) { p.note("after") },
		Folders:  []worker.Folder{{Path: "/mnt/memory/x", ReadOnly: true}},
		Opened:   p.opened,
		Finish:   func(_ context.Context, end worker.End) error { p.note("finish:" + string(end)); return nil },
	}, nil
}

func TestPrepare(t *testing.T) {
	t.Parallel()
	t.Run("warnings wait for a result of this worker's", func(t *testing.T) {
		t.Parallel()
		l := newLab(t, workertest.New(t), func(c *worker.Config) { c.Preparer = &preparer{} })
		l.run()
		s := l.plane.Session(workertest.Calls("foreign", "mine"))
		l.wait("an answer", func() bool { return len(s.Answers()) == 1 })
		if got := texts(s); !slices.Equal(got, []string{"[one is missing]\nran mine false"}) {
			t.Errorf("answers %q", got)
		}
	})
	t.Run("mounts, warnings and hooks", func(t *testing.T) {
		t.Parallel()
		p := &preparer{}
		l := newLab(t, workertest.New(t), func(c *worker.Config) { c.Preparer = p })
		l.boxes.warn = "another too"
		l.run()
		s := l.plane.Session(workertest.Calls("first", "second"))
		l.finished(s)
		if got := texts(s); !slices.Equal(got, []string{"[one is missing]\n[another too]\nran first false", "ran second false"}) {
			t.Errorf("answers %q", got)
		}
		l.boxes.mu.Lock()
		m := l.boxes.mounts
		l.boxes.mu.Unlock()
		if len(m) != 1 || m[0].Source != "/skills/"+s.ID || !m[0].ReadOnly {
			t.Errorf("mounts %v", m)
		}
		l.stop()
		if err := l.ended(); err != nil {
			t.Error(err)
		}
		if got := p.get(); got != "prepare opened after after finish:drained" {
			t.Errorf("hooks %q", got)
		}
	})
	t.Run("a failure is an answer, and the next call tries again", func(t *testing.T) {
		t.Parallel()
		p := &preparer{fail: []error{&worker.OpenError{Text: "its store is gone", Final: true}, errors.New("a while"), errors.New("a while")}}
		l := start(t, func(c *worker.Config) { c.Preparer = p })
		s := l.plane.Session(workertest.Calls("first", "second"))
		l.finished(s)
		got := s.Answers()
		if !got[0].IsError || !strings.Contains(got[0].Text, "its store is gone") || got[1].Text != "[one is missing]\nran second" {
			t.Errorf("answers %q", texts(s))
		}
		l.stop()
		_ = l.ended()
		if got := p.get(); got != "prepare prepare prepare prepare opened after finish:drained" {
			t.Errorf("hooks %q", got)
		}
	})
	t.Run("what follows the opening fails, and the sandbox is closed", func(t *testing.T) {
		t.Parallel()
		p := &preparer{shut: []error{&worker.OpenError{Text: "its store is gone", Final: true}}}
		l := start(t, func(c *worker.Config) { c.Preparer = worker.Preparers{p, p} })
		s := l.plane.Session(workertest.Calls("first", "second"))
		l.finished(s)
		got := s.Answers()
		if !got[0].IsError || !strings.Contains(got[0].Text, "its store is gone") || got[1].Text != "[one is missing]\n[one is missing]\nran second" {
			t.Errorf("answers %q", texts(s))
		}
		l.stop()
		_ = l.ended()
		if got := p.get(); got != "prepare prepare opened opened opened after after finish:drained finish:drained" {
			t.Errorf("hooks %q", got)
		}
		if opened, closed, _ := l.boxes.count(); opened != 2 || closed != 2 {
			t.Errorf("%d sandboxes were opened, %d closed", opened, closed)
		}
	})
	t.Run("nothing follows a call that was cut short", func(t *testing.T) {
		t.Parallel()
		p := &preparer{}
		l := start(t, func(c *worker.Config) { c.Preparer = p })
		g := l.kit.gate("slow")
		s := l.plane.Session(workertest.Calls("slow"))
		<-g.entered
		l.stop()
		l.kill()
		if err := l.ended(); err != nil {
			t.Error(err)
		}
		if got := p.get(); got != "prepare opened finish:cancelled" || len(s.Answers()) != 1 {
			t.Errorf("hooks %q, answers %q", got, texts(s))
		}
	})
	t.Run("one of several fails, and those before it are finished", func(t *testing.T) {
		t.Parallel()
		p, q := &preparer{}, &preparer{fail: []error{&worker.OpenError{Text: "no", Final: true}}}
		l := start(t, func(c *worker.Config) { c.Preparer = worker.Preparers{p, q} })
		s := l.plane.Session(workertest.Calls("first"))
		l.finished(s)
		if got := p.get(); got != "prepare finish:failed" || !s.Answers()[0].IsError {
			t.Errorf("hooks %q, answers %q", got, texts(s))
		}
	})
}

// prepared is what every session gets.
type prepared worker.Prepared

func (p *prepared) Prepare(context.Context, worker.PrepareInput) (*worker.Prepared, error) {
	got := worker.Prepared(*p)
	return &got, nil
}

// TestPreparedEndsWithTheLease: the end of what was prepared is cut short when
// the item is somebody else's.
func TestPreparedEndsWithTheLease(t *testing.T) {
	t.Parallel()
	still(t, func(t *testing.T, p *workertest.Plane, via func(*worker.Config)) {
		p.SetTTL(4 * time.Second)
		began, over := make(chan struct{}), make(chan struct{})
		l := startAt(t, p, via, func(c *worker.Config) {
			c.Preparer = &prepared{Finish: func(ctx context.Context, _ worker.End) error {
				close(began)
				<-ctx.Done()
				close(over)
				return nil
			}}
		})
		s := p.Session(workertest.Calls("first"))
		l.finished(s)
		l.stop()
		<-began
		p.StealLease(s)
		select {
		case <-over:
		case <-time.After(soon):
			t.Fatal("it goes on")
		}
		if err := l.ended(); err != nil {
			t.Error(err)
		}
		if len(p.Requests(workertest.Stop)) > 0 {
			t.Error("somebody else's item was stopped")
		}
	})
}
