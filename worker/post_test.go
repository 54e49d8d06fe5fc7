package worker

import (
	"context"
	"encoding/json"
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

// answers is a server in memory: one status per request, then 200.
type answers struct {
	statuses []int
	header   http.Header
	at       []time.Duration
	began    time.Time
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	if a.at == nil {
		a.began = time.Now()
	}
	a.at = append(a.at, time.Since(a.began))
	status, body := http.StatusOK, `{"data":[]}`
	if n := len(a.at); n <= len(a.statuses) {
		status = a.statuses[n-1]
	}
	if status == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	if status != http.StatusOK {
		body = `{"type":"error","error":{"type":"api_error","message":"no"}}`
	}
	h := http.Header{"Content-Type": {"application/json"}}
	for k, v := range a.header {
		h[k] = v
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

func (a *answers) poster(window time.Duration) *poster {
	c := client.New("http://plane.test", client.Bearer("t"), &http.Client{Transport: a}).WithRetries(0)
	return &poster{client: c, session: "sesn_1", window: func() time.Duration { return window }, log: slog.New(slog.DiscardHandler)}
}

func TestPosting(t *testing.T) {
	many := make([]int, 100)
	for i := range many {
		many[i] = 500
	}
	tests := []struct {
		name     string
		statuses []int
		header   http.Header
		window   time.Duration
		want     CallOutcome
		tries    int
		min, max time.Duration // until the last try
	}{
		{"accepted", nil, nil, 0, CallAnswered, 1, 0, 0},
		{"trouble that passes", []int{500, 0, 429, 409, 408}, nil, 0, CallAnswered, 6, 15 * time.Second, 31 * time.Second},
		{"refused", []int{400}, nil, 0, CallRefused, 1, 0, 0},
		{"gone", []int{404}, nil, 0, CallRefused, 1, 0, 0},
		{"a conflict that is not to be repeated", []int{409}, http.Header{"X-Should-Retry": {"false"}}, 0, CallRefused, 1, 0, 0},
		{"the answer's own pause", []int{429}, http.Header{"Retry-After": {"20"}}, 0, CallAnswered, 2, 20 * time.Second, 20 * time.Second},
		{"an outage longer than the lease", many, nil, time.Minute, CallUnsent, 0, time.Minute, 90 * time.Second},
		{"an outage, no lease known", many, nil, 0, CallUnsent, 0, 5 * time.Minute, 330 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &answers{statuses: tt.statuses, header: tt.header}
				got, err := a.poster(tt.window).post(t.Context(), json.RawMessage(`{}`), nil)
				if got != tt.want || (err == nil) != (got == CallAnswered) {
					t.Errorf("%s, %v; want %s", got, err, tt.want)
				}
				if last := a.at[len(a.at)-1]; last < tt.min || last > tt.max || tt.tries > 0 && len(a.at) != tt.tries {
					t.Errorf("%d tries until %v; want %d, %v to %v", len(a.at), last, tt.tries, tt.min, tt.max)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		a := &answers{statuses: []int{0, 500, 500}}
		echoed := make(chan struct{})
		close(echoed)
		if got, err := a.poster(0).post(t.Context(), json.RawMessage(`{}`), echoed); got != CallAnswered || err != nil || len(a.at) != 1 {
			t.Errorf("with its echo in the log: %s, %v, %d tries", got, err, len(a.at))
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errInterrupted)
		if got, err := a.poster(0).post(ctx, json.RawMessage(`{}`), nil); got != CallInterrupted || err != errInterrupted {
			t.Errorf("with an interrupt: %s, %v", got, err)
		}
	})
}

func TestRefusedContentIsReplaced(t *testing.T) {
	image, err := resultEvent(Call{ID: "c"}, []api.Block{{Type: "image"}}, false)
	if err != nil {
		t.Fatal(err)
	}
	text, err := resultEvent(Call{ID: "c"}, []api.Block{api.Text("x")}, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		status int
		result json.RawMessage
		want   bool
	}{{413, text, true}, {413, image, true}, {400, image, true}, {400, text, false}, {401, image, false}, {404, image, false}} {
		if got := replaceable(&client.Error{Status: tt.status}, tt.result); got != tt.want {
			t.Errorf("%d %s: %v", tt.status, tt.result, got)
		}
	}
	r, err := replacement(Call{ID: "c"}, &client.Error{Status: 413}, 12345)
	if err != nil || !strings.Contains(string(r), "12345 bytes") || !strings.Contains(string(r), `"is_error":true`) {
		t.Errorf("%s %v", r, err)
	}
}
