package worker

import (
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/client"
)

// ending is a plane whose streams end at once, after the last event.
type ending struct {
	last    string
	streams int
}

func (e *ending) RoundTrip(r *http.Request) (*http.Response, error) {
	kind, body := "application/json", `{"data":[],"next_page":null}`
	if strings.HasSuffix(r.URL.Path, "/stream") {
		e.streams++
		kind, body = "text/event-stream", `data: {"type":"`+e.last+`","id":"sevt_1","processed_at":"2026-01-01T00:00:00Z"}`+"\n\n"
	}
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {kind}}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

// A stream that ended with its session is not opened again while the runner
// ends; any other is, at once.
func TestAStreamEndsWithItsSession(t *testing.T) {
	for last, want := range map[string]int{
		api.TypeSessionStatusTerminated: 1,
		api.TypeSessionDeleted:          1,
		api.TypeSessionStatusRunning:    2,
	} {
		t.Run(last, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				plane := &ending{last: last}
				out := make(chan reading)
				r := &reader{client: client.New("http://plane", client.Bearer("x"), &http.Client{Transport: plane}).WithRetries(0), session: "sesn_1", log: slog.New(slog.DiscardHandler), out: out}
				go r.run(t.Context())
				<-out // the history
				if x := <-out; len(x.notes) != 1 || x.notes[0].kind != last {
					t.Fatalf("read %+v", x)
				}
				time.Sleep(reconnectMin / 4)
				synctest.Wait()
				if plane.streams != want {
					t.Errorf("%d streams were opened, want %d", plane.streams, want)
				}
			})
		})
	}
}
