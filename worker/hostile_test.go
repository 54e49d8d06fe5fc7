package worker_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/worker"
	"github.com/berthdev/berth/worker/workertest"
)

const (
	hostileKey   = "sk-test-env01-the-environments-own-key"
	hostileToken = "sk-test-req01-the-items-own-token"
)

// wire is a network of pipes, so that real HTTP can be spoken on a clock that
// a test owns. Every dial is noted by its address.
type wire struct {
	conns chan net.Conn
	quit  chan struct{}

	mu     sync.Mutex
	dialed map[string]int
}

func newWire() *wire {
	return &wire{conns: make(chan net.Conn), quit: make(chan struct{}), dialed: map[string]int{}}
}

func (l *wire) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	l.mu.Lock()
	l.dialed[addr]++
	l.mu.Unlock()
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.quit:
		return nil, net.ErrClosed
	}
}

func (l *wire) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.quit:
		return nil, net.ErrClosed
	}
}

func (l *wire) Close() error   { close(l.quit); return nil }
func (l *wire) Addr() net.Addr { return &net.UnixAddr{Name: "wire"} }

// badPlane is a control plane with one session, which serves all as it should
// but for the routes that a test takes over.
type badPlane struct {
	over map[string]http.HandlerFunc // by route

	mu       sync.Mutex
	requests map[string]int
	strays   []string // credentials that came to another host
	given    bool
}

// routes of a control plane, as badPlane calls them.
const (
	onPoll = "poll"
	onAck  = "ack"
	onBeat = "heartbeat"
	onGet  = "session"
	onList = "events"
	onTail = "stream"
	onSend = "send"
	onStop = "stop"
)

func routeOf(r *http.Request) string {
	path := r.URL.Path
	last := path[strings.LastIndex(path, "/")+1:]
	switch {
	case last == "events" && r.Method == http.MethodPost:
		return onSend
	case strings.HasPrefix(last, "sesn"):
		return onGet
	}
	return last
}

func (p *badPlane) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	route := routeOf(r)
	p.mu.Lock()
	p.requests[route]++
	if r.Host != "plane.test" {
		p.strays = append(p.strays, r.Host+" "+r.Header.Get("Authorization")+r.Header.Get("X-Api-Key"))
	}
	first := !p.given && route == onPoll
	if first && p.over[onPoll] == nil {
		p.given = true
	}
	h := p.over[route]
	p.mu.Unlock()
	if h != nil {
		h(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	switch route {
	case onPoll:
		if first {
			io.WriteString(w, workJSON("work_1", "sesn_1"))
			return
		}
		select {
		case <-time.After(999 * time.Millisecond):
		case <-r.Context().Done():
		}
		io.WriteString(w, "null")
	case onAck, onStop:
		io.WriteString(w, workJSON("work_1", "sesn_1"))
	case onBeat:
		io.WriteString(w, `{"type":"work_heartbeat","last_heartbeat":"t","lease_extended":true,"state":"active","ttl_seconds":60}`)
	case onGet:
		io.WriteString(w, `{"id":"sesn_1","type":"session","status":"running"}`)
	case onList:
		io.WriteString(w, `{"data":[{"type":"agent.tool_use","id":"sevt_1","name":"a","input":{},"processed_at":"2026-01-01T00:00:00Z"}],"next_page":null}`)
	case onSend:
		io.WriteString(w, `{"data":[]}`)
	case onTail:
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	default:
		http.NotFound(w, r)
	}
}

func workJSON(work, session string) string {
	secret := base64.RawURLEncoding.EncodeToString([]byte(`{"sessions_token":"` + hostileToken + `","api_base_url":"http://other.test"}`))
	return fmt.Sprintf(`{"id":%q,"type":"work","environment_id":"env_1","state":"queued","data":{"type":"session","id":%q},"metadata":{},"secret":%q,"created_at":"2026-01-01T00:00:00Z"}`, work, session, secret)
}

// Ways of a plane to be hostile, or broken.

func answers(status int, kind, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func jsonOf(body string) http.HandlerFunc { return answers(http.StatusOK, "application/json", body) }

// endless writes for as long as it is read.
func endless(status int, kind string, piece []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		for {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	}
}

// trickle writes a byte every second, for ever.
func trickle(kind string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", kind)
		for r.Context().Err() == nil {
			if _, err := w.Write([]byte(" ")); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-time.After(time.Second):
			case <-r.Context().Done():
			}
		}
	}
}

