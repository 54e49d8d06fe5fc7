package worker

import (
	"context"
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
