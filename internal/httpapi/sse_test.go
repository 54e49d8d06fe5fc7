package httpapi

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/plane"
	"github.com/berthdev/berth/internal/store"
	"github.com/berthdev/berth/internal/store/storetest"
)

// openRaw opens a stream on a bare connection and gives it after the headers.
func (w *world) openRaw(t testing.TB, path string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nX-Api-Key: %s\r\nAccept: text/event-stream\r\n\r\n", path, w.key)
	r := bufio.NewReaderSize(conn, 512)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("headers: %v", err)
		}
		if line == "\r\n" {
			return conn, r
		}
		if strings.HasPrefix(line, "HTTP/1.1") && !strings.Contains(line, "200") {
			t.Fatal(line)
		}
	}
}

func TestStreamHeadersComeBeforeAnyEvent(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t))
	sess := w.session(w.environment("e").ID, w.agent().ID, "")
	_, r := w.openRaw(t, "/v1/sessions/"+sess.ID+"/events/stream") // returns: the headers are here
	w.ok("POST", "/v1/sessions/"+sess.ID+"/events", map[string]any{"events": []any{message("x")}}, nil)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(line, "event: user.message") {
			return
		}
	}
}

func TestStreamPings(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t), func(c *Config) { c.PingEvery = 5 * time.Millisecond })
	sess := w.session(w.environment("e").ID, w.agent().ID, "")
	_, r := w.openRaw(t, "/v1/sessions/"+sess.ID+"/events/stream")
	for pings := 0; pings < 3; {
		line, err := r.ReadString('\n')
		if err != nil || strings.HasPrefix(line, "event:") {
			t.Fatalf("%q, %v", line, err)
		}
		if line == ": ping\n" {
			pings++
		}
	}
}

func TestStreamEndsAtItsAge(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t), func(c *Config) { c.StreamMaxAge = 50 * time.Millisecond })
	sess := w.session(w.environment("e").ID, w.agent().ID, "")
	req, err := http.NewRequestWithContext(t.Context(), "GET", w.url+"/v1/sessions/"+sess.ID+"/events/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Api-Key", w.key)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("the stream did not end cleanly: %v", err)
	}
	if strings.Contains(string(body), "event:") {
		t.Errorf("%q", body)
	}
}

func TestStreamEndsWithTheSession(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st, func(c *Config) { c.MessageFrames = true })
		sess := w.session(w.environment("e").ID, w.agent().ID, "")
		l := w.listen(w.key, "/v1/sessions/"+sess.ID+"/events/stream")
		w.ok("POST", "/v1/sessions/"+sess.ID+"/events", map[string]any{"events": []any{message("x")}}, nil)
		for _, f := range l.until(t, "message") { // every frame bears that name here
			if f.event != "message" {
				t.Errorf("frame %s", f.event)
			}
		}
		if _, err := w.turns.Terminate(t.Context(), sess.ID); err != nil {
			t.Fatal(err)
		}
		tail := l.ended(t)
		if len(tail) == 0 || !strings.Contains(string(tail[len(tail)-1].data), `"session.status_terminated"`) {
			t.Errorf("ended with %v", tail)
		}
	})
}

// A stream of a session that is over tells so and ends, wherever it begins.
func TestStreamOfAnEndedSessionEnds(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st store.Store) {
		w := newWorld(t, st)
		sess := w.session(w.environment("e").ID, w.agent().ID, "")
		w.ok("POST", "/v1/sessions/"+sess.ID+"/archive", nil, nil)
		for from, frames := range map[string]int{"": 1, "0": 2, "1": 1, "2": 1, "99": 1} {
			tail := w.listen(w.key, "/v1/sessions/"+sess.ID+"/events/stream", "Last-Event-ID", from).ended(t)
			if len(tail) != frames || tail[len(tail)-1].event != api.TypeSessionStatusTerminated {
				t.Errorf("after frame %q: %v", from, kinds2(tail))
			}
		}
	})
}

func TestStreamEndsWhenItsKeyIsRevoked(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t), func(c *Config) { c.PingEvery = 5 * time.Millisecond })
	sess := w.session(w.environment("e").ID, w.agent().ID, "")
	secret, key, err := w.keys.Create(t.Context(), plane.KeyAPI, "", "")
	if err != nil {
		t.Fatal(err)
	}
	l := w.listen(secret, "/v1/sessions/"+sess.ID+"/events/stream")
	if _, err := w.keys.Revoke(t.Context(), key.ID); err != nil {
		t.Fatal(err)
	}
	l.ended(t)
}

