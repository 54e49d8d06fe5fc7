package worker_test

import (
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/workertest"
)

func TestTheLogNamesWorkAndHoldsNoSecret(t *testing.T) {
	t.Parallel()
	var log workertest.Log
	p := workertest.New(t)
	for _, route := range []workertest.Route{workertest.Poll, workertest.Ack, workertest.Beat, workertest.GetSession, workertest.List, workertest.Send} {
		p.Inject(workertest.Fault{Route: route, Times: 1, Status: 503})
	}
	l := startAt(t, p, func(c *worker.Config) {
		c.Logger = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	s := p.Session(workertest.Calls("a", "b"))
	l.finished(s)
	l.stop()
	if err := l.ended(); err != nil {
		t.Fatal(err)
	}
	text := log.String()
	seen := map[string]bool{}
	for _, route := range []workertest.Route{workertest.Poll, workertest.Beat, workertest.Send} {
		for _, r := range p.Requests(route) {
			credential := strings.TrimPrefix(r.Credential, "Bearer ")
			if len(credential) < 8 {
				t.Fatalf("%s came with the credential %q", route, r.Credential)
			}
			seen[credential] = true
			if strings.Contains(text, credential) {
				t.Errorf("the log holds the credential of a %s", route)
			}
		}
	}
	if strings.Contains(text, base64.RawURLEncoding.EncodeToString([]byte(`{"sessions_token`))[:20]) {
		t.Error("the log holds an item's secret")
	}
	if len(seen) != 2 {
		t.Errorf("%d credentials were used, want the key and the item's token", len(seen))
	}
	calls := 0
	for line := range strings.Lines(text) {
		var e struct{ Msg, Work, Session string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("no JSON: %s", line)
		}
		if e.Msg == "call ended" || e.Msg == "let go" {
			calls++
			if e.Session != s.ID || e.Work == "" {
				t.Errorf("which session's? %s", line)
			}
		}
	}
	if calls != 3 {
		t.Errorf("%d lines of calls and ends, want 3:\n%s", calls, text)
	}
}