// silent never answers.
func silent(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusTemporaryRedirect) }
}

// bomb is 256 MiB of blanks, in 256 KiB of gzip.
var bomb = sync.OnceValue(func() []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	blanks := bytes.Repeat([]byte(" "), 1<<20)
	for range 1 << 8 {
		z.Write(blanks)
	}
	z.Close()
	return b.Bytes()
})

func bombed(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Encoding", "gzip")
	w.Write(bomb())
}

func headers(w http.ResponseWriter, _ *http.Request) {
	for i := range 2000 {
		w.Header().Set(fmt.Sprintf("X-Flood-%d", i), strings.Repeat("x", 1000))
	}
	io.WriteString(w, "null")
}

// echoed shows the credential in a content type, which is read in small letters.
func echoed(w http.ResponseWriter, r *http.Request) {
	token := strings.ToUpper(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	answers(200, "text/"+token+strings.Repeat("x", 1<<16), "<html>")(w, r)
}

// TestAHostilePlane lets a worker serve planes that are out to harm it, or
// broken, for a minute each: it sends no credential elsewhere, does not ask
// more than now and then, and says what is wrong and what to do.
func TestAHostilePlane(t *testing.T) {
	blanks := bytes.Repeat([]byte(" "), 1<<16)
	pages := 0
	tests := []struct {
		name   string
		routes []string
		how    http.HandlerFunc
		says   string        // in the log, or as Run's error
		most   int           // requests in the minute, 0 for 200; items are tried by eight slots at a time, about 15 times, with 7 requests each or more
		after  time.Duration // before it begins
	}{
		{name: "endless polls", routes: []string{onPoll}, how: endless(200, "application/json", blanks), says: "the answer is longer than it may be: more than 16 MiB"},
		{name: "endless acks", routes: []string{onAck}, how: endless(200, "application/json", blanks), says: "the answer is longer than it may be"},
		{name: "endless beats", routes: []string{onBeat}, how: endless(200, "application/json", blanks), says: "the answer is longer than it may be"},
		{name: "an endless session", routes: []string{onGet}, how: endless(200, "application/json", blanks), says: "the answer is longer than it may be"},
		{name: "an endless page", routes: []string{onList}, how: endless(200, "application/json", bytes.Repeat(blanks, 64)), says: "one event of it: GET /v1/sessions/sesn_1/events: the answer is longer than it may be: more than 64 MiB"},
		{name: "pages without end", routes: []string{onList}, how: func(w http.ResponseWriter, r *http.Request) {
			pages++
			fmt.Fprintf(w, `{"data":[],"next_page":"%d"}`, pages)
		}, says: "it has no end after 2000 pages", most: 2200},
		{name: "an endless line", routes: []string{onTail}, how: endless(200, "text/event-stream", blanks), says: "a line of the event stream is longer than 32 MiB"},
		{name: "endless errors", routes: []string{onPoll, onAck, onBeat, onGet, onList, onTail, onSend, onStop}, how: endless(500, "application/json", blanks), says: "a poll failed; trying again"},
		{name: "results are accepted without end", routes: []string{onSend}, how: endless(200, "application/json", blanks), says: "a result could not be posted; trying again"},
		{name: "stops without end", routes: []string{onStop, onGet}, how: endless(404, "application/json", blanks), says: "the session could not be served"},

		{name: "wrong types in polls", routes: []string{onPoll}, how: jsonOf(`{"id":7,"data":[]}`), says: "unmarshal JSON number into Go string"},
		{name: "wrong types in acks", routes: []string{onAck}, how: jsonOf(`[1]`), says: "the answer is not what was expected"},
		{name: "wrong types in beats", routes: []string{onBeat}, how: jsonOf(`{"ttl_seconds":"x"}`), says: "a beat failed; trying again"},
		{name: "absurd leases", routes: []string{onBeat}, how: jsonOf(`{"last_heartbeat":"t","lease_extended":true,"state":"active","ttl_seconds":9223372036854775807}`), says: "polling for work"},
		{name: "wrong types in sessions", routes: []string{onGet}, how: jsonOf(`{"id":"sesn_1","status":{}}`), says: "the session could not be read; trying again"},
		{name: "wrong types in lists", routes: []string{onList}, how: jsonOf(`{"data":{"a":1}}`), says: "the session's history could not be read; trying again"},
		{name: "wrong types in streams", routes: []string{onTail}, how: answers(200, "text/event-stream", "data: {\"type\":1}\n\n"), says: "stream: the answer is not what was expected"},
		{name: "a time of a megabyte", routes: []string{onPoll}, how: jsonOf(`{"id":"work_1","created_at":"` + strings.Repeat("9", 1<<20) + `"}`), says: "parsing time"},

		{name: "a web page in place of polls", routes: []string{onPoll}, how: answers(200, "text/html", "<html>"), says: "it is text/html, not JSON; if something stands between here and http://plane.test, look there, else at the base URL"},
		{name: "a web page in place of a stream", routes: []string{onTail}, how: answers(200, "text/html", "<html>"), says: "it is text/html, not an event stream; look at what stands between here and http://plane.test"},
		{name: "JSON in place of a stream", routes: []string{onTail}, how: jsonOf("{}"), says: "it is application/json, not an event stream"},

		{name: "polls redirected", routes: []string{onPoll}, how: redirect("http://other.test/steal"), says: `redirects to another origin, \"http://other.test\"; not followed, so that the credential stays here: if the control plane has moved there, make it the base URL`},
		{name: "all but polls redirected", routes: []string{onAck, onBeat, onGet, onList, onTail, onSend, onStop}, how: redirect("http://other.test/steal"), says: "redirects to another origin"},
		{name: "a session's calls redirected", routes: []string{onGet, onList, onTail, onSend, onStop}, how: redirect("//other.test:81/steal"), says: "redirects to another origin"},
		{name: "redirected to another scheme", routes: []string{onPoll}, how: redirect("https://plane.test/v1/x/poll"), says: "redirects to another origin"},
		{name: "redirected in circles", routes: []string{onPoll}, how: func(w http.ResponseWriter, r *http.Request) { redirect(r.URL.String())(w, r) }, says: "stopped after 10 redirects"},
		{name: "a redirect to nowhere", routes: []string{onPoll}, how: func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Location"] = []string{"http://[" + hostileKey}
			w.WriteHeader(http.StatusFound)
		}, says: "a poll failed; trying again"},

		{name: "the key is revoked after an hour", routes: []string{onPoll}, how: answers(401, "application/json", `{"error":{"type":"authentication_error","message":"no such key"}}`), after: time.Hour,
			says: "the control plane refuses the environment key: it was revoked, or is another environment's; make a new one: 401 authentication_error: no such key"},
		{name: "the token is revoked after an hour", routes: []string{onAck, onBeat, onGet, onList, onTail, onSend, onStop}, how: answers(401, "application/json", `{"error":{"message":"no such token"}}`), after: time.Hour,
			says: "beats are refused"},
		{name: "an error that shows the key", routes: []string{onPoll}, how: func(w http.ResponseWriter, r *http.Request) {
			answers(500, "application/json", `{"error":{"type":"`+r.Header.Get("Authorization")+`","message":"you said `+r.Header.Get("Authorization")+`\nlevel=INFO msg=forged"},"request_id":"`+r.Header.Get("Authorization")+`"}`)(w, r)
		}, says: "you said Bearer (hidden) level=INFO msg=forged"},
		{name: "an answer that shows the token", routes: []string{onGet}, how: func(w http.ResponseWriter, r *http.Request) {
			jsonOf(`{"id":"sesn_1","created_at":"`+r.Header.Get("Authorization")+`"}`)(w, r)
		}, says: "Bearer (hidden)"},
		{name: "content types that show the key", routes: []string{onPoll}, how: echoed, says: "it is of an uncommon content type, not JSON"},
		{name: "content types that show the token", routes: []string{onTail}, how: echoed, says: "it is of an uncommon content type, not an event stream"},
		{name: "an error of a megabyte", routes: []string{onPoll}, how: answers(503, "application/json", `{"error":{"message":"`+strings.Repeat("x", 1<<15)+`"}}`), says: "xxx…"},
		{name: "no retry before the next age", routes: []string{onPoll}, how: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "1e300")
			w.WriteHeader(http.StatusTooManyRequests)
		}, says: "a poll failed; trying again"},
		{name: "a retry at once", routes: []string{onPoll, onBeat, onList, onGet, onTail}, how: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After-Ms", "0.000001")
			w.WriteHeader(http.StatusServiceUnavailable)
		}, says: "a poll failed; trying again"},

		{name: "floods of headers", routes: []string{onPoll}, how: headers, says: "server response headers exceeded"},
		{name: "floods of headers on streams", routes: []string{onTail}, how: headers, says: "server response headers exceeded"},
		{name: "bombs for polls", routes: []string{onPoll}, how: bombed, says: "the answer is longer than it may be"},
		{name: "bombs for beats and sessions", routes: []string{onBeat, onGet}, how: bombed, says: "the answer is longer than it may be"},
		{name: "polls that trickle", routes: []string{onPoll}, how: trickle("application/json"), says: "a poll failed; trying again"},
		{name: "acks that trickle", routes: []string{onAck}, how: trickle("application/json"), says: "the item could not be acked; leaving it to the queue"},
		{name: "beats that trickle", routes: []string{onBeat}, how: trickle("application/json"), says: "a beat failed; trying again", after: 30 * time.Second},
		{name: "a history that trickles", routes: []string{onList}, how: trickle("application/json"), says: "the session's history could not be read; trying again", after: 2 * time.Minute},
		{name: "a history that never comes", routes: []string{onList}, how: silent, says: "the session's history cannot be read for 10m0s", after: 12 * time.Minute, most: 1000},
		{name: "a stream that never opens", routes: []string{onTail}, how: answers(503, "application/json", "{}"), says: "the session's history cannot be read for 10m0s", after: 12 * time.Minute, most: 1000},
		{name: "a second history that never comes", routes: []string{onList, onTail}, how: func() http.HandlerFunc {
			var lists atomic.Int64
			return func(w http.ResponseWriter, r *http.Request) {
				switch {
				case routeOf(r) == onTail:
					answers(200, "text/event-stream", "")(w, r)
				case lists.Add(1) == 1:
					jsonOf(`{"data":[],"next_page":null}`)(w, r)
				default:
					silent(w, r)
				}
			}
		}(), says: "the session's history cannot be read for 10m0s", after: 12 * time.Minute, most: 1000},
		{name: "a stream that says nothing", routes: []string{onTail}, how: silent, says: "the event stream is silent", after: 30 * time.Second},

		{name: "calls without end", routes: []string{onTail}, how: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			input := strings.Repeat("x", 4<<20)
			for i := 0; ; i++ {
				if _, err := fmt.Fprintf(w, `data: {"type":"agent.tool_use","id":"sevt_%d","name":"held","evaluated_permission":"ask","input":{"x":"%s"}}`+"\n\n", i+2, input); err != nil {
					return
				}
			}
		}, says: "sesn_1 has more open calls than a worker can keep: 64 MiB of them"},
		{name: "calls whose ids are none", routes: []string{onList}, how: jsonOf(`{"data":[{"type":"agent.tool_use","id":"../x\n","name":"a","input":{}},{"type":"agent.tool_use","id":"` + strings.Repeat("x", 1<<20) + `","name":"a","input":{}},{"type":"agent.tool_use","id":"sevt_2","name":"` + strings.Repeat("x", 1<<20) + `","input":{}}]}`),
			says: "a call whose id or tool is none"},
		{name: "a beat of a megabyte", routes: []string{onBeat}, how: jsonOf(`{"last_heartbeat":"` + strings.Repeat("9", 1<<20) + `","lease_extended":true,"state":"active","ttl_seconds":60}`), says: "polling for work"},
		{name: "an id that leads out", routes: []string{onPoll}, how: jsonOf(workJSON("../../v1/agents", "sesn_1")), says: "an item whose ids are none"},
		{name: "a session id that leads out", routes: []string{onPoll}, how: jsonOf(workJSON("work_1", "../../../etc/passwd")), says: "an item whose ids are none"},
		{name: "an id of two lines", routes: []string{onPoll}, how: jsonOf(workJSON("work_1\nlevel=INFO msg=forged", "sesn_1")), says: "an item whose ids are none"},
		{name: "an id of a megabyte", routes: []string{onPoll}, how: jsonOf(workJSON(strings.Repeat("w", 1<<20), "sesn_1")), says: "an item whose ids are none"},
		{name: "the same item for ever, which nobody may ack", routes: []string{onPoll, onAck}, how: func(w http.ResponseWriter, r *http.Request) {
			if routeOf(r) == onAck {
				answers(404, "application/json", "{}")(w, r)
				return
			}
			jsonOf(workJSON("work_1", "sesn_1"))(w, r)
		}, says: "the item could not be acked"},
		{name: "items for ever, of sessions that are none", routes: []string{onPoll, onGet}, how: func(w http.ResponseWriter, r *http.Request) {
			if routeOf(r) == onGet {
				answers(404, "application/json", "{}")(w, r)
				return
			}
			jsonOf(workJSON("work_1", "sesn_1"))(w, r)
		}, says: "the session could not be served", most: 840},
		{name: "items for ever, of sessions that have ended", routes: []string{onPoll, onGet}, how: func(w http.ResponseWriter, r *http.Request) {
			if routeOf(r) == onGet {
				jsonOf(`{"id":"sesn_1","status":"terminated"}`)(w, r)
				return
			}
			jsonOf(workJSON("work_1", "sesn_1"))(w, r)
		}, says: "reason=terminated", most: 1200},
		{name: "items for ever, of sessions that end in their history", routes: []string{onPoll, onList}, how: func(w http.ResponseWriter, r *http.Request) {
			if routeOf(r) == onList {
				jsonOf(`{"data":[{"type":"session.status_terminated","id":"sevt_1","processed_at":"2026-01-01T00:00:00Z"}],"next_page":null}`)(w, r)
				return
			}
			jsonOf(workJSON("work_1", "sesn_1"))(w, r)
		}, says: "reason=terminated", most: 1600},
		{name: "items for ever, of sessions whose second stream is refused", routes: []string{onPoll, onList, onTail}, how: func() http.HandlerFunc {
			var streams atomic.Int64
			return func(w http.ResponseWriter, r *http.Request) {
				switch routeOf(r) {
				case onList:
					jsonOf(`{"data":[],"next_page":null}`)(w, r)
				case onTail:
					if streams.Add(1)%2 == 0 {
						answers(404, "application/json", "{}")(w, r)
						return
					}
					answers(200, "text/event-stream", "")(w, r)
				default:
					jsonOf(workJSON("work_1", "sesn_1"))(w, r)
				}
			}
		}(), says: "the session could not be served", most: 840},
		{name: "items for ever, which a first beat stops", routes: []string{onPoll, onBeat}, how: func(w http.ResponseWriter, r *http.Request) {
			if routeOf(r) == onBeat {
				jsonOf(`{"last_heartbeat":"t","lease_extended":true,"state":"stopping","ttl_seconds":60}`)(w, r)
				return
			}
			jsonOf(workJSON("work_1", "sesn_1"))(w, r)
		}, says: "reason=stopping", most: 840},
		{name: "items for ever, for nothing", routes: []string{onPoll}, how: jsonOf(`{"id":"work_1","environment_id":"env_1","data":{"type":"healthcheck","id":""}}`), says: "reason=idle"},
		{name: "a token that cannot be sent", routes: []string{onPoll}, how: func() http.HandlerFunc {
			secret := base64.RawURLEncoding.EncodeToString([]byte(`{"sessions_token":"a\r\nX-Evil: 1"}`))
			return jsonOf(`{"id":"work_1","environment_id":"env_1","data":{"type":"session","id":"sesn_1"},"secret":"` + secret + `"}`)
		}(), says: "the secret's sessions token cannot be sent"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if testing.Short() && (strings.Contains(tt.name, "end") || strings.Contains(tt.name, "bombs")) {
				t.Skip("by design: megabytes take long under the race detector")
			}
			synctest.Test(t, func(t *testing.T) {
				p := &badPlane{over: map[string]http.HandlerFunc{}, requests: map[string]int{}}
				w, net, log, hangUp := atBadPlane(t, p, newKit(), &boxes{}, func(c *worker.Config) { c.MaxIdle = -1 })
				take, stop := context.WithCancel(t.Context())
				work, kill := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				attack := func() {
					p.mu.Lock()
					defer p.mu.Unlock()
					for _, route := range tt.routes {
						p.over[route] = tt.how
					}
					p.requests = map[string]int{}
				}
				if tt.after < time.Hour {
					attack()
				}
				go func() { ended <- w.Run(take, work) }()
				time.Sleep(tt.after)
				if tt.after >= time.Hour {
					attack()
				}
				time.Sleep(time.Minute)
				synctest.Wait()

				p.mu.Lock()
				total := 0
				for _, n := range p.requests {
					total += n
				}
				t.Logf("%d requests: %v", total, p.requests)
				if most := max(tt.most, 200); total > most {
					t.Errorf("%d requests in a minute: %v", total, p.requests)
				}
				if len(p.strays) > 0 {
					t.Errorf("another host was asked: %v", p.strays)
				}
				p.mu.Unlock()
				net.mu.Lock()
				for addr := range net.dialed {
					if addr != "plane.test:80" {
						t.Errorf("%s was dialed", addr)
					}
				}
				net.mu.Unlock()

				stop()
				kill()
				said := log.String()
				if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
					said += "Run: " + err.Error()
				}
				if !strings.Contains(said, tt.says) {
					t.Errorf("it never says %q but\n%.4000s", tt.says, said)
				}
				for _, secret := range []string{hostileKey, hostileToken} {
					if strings.Contains(strings.ToLower(said), secret) {
						t.Errorf("the log holds %s", secret)
					}
				}
				for line := range strings.Lines(said) {
					if len(line) > 4096 || strings.HasPrefix(line, "level=INFO msg=forged") {
						t.Errorf("a line of %d bytes: %.200s", len(line), line)
					}
				}
				hangUp()
			})
		})
	}
}