// A busy stream is asked for its credential as often as a quiet one.
func TestBusyStreamEndsWhenItsKeyIsRevoked(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t), func(c *Config) { c.PingEvery = 500 * time.Millisecond })
	sess := w.session(w.environment("e").ID, w.agent().ID, "")
	secret, key, err := w.keys.Create(t.Context(), plane.KeyAPI, "", "")
	if err != nil {
		t.Fatal(err)
	}
	l := w.listen(secret, "/v1/sessions/"+sess.ID+"/events/stream")
	over := make(chan struct{})
	var talk sync.WaitGroup
	talk.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-over:
				return
			default:
				if r := w.do(w.key, "POST", "/v1/sessions/"+sess.ID, map[string]any{"title": fmt.Sprint("title ", i)}); r.status != 200 {
					t.Errorf("%d %s", r.status, r.body)
					return
				}
			}
		}
	})
	defer talk.Wait()
	defer close(over)
	l.until(t, api.TypeSessionUpdated)
	if _, err := w.keys.Revoke(t.Context(), key.ID); err != nil {
		t.Fatal(err)
	}
	l.ended(t)
}

func TestStreamEndsWhenTheServerStops(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t))
	sess := w.session(w.environment("e").ID, w.agent().ID, "")
	l := w.listen(w.key, "/v1/sessions/"+sess.ID+"/events/stream")
	w.events.Stop()
	l.ended(t)
	if r := w.do(w.key, "GET", "/v1/sessions/"+sess.ID+"/events/stream", nil); r.status != 503 {
		t.Errorf("a stream of a stopping server: %d", r.status)
	}
}

// A reader that takes nothing is cut off; the others and the writers go on.
func TestStalledReaderIsCutOff(t *testing.T) {
	w := newWorld(t, storetest.SQLite(t), func(c *Config) { c.WriteTimeout = time.Second })
	sess := w.session(w.environment("e").ID, w.agent().ID, "")
	path := "/v1/sessions/" + sess.ID + "/events"
	stalled, _ := w.openRaw(t, path+"/stream")
	stalled.(*net.TCPConn).SetReadBuffer(4096)
	good := w.listen(w.key, path+"/stream")
	big := strings.Repeat("x", 60_000)
	for n := 0; w.open() != 1; n++ { // until the kernel's buffers are full and the time is up
		if n == 2000 {
			t.Fatalf("%d streams are open after 120 MB, want 1", w.open())
		}
		w.ok("POST", path, map[string]any{"events": []any{message(big)}}, nil)
		good.until(t, "session.status_idle")
	}
}

// BenchmarkStreams holds 1,000 open streams and sends one event a second to
// each: p99-ms is from the send's answer to the client, KB/stream is what the
// server's memory grew by for each (the client's reader is in it, too). Bars:
// p99 50 ms, 60 KB.
func BenchmarkStreams(b *testing.B) {
	const streams = 1000
	st := storetest.SQLite(b)
	w := newWorld(b, st)
	env, agent := w.environment("e"), w.agent()
	type open struct {
		id string
		r  *bufio.Reader
	}
	sessions := make([]string, streams)
	for i := range sessions {
		sessions[i] = w.session(env.ID, agent.ID, "").ID
	}
	before := memory()
	all := make([]open, streams)
	for i, id := range sessions {
		_, r := w.openRaw(b, "/v1/sessions/"+id+"/events/stream")
		all[i] = open{id, r}
	}
	perStream := float64(memory()-before) / streams / 1024

	var mu sync.Mutex
	var took []time.Duration
	sent := make([]time.Time, streams)
	var readers sync.WaitGroup
	for i := range all {
		readers.Go(func() {
			for {
				line, err := all[i].r.ReadSlice('\n')
				if err == bufio.ErrBufferFull {
					continue
				}
				if err != nil {
					return
				}
				if strings.HasPrefix(string(line), "event: session.updated") {
					mu.Lock()
					took = append(took, time.Since(sent[i]))
					mu.Unlock()
				}
			}
		})
	}
	b.ResetTimer()
	rounds := 0
	for b.Loop() {
		rounds++
		start := time.Now()
		for i, id := range sessions {
			time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / streams)))
			mu.Lock()
			sent[i] = time.Now()
			mu.Unlock()
			title := fmt.Sprint("t", rounds, i)
			if _, err := w.turns.Update(context.Background(), id, api.UpdateSession{Title: api.Some(title)}); err != nil {
				b.Fatal(err)
			}
		}
		for {
			mu.Lock()
			n := len(took)
			mu.Unlock()
			if n >= rounds*streams {
				break
			}
			runtime.Gosched()
		}
	}
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(perStream, "KB/stream")
}

// memory is what the heap and the stacks hold.
func memory() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
