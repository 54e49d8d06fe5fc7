package app

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pair gives both ends of a connection.
func pair(tb testing.TB, l *memListener) (client, server net.Conn) {
	tb.Helper()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			tb.Error(err)
		}
		accepted <- c
	}()
	client, err := l.Dial(context.Background())
	if err != nil {
		tb.Fatal(err)
	}
	return client, <-accepted
}

func TestMemConnCarriesMoreThanItHolds(t *testing.T) {
	client, server := pair(t, newMemListener())
	sent := bytes.Repeat([]byte("0123456789abcdef"), 5*memBufferSize/16)
	go func() {
		for rest := sent; len(rest) > 0; {
			n := min(len(rest), 7919)
			if _, err := client.Write(rest[:n]); err != nil {
				t.Error(err)
			}
			rest = rest[n:]
		}
		client.Close()
	}()
	got, err := io.ReadAll(server)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("got %d bytes of %d, %v", len(got), len(sent), err)
	}
	if _, err := server.Write([]byte("x")); err == nil {
		t.Error("a write to an end that is closed went through")
	}
}

func TestMemConnWriterWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pair(t, newMemListener())
		wrote := false
		go func() { client.Write(make([]byte, memBufferSize+1)); wrote = true }()
		synctest.Wait()
		if wrote {
			t.Fatal("the writer did not wait")
		}
		if _, err := io.ReadFull(server, make([]byte, memBufferSize+1)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !wrote {
			t.Fatal("the writer still waits")
		}
	})
}

func TestMemConnDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pair(t, newMemListener())
		start := time.Now()
		server.SetReadDeadline(start.Add(time.Second))
		if _, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read: %v", err)
		}
		if d := time.Since(start); d != time.Second {
			t.Errorf("the read waited %v", d)
		}
		// A deadline moved away does not strike.
		server.SetReadDeadline(time.Now().Add(time.Second))
		server.SetReadDeadline(time.Time{})
		go func() { time.Sleep(5 * time.Second); client.Write([]byte("late")) }()
		if n, err := server.Read(make([]byte, 8)); n != 4 || err != nil {
			t.Fatalf("read %d, %v", n, err)
		}
		client.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := client.Write(make([]byte, 2*memBufferSize))
		var ne net.Error
		if n != memBufferSize || !errors.As(err, &ne) || !ne.Timeout() {
			t.Fatalf("write %d, %v", n, err)
		}
	})
}

func TestMemConnOwnCloseEndsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := pair(t, newMemListener())
		var err error
		done := make(chan struct{})
		go func() { _, err = client.Read(make([]byte, 1)); close(done) }()
		synctest.Wait()
		client.Close()
		<-done
		if !errors.Is(err, net.ErrClosed) {
			t.Fatalf("%v", err)
		}
	})
}

func TestMemListenerClosed(t *testing.T) {
	l := newMemListener()
	l.Close()
	l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v", err)
	}
	if _, err := l.Dial(context.Background()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := newMemListener().Dial(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("dial without an acceptor: %v", err)
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	})
	ask := func(b *testing.B, l net.Listener, c *http.Client, url string) {
		srv := &http.Server{Handler: handler}
		go srv.Serve(l)
		defer srv.Close()
		b.ReportAllocs()
		for b.Loop() {
			resp, err := c.Post(url, "text/plain", strings.NewReader("ping"))
			if err != nil {
				b.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		c.CloseIdleConnections()
	}
	b.Run("memory", func(b *testing.B) {
		l := newMemListener()
		ask(b, l, &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return l.Dial(ctx) },
		}}, "http://berth.invalid/")
	})
	b.Run("tcp", func(b *testing.B) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		ask(b, l, &http.Client{Transport: &http.Transport{}}, "http://"+l.Addr().String()+"/")
	})
}
