package httpapi

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

// patience is far more than anything here takes.
const patience = time.Minute

// listener is an open stream whose frames arrive on a channel.
type listener struct {
	frames chan frame
	close  func()
}

type frame struct {
	event, id string
	data      []byte
}

func (w *world) listen(cred, path string, header ...string) *listener {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), "GET", w.url+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+cred)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" || res.Header.Get("Request-Id") == "" {
		w.t.Fatalf("stream: %d %v", res.StatusCode, res.Header)
	}
	l := &listener{frames: make(chan frame, 1000), close: func() { res.Body.Close() }}
	w.t.Cleanup(l.close)
	go func() {
		defer close(l.frames)
		sc := bufio.NewScanner(res.Body)
		sc.Buffer(nil, 32<<20)
		var f frame
		for sc.Scan() {
			switch name, value, _ := strings.Cut(sc.Text(), ": "); {
			case sc.Text() == "":
				if f.event != "" {
					l.frames <- f
				}
				f = frame{}
			case name == "event":
				f.event = value
			case name == "id":
				f.id = value
			case name == "data":
				f.data = []byte(value)
			}
		}
	}()
	return l
}

// until reads frames up to one of the type, and gives them all.
func (l *listener) until(t *testing.T, kind string) []frame {
	t.Helper()
	var got []frame
	timeout := time.After(patience)
	for {
		select {
		case f, ok := <-l.frames:
			if !ok {
				t.Fatalf("the stream ended before %s: %v", kind, kinds2(got))
			}
			got = append(got, f)
			if f.event == kind {
				return got
			}
		case <-timeout:
			t.Fatalf("no %s in time: %v", kind, kinds2(got))
		}
	}
}

// ended waits for the stream's end and gives what came before it.
func (l *listener) ended(t *testing.T) []frame {
	t.Helper()
	var got []frame
	timeout := time.After(patience)
	for {
		select {
		case f, ok := <-l.frames:
			if !ok {
				return got
			}
			got = append(got, f)
		case <-timeout:
			t.Fatalf("the stream is still open: %v", kinds2(got))
		}
	}
}

func kinds2(fs []frame) (k []string) {
	for _, f := range fs {
		k = append(k, f.event)
	}
	return k
}

// token is the sessions token in a polled item's secret.
func token(t testing.TB, w api.Work) string {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(*w.Secret, "="))
	if err != nil {
		t.Fatal(err)
	}
	var s api.WorkSecret
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatal(err)
	}
	return s.SessionsToken
}

// TestWholeSession plays worker and client over the wire, on both engines.
func TestWholeSession(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		env := w.environment("lab")
		worker := w.environmentKey(env.ID)
		sess := w.session(env.ID, w.agent().ID, "")
		if sess.Status != api.SessionIdle {
			t.Errorf("status %s without events", sess.Status)
		}
		live := w.listen(w.key, "/v1/sessions/"+sess.ID+"/events/stream?beta=true&event_deltas[]=agent.message")

		var item api.Work
		r := w.do(worker, "GET", "/v1/environments/"+env.ID+"/work/poll?block_ms=999", nil)
		r.json(t, &item)
		if item.Data.ID != sess.ID || item.Secret == nil || item.State != api.WorkQueued {
			t.Fatalf("polled %s", r.body)
		}
		if again := w.do(worker, "GET", "/v1/environments/"+env.ID+"/work/poll", nil); string(again.body) != "null" || again.status != 200 {
			t.Fatalf("second poll: %d %q, want null", again.status, again.body)
		}
		own, base := token(t, item), "/v1/environments/"+env.ID+"/work/"+item.ID
		if r := w.do(worker, "POST", base+"/ack", nil); r.status != 200 {
			t.Fatalf("ack: %s", r.body)
		}
		var beat api.Heartbeat
		w.do(own, "POST", base+"/heartbeat?expected_last_heartbeat=NO_HEARTBEAT", nil).json(t, &beat)
		if !beat.LeaseExtended || beat.State != api.WorkActive || beat.LastHeartbeat == "" {
			t.Fatalf("beat %+v", beat)
		}
		lost := w.do(worker, "POST", base+"/heartbeat?expected_last_heartbeat=2020-01-01T00:00:00Z", nil)
		if e := lost.failure(t); lost.status != 412 || e.Error.Details["error_code"] != "heartbeat_precondition_failed" || e.Error.Details["current_state"] == nil {
			t.Fatalf("a wrong beat: %d %s", lost.status, lost.body)
		}

		mine := w.listen(own, "/v1/sessions/"+sess.ID+"/events/stream")
		w.ok("POST", "/v1/sessions/"+sess.ID+"/events", map[string]any{"events": []any{message(script)}}, nil)
		seen := live.until(t, "session.status_idle")
		var use api.AgentToolUse
		deltas := 0
		for _, f := range seen {
			if f.event == "event_delta" {
				deltas++
				if f.id != "" {
					t.Errorf("a delta has the id %q", f.id)
				}
			} else if f.event != "event_start" && f.id == "" {
				t.Errorf("frame %s has no id", f.event)
			}
			if f.event == api.TypeAgentToolUse {
				if err := json.Unmarshal(f.data, &use); err != nil {
					t.Fatal(err)
				}
			}
		}
		if use.ID == "" || deltas == 0 {
			t.Fatalf("no tool use or no deltas in %v", kinds2(seen))
		}
		for _, f := range mine.until(t, "session.status_idle") {
			if strings.HasPrefix(f.event, "event_") {
				t.Errorf("a stream that did not ask got %s", f.event)
			}
		}
		r = w.do(own, "POST", "/v1/sessions/"+sess.ID+"/events", map[string]any{"events": []any{
			map[string]any{"type": "user.tool_result", "tool_use_id": use.ID, "is_error": false, "content": []any{map[string]any{"type": "text", "text": "ok"}}},
		}})
		if r.status != 200 {
			t.Fatalf("result: %s", r.body)
		}
		rest := live.until(t, "session.status_idle")
		if last := rest[len(rest)-1]; !strings.Contains(string(last.data), `"end_turn"`) {
			t.Errorf("ended with %s", last.data)
		}

		// Resume after the first idle's frame: exactly what came after it.
		again := w.listen(w.key, "/v1/sessions/"+sess.ID+"/events/stream", "Last-Event-ID", seen[len(seen)-1].id)
		var stored []frame
		for _, f := range rest {
			if f.id != "" {
				stored = append(stored, f)
			}
		}
		for i, f := range again.until(t, "session.status_idle") {
			if i >= len(stored) || f.id != stored[i].id || string(f.data) != string(stored[i].data) {
				t.Fatalf("resumed frame %d is %s %s", i, f.id, f.data)
			}
		}

		if r := w.do(own, "POST", base+"/stop", `{"force":true}`); r.status != 200 {
			t.Fatalf("stop: %s", r.body)
		}
		var stats api.WorkStats
		w.ok("GET", "/v1/environments/"+env.ID+"/work/stats", nil, &stats)
		if stats.Depth+stats.Pending+stats.Delivered != 0 || stats.Type != "work_queue_stats" {
			t.Errorf("stats %+v", stats)
		}
		w.ok("DELETE", "/v1/sessions/"+sess.ID, nil, nil)
		if tail := live.ended(t); len(tail) == 0 || tail[len(tail)-1].event != "session.deleted" {
			t.Errorf("after the deletion the stream showed %v", kinds2(tail))
		}
	})
}
