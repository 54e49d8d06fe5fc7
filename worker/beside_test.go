package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
)

// A plane whose stream is fine and whose list is slow, or fails: the stream is
// heard meanwhile, and the history that comes in the end sets nothing back.
func TestTheStreamIsHeardWhileTheHistoryIsRead(t *testing.T) {
	event := func(kind, id string, at int) string {
		return fmt.Sprintf(`{"type":%q,"id":%q,"processed_at":"2026-01-01T00:00:%02dZ"}`, kind, id, at)
	}
	running, cut := event(api.TypeSessionStatusRunning, "r", 1), event(api.TypeUserInterrupt, "i", 2)
	frames, lists := make(chan string), make(chan int)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if strings.HasSuffix(q.URL.Path, "/stream") {
			w.Header().Set("Content-Type", "text/event-stream")
			for http.NewResponseController(w).Flush() == nil {
				select {
				case f := <-frames:
					fmt.Fprintf(w, "data: %s\n\n", f)
				case <-q.Context().Done():
					return
				}
			}
		}
		select {
		case status := <-lists:
			w.WriteHeader(status)
		case <-q.Context().Done():
		}
		io.WriteString(w, `{"data":[`+running+`],"next_page":null}`)
	}))
	defer srv.Close()
	hc := &http.Client{Transport: &http.Transport{}}
	defer hc.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	out, resync, gone := make(chan reading), make(chan struct{}, 1), make(chan struct{})
	r := &reader{client: client.New(srv.URL, client.Bearer("x"), hc).WithRetries(0), session: "sesn_1", log: slog.New(slog.DiscardHandler), out: out, resync: resync}
	go func() {
		defer close(gone)
		r.run(ctx)
	}()
	defer func() { cancel(); <-gone }()
	get := func() reading {
		t.Helper()
		select {
		case x := <-out:
			return x
		case <-ctx.Done():
			t.Fatal("the reader brings nothing")
			return reading{}
		}
	}
	lists <- http.StatusOK
	if x := get(); !x.history || len(x.notes) != 1 {
		t.Fatalf("the first pass: %+v", x)
	}
	resync <- struct{}{}
	lists <- http.StatusServiceUnavailable
	frames <- running
	if x := get(); x.history || x.notes[0].id != "r" {
		t.Fatalf("while the list fails: %+v", x)
	}
	frames <- cut
	if x := get(); x.history || x.notes[0].id != "i" {
		t.Fatalf("while the list fails: %+v", x)
	}
	lists <- http.StatusServiceUnavailable // the next try has begun, or is about to
	late := event(api.TypeSessionStatusIdle, "e", 3)
	frames <- late
	if x := get(); x.history || x.notes[0].id != "e" {
		t.Fatalf("while the list fails again: %+v", x)
	}
	lists <- http.StatusOK
	x := get()
	if !x.history || len(x.notes) == 0 || x.err != nil {
		t.Fatalf("the pass: %+v", x)
	}
}

func TestAHistoryIsCompletedByWhatCameMeanwhile(t *testing.T) {
	queued := func(id string) note { return note{id: id} }
	done := func(id string) note { return note{id: id, at: time.Unix(1, 0)} }
	for _, tt := range []struct {
		name         string
		notes, later []note
		want         int // of later, how many are added
	}{
		{"nothing came", []note{done("a")}, nil, 0},
		{"a new one", []note{done("a")}, []note{done("b")}, 1},
		{"one that it has", []note{done("a"), done("b")}, []note{done("a")}, 0},
		{"one that it has as queued", []note{queued("a")}, []note{done("a")}, 1},
		{"one that is queued no longer", []note{done("a")}, []note{queued("a")}, 0},
		{"one without an id", []note{done("a")}, []note{done("")}, 1},
	} {
		if got := completed(tt.notes, tt.later); len(got) != len(tt.notes)+tt.want {
			t.Errorf("%s: %d notes of %d and %d", tt.name, len(got), len(tt.notes), len(tt.later))
		}
	}
}

// A history is kept without the inputs of calls that need no answer, and one
// with too much in open calls is not read to its end.
func TestAHistoryKeepsNoInputsOfClosedCalls(t *testing.T) {
	const input = 1 << 20
	call := func(i int) string {
		return fmt.Sprintf(`{"type":"agent.tool_use","id":"c%d","name":"a","input":{"x":"%s"},"processed_at":"2026-01-01T00:00:00Z"}`, i, strings.Repeat("x", input))
	}
	for _, tt := range []struct {
		name  string
		after func(i int) string // follows call i
		want  error
	}{
		{"answered", func(i int) string {
			return fmt.Sprintf(`{"type":"user.tool_result","id":"r%d","tool_use_id":"c%d"}`, i, i)
		}, nil},
		{"interrupted", func(i int) string {
			return fmt.Sprintf(`{"type":"user.interrupt","id":"r%d","processed_at":"2026-01-01T00:00:00Z"}`, i)
		}, nil},
		{"open", func(i int) string { return fmt.Sprintf(`{"type":"agent.message","id":"r%d"}`, i) }, errHistory},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := 0
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				i++
				if i > 100 {
					io.WriteString(w, `{"data":[],"next_page":null}`)
					return
				}
				fmt.Fprintf(w, `{"data":[%s,%s],"next_page":"%d"}`, call(i), tt.after(i), i)
			}))
			defer srv.Close()
			r := &reader{client: client.New(srv.URL, client.Bearer("x"), nil).WithRetries(0), session: "sesn_1", log: slog.New(slog.DiscardHandler)}
			notes, err := r.list(t.Context())
			if !errors.Is(err, tt.want) {
				t.Fatalf("%v after %d pages", err, i)
			}
			for _, n := range notes {
				if n.call != nil && len(n.call.Input) > 0 {
					t.Fatalf("the input of %s is kept", n.id)
				}
			}
			if tt.want != nil && i > 64 {
				t.Errorf("%d pages were read", i)
			}
		})
	}
}

func TestIDsThatAreNoneAreNotKept(t *testing.T) {
	s := newScript()
	long := strings.Repeat("x", 1<<20)
	s.see(&api.UserToolResult{EventHead: s.head(api.TypeUserToolResult, "a"), ToolUseID: long})
	s.see(&api.UserToolConfirmation{EventHead: s.head(api.TypeUserToolConfirmation, "b"), ToolUseID: long, Result: long})
	s.see(&api.UserToolConfirmation{EventHead: s.head(api.TypeUserToolConfirmation, "c"), ToolUseID: "c", Result: long})
	s.thread(api.TypeSessionThreadStatusTerminated, "main")
	s.thread(api.TypeSessionThreadStatusTerminated, long)
	if len(s.calls) > 0 || len(s.ended) > 0 || len(s.verdicts) != 1 || len(s.verdicts["c"]) > maxWord {
		t.Errorf("kept %d calls, %d threads, %d verdicts", len(s.calls), len(s.ended), len(s.verdicts))
	}
}
