package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/api"
)

// sse serves frames and keeps the stream open until the client goes.
func sse(t *testing.T, frames string, open bool) *Client {
	return fake(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(200)
		io.WriteString(w, frames)
		w.(http.Flusher).Flush()
		if open {
			<-r.Context().Done()
		}
	})
}

func TestStreamReadsTheGoldenFile(t *testing.T) {
	text, err := os.ReadFile("../api/testdata/events.sse")
	if err != nil {
		t.Fatal(err)
	}
	s, err := sse(t, string(text), false).Stream(t.Context(), "sesn_1", StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	n := 0
	for {
		e, err := s.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, unknown := e.(*api.UnknownEvent); unknown {
			t.Errorf("%s is unknown", e.Head().Type)
		}
		if again, err := json.Marshal(e); err != nil || string(again) != string(s.Raw()) {
			t.Errorf("read as %s, %v; sent as %s", again, err, s.Raw())
		}
		n++
	}
	if want := strings.Count(string(text), "event: "); n != want || n < 50 {
		t.Errorf("read %d events of %d", n, want)
	}
}

func TestStreamSkipsPingsAndReportsErrors(t *testing.T) {
	s, err := sse(t, ": hello\n\nevent: ping\ndata: {}\n\n: ping\r\n\r\nevent: agent.thinking\r\nid: 7\r\ndata: {\"type\":\"agent.thinking\",\r\ndata: \"id\":\"sevt_1\"}\r\n\r\n"+
		"retry: 5\nevent: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"busy\"}}\n\nevent: cut", false).Stream(t.Context(), "sesn_1", StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	e, err := s.Next()
	if err != nil || e.Head().ID != "sevt_1" || s.LastEventID() != "7" || string(s.Raw()) != "{\"type\":\"agent.thinking\",\n\"id\":\"sevt_1\"}" {
		t.Fatalf("%v %v %q %q", e, err, s.LastEventID(), s.Raw())
	}
	_, err = s.Next()
	if ce, ok := errors.AsType[*Error](err); !ok || ce.Type != api.ErrOverloaded || ce.Status != 200 || !ce.Temporary() {
		t.Fatalf("%v", err)
	}
	if _, err = s.Next(); err != io.EOF {
		t.Errorf("a frame that was cut off gave %v", err)
	}
}

func TestStreamAsksForWhatItWants(t *testing.T) {
	c := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/sessions/sesn_1/events/stream" || fmt.Sprint(r.URL.Query()["event_deltas[]"]) != "[agent.message agent.thinking]" ||
			r.Header.Get("Last-Event-ID") != "12" || r.Header.Get("Accept") != "text/event-stream" {
			t.Errorf("%s %v", r.URL, r.Header)
		}
		w.WriteHeader(404)
	})
	_, err := c.Stream(t.Context(), "sesn_1", StreamOptions{Deltas: []string{"agent.message", "agent.thinking"}, LastEventID: "12"})
	if StatusOf(err) != 404 {
		t.Errorf("%v", err)
	}
}

func TestStreamEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	s, err := sse(t, "", true).Stream(ctx, "sesn_1", StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	why := errors.New("enough")
	time.AfterFunc(10*time.Millisecond, func() { cancel(why) })
	if _, err := s.Next(); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
}

func TestStreamGivesUpOnSilence(t *testing.T) {
	s, err := sse(t, ": ping\n\n", true).Stream(t.Context(), "sesn_1", StreamOptions{Silence: 500 * time.Millisecond})
	if err == nil { // else the machine took longer than that to open it
		defer s.Close()
		_, err = s.Next()
	}
	if !errors.Is(err, ErrSilence) {
		t.Errorf("%v", err)
	}
}

// Whatever comes puts the silence off.
func TestSilenceBeginsAnewWithEveryByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		s := &Stream{ctx: ctx, cancel: cancel, silence: time.Second}
		s.watch = time.AfterFunc(s.silence, func() { cancel(ErrSilence) })
		r := &watched{s, zeros{}}
		for range 5 {
			time.Sleep(900 * time.Millisecond)
			if _, err := r.Read(make([]byte, 1)); err != nil || ctx.Err() != nil {
				t.Fatalf("given up although something came: %v", context.Cause(ctx))
			}
		}
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if !errors.Is(context.Cause(ctx), ErrSilence) {
			t.Error("not given up after a silence")
		}
	})
}

func TestCloseWakesNext(t *testing.T) {
	s, err := sse(t, "", true).Stream(t.Context(), "sesn_1", StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(10*time.Millisecond, func() { s.Close() })
	if _, err := s.Next(); err == nil || err == io.EOF {
		t.Errorf("%v", err)
	}
	s.Close()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestFramesAreBounded(t *testing.T) {
	f := NewFrames(io.MultiReader(strings.NewReader("data: "), io.LimitReader(zeros{}, 40<<20), strings.NewReader("\n\n")))
	if _, err := f.Next(); err != ErrLineTooLong {
		t.Errorf("a line of 40 MiB: %v", err)
	}
	line := "data: " + strings.Repeat("x", 1<<20) + "\n"
	f = NewFrames(strings.NewReader(strings.Repeat(line, 40) + "\n"))
	if _, err := f.Next(); err != ErrLineTooLong {
		t.Errorf("40 lines of 1 MiB: %v", err)
	}
	f = NewFrames(io.MultiReader(strings.NewReader("data: "), io.LimitReader(zeros{}, 30<<20), strings.NewReader("\n\n")))
	if fr, err := f.Next(); err != nil || len(fr.Data) != 30<<20 {
		t.Errorf("a line of 30 MiB: %d %v", len(fr.Data), err)
	}
}

// The frames do not depend on how the bytes arrive, and never panic.
func FuzzFrames(f *testing.F) {
	text, err := os.ReadFile("../api/testdata/events.sse")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(": c\n\ndata\n\nevent:x\r\ndata: a\ndata:b\r\n\r\nid: 3\n\n"))
	f.Add([]byte("data: \xff\n\n\n\nevent: \n\n"))
	read := func(r io.Reader) (all []string) {
		fr := NewFrames(r)
		for {
			one, err := fr.Next()
			if err != nil {
				if err != io.EOF {
					all = append(all, err.Error())
				}
				return all
			}
			all = append(all, fmt.Sprintf("%q %q %q", one.Event, one.ID, one.Data))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		whole, slow := read(bytes.NewReader(text)), read(iotest.OneByteReader(bytes.NewReader(text)))
		if strings.Join(whole, "\n") != strings.Join(slow, "\n") {
			t.Errorf("at once %q, slowly %q", whole, slow)
		}
	})
}