// atBadPlane makes a worker at a plane on a wire. hangUp ends the plane.
func atBadPlane(t *testing.T, p *badPlane, k *kit, b *boxes, change ...func(*worker.Config)) (w *worker.Worker, net *wire, log *workertest.Log, hangUp func()) {
	t.Helper()
	net, log = newWire(), &workertest.Log{}
	server := &http.Server{Handler: p}
	served := make(chan error, 1)
	go func() { served <- server.Serve(net) }()
	transport := &http.Transport{DialContext: net.dial, MaxResponseHeaderBytes: 1 << 20}
	cfg := worker.Config{
		BaseURL: "http://plane.test", HTTPClient: &http.Client{Transport: transport},
		EnvironmentID: "env_1", EnvironmentKey: hostileKey, Sandboxes: b, Tools: k.tools, Logger: slog.New(slog.NewTextHandler(log, nil)),
	}
	for _, c := range change {
		c(&cfg)
	}
	w, err := worker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return w, net, log, func() {
		transport.CloseIdleConnections()
		server.Close()
		<-served
	}
}

// A call that goes on although it was cut off ends its session, and its
// sandbox with it.
func TestACallThatIgnoresItsEnd(t *testing.T) {
	for _, cut := range []string{"an interrupt", "a drain"} {
		t.Run(cut, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				interrupt := make(chan struct{})
				p := &badPlane{requests: map[string]int{}, over: map[string]http.HandlerFunc{onTail: func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", "text/event-stream")
					http.NewResponseController(w).Flush()
					select {
					case <-interrupt:
						io.WriteString(w, `data: {"type":"user.interrupt","id":"sevt_2","processed_at":"2026-01-01T00:00:01Z"}`+"\n\n")
						http.NewResponseController(w).Flush()
					case <-r.Context().Done():
					}
					<-r.Context().Done()
				}}}
				k, b := newKit(), &boxes{}
				g := k.gate("a")
				g.stubborn = true
				w, _, log, hangUp := atBadPlane(t, p, k, b, func(c *worker.Config) { c.DrainLimit = time.Second })
				take, stop := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- w.Run(take, t.Context()) }()
				<-g.entered
				if cut == "a drain" {
					stop()
				} else {
					close(interrupt)
				}
				<-g.cancelled
				time.Sleep(29 * time.Second)
				if _, closed, _ := b.count(); closed != 0 {
					t.Error("the sandbox is killed at once")
				}
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if _, closed, _ := b.count(); closed != 1 {
					t.Errorf("the sandbox lives although its call goes on:\n%s", log.String())
				}
				g.let()
				stop()
				if err := <-ended; err != nil || p.requests[onStop] != 1 {
					t.Errorf("Run gives %v after %v", err, p.requests)
				}
				if !strings.Contains(log.String(), "goes on 30s after it was cancelled") {
					t.Errorf("the log is\n%s", log.String())
				}
				hangUp()
			})
		})
	}
}
