package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
)

func event(n int) string {
	return fmt.Sprintf(`{"id":"e%d","type":"session.status_running","processed_at":"2026-11-23T10:00:%02dZ"}`, n, n)
}

// broken is a server whose streams break: each stream gives its share of the
// log, the list gives all of it so far.
func broken(t *testing.T, streams [][]int, listed []int) *client.Client {
	t.Helper()
	n := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/stream") {
			if n == len(streams) {
				t.Error("one stream too many was opened")
				w.WriteHeader(http.StatusNotFound)
				return
			}
			w.Header().Set("Content-Type", "text/event-stream")
			for _, e := range streams[n] {
				fmt.Fprintf(w, "event: session.status_running\ndata: %s\n\n", event(e))
			}
			n++
			return
		}
		var all []string
		for _, e := range listed {
			all = append(all, event(e))
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"data":[%s],"next_page":null}`, strings.Join(all, ","))
	}))
	t.Cleanup(s.Close)
	return client.New(s.URL, client.APIKey("k"), s.Client())
}

func TestFollowFillsTheGaps(t *testing.T) {
	c := broken(t, [][]int{{1, 2}, {5}, {5, 6, 7}}, []int{1, 2, 3, 4, 5})
	var got []string
	begun := 0
	err := Follow(t.Context(), c, "sesn_1", func() error { begun++; return nil }, func(e api.Event) bool {
		got = append(got, e.Head().ID)
		return e.Head().ID == "e6"
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"e1", "e2", "e3", "e4", "e5", "e6"}, got); diff != "" {
		t.Error(diff)
	}
	if begun != 1 {
		t.Errorf("begin was called %d times", begun)
	}
}

func TestFollowGivesUp(t *testing.T) {
	c := client.New("http://127.0.0.1:1", client.APIKey("k"), nil)
	if err := Follow(t.Context(), c, "sesn_1", nil, func(api.Event) bool { return false }); err == nil {
		t.Error("a server that is not there was followed")
	}
	mine := errors.New("mine")
	c = broken(t, [][]int{{1}}, nil)
	if err := Follow(t.Context(), c, "sesn_1", func() error { return mine }, func(api.Event) bool { return false }); !errors.Is(err, mine) {
		t.Errorf("begin failed and Follow said %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	c = broken(t, [][]int{{1}}, nil)
	err := Follow(ctx, c, "sesn_1", nil, func(api.Event) bool { cancel(mine); return false })
	if !errors.Is(err, mine) {
		t.Errorf("the context ended and Follow said %v", err)
	}
}
