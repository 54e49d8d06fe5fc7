package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"
)

// watched is a server behind a proxy that notes when its queue is polled and
// when items are acked.
type watched struct {
	server
	polls chan time.Time
	acks  chan time.Time
	close func()
}

func watch(s *server) (*watched, error) {
	to, err := url.Parse(s.BaseURL)
	if err != nil {
		return nil, err
	}
	w := &watched{server: *s, polls: make(chan time.Time, 1), acks: make(chan time.Time, 1)}
	note := func(ch chan time.Time) {
		select {
		case ch <- time.Now():
		default:
		}
	}
	through := &httputil.ReverseProxy{FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0), Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/work/poll"):
			note(w.polls)
		case strings.HasSuffix(r.URL.Path, "/ack"):
			note(w.acks)
		}
		through.ServeHTTP(rw, r)
	}))
	w.BaseURL, w.close = front.URL, front.Close
	return w, nil
}

// claimTime bounds a claim: a worker that has not acked by then counts with it.
const claimTime = 20 * time.Second

// claimed makes a session and gives the time to its ack, from before it was
// asked for and from when the server had it.
func (w *watched) claimed(ctx context.Context, env string) (asked, queued time.Duration, err error) {
	select {
	case <-w.acks:
	default:
	}
	began := time.Now()
	id, err := w.session(ctx, env, say("done"))
	there := time.Now()
	if err != nil {
		return 0, 0, err
	}
	late := time.NewTimer(claimTime)
	defer late.Stop()
	select {
	case at := <-w.acks:
		asked, queued = at.Sub(began), max(at.Sub(there), 0)
		_, err = w.ended(ctx, id)
	case <-late.C:
		asked, queued = claimTime, claimTime
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
	return asked, queued, errors.Join(err, w.archive(ctx, id))
}

// claim: polls of this server are held for 999 ms at most and answered at
// once; sessions come at random times, to our worker and the official one in
// turn, each of which has a queue of its own.
func claim(ctx context.Context) ([]figure, error) {
	s, err := startServer(ctx, "--no-worker")
	if err != nil {
		return nil, err
	}
	defer s.stop()
	us, err := watch(s)
	if err != nil {
		return nil, err
	}
	defer us.close()
	ours, err := us.ours(ctx, s.EnvID, s.EnvKey, "--sandbox", "namespaces")
	if err != nil {
		return nil, err
	}
	defer end(ours)
	const officials = 8
	var them []*watched
	defer func() {
		for _, w := range them {
			w.close()
		}
	}()
	ask, stop, err := s.manyOfficial(ctx, officials, func() (*server, error) {
		w, err := watch(s)
		if err != nil {
			return nil, err
		}
		them = append(them, w)
		return &w.server, nil
	})
	if err != nil {
		return nil, err
	}
	defer stop()
	var asked, queued, official []time.Duration
	for round := range 16 {
		for range 3 {
			if err := wait(ctx, rand.N(300*time.Millisecond)); err != nil {
				return nil, err
			}
			a, q, err := us.claimed(ctx, s.EnvID)
			if err != nil {
				return nil, err
			}
			if round > 0 { // the first warms up
				asked, queued = append(asked, a), append(queued, q)
			}
		}
		took := make([]time.Duration, officials)
		if err := ask(func(i int, env string) (err error) { took[i], _, err = them[i].claimed(ctx, env); return err }); err != nil {
			return nil, fmt.Errorf("official worker: %w", err)
		}
		if round > 0 {
			official = append(official, took...)
		}
	}
	mine, after, other := quantile(asked, .5), quantile(queued, .5), quantile(official, .5)
	ratio := float64(other) / float64(mine)
	return []figure{
		{"session asked for → claimed, held polls answered at once, p50", ms(mine), "≤ 15 ms", mine <= 15*time.Millisecond},
		{"the same against the official worker's p50", fmt.Sprintf("%.0f × faster (%s)", ratio, ms(other)), "≥ 30 ×", ratio >= 30},
		{"session queued → claimed, polls held for 999 ms at most, p50", ms(after), "≤ 20 ms", after <= 20*time.Millisecond},
	}, nil
}

// manySleepers: a hundred sessions at one time in one worker process.
func manySleepers(ctx context.Context) ([]figure, error) {
	const n = 100
	s, err := startServer(ctx, "--no-worker")
	if err != nil {
		return nil, err
	}
	defer s.stop()
	worker, err := s.ours(ctx, s.EnvID, s.EnvKey, "--sandbox", "namespaces", "--max-sessions", "100")
	if err != nil {
		return nil, err
	}
	defer end(worker)
	began := time.Now()
	if err := each(n, func(int) error {
		id, err := s.session(ctx, s.EnvID, bash("sleep 2"), say("done"))
		if err == nil {
			_, err = s.ended(ctx, id)
		}
		return err
	}); err != nil {
		return nil, err
	}
	took := time.Since(began)
	return []figure{{"100 sessions of one sleep 2 call, one worker", fmt.Sprintf("%.2f s", took.Seconds()), "≤ 6 s", took <= 6*time.Second}}, nil
}

// each calls do n times at once and gives an error of one.
func each(n int, do func(int) error) error {
	var all sync.WaitGroup
	errs := make(chan error, n)
	for i := range n {
		all.Go(func() { errs <- do(i) })
	}
	all.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// workerStart: from the start of the process to its first poll.
func workerStart(ctx context.Context) ([]figure, error) {
	s, err := startServer(ctx, "--no-worker")
	if err != nil {
		return nil, err
	}
	defer s.stop()
	w, err := watch(s)
	if err != nil {
		return nil, err
	}
	defer w.close()
	var took []time.Duration
	for range 9 {
		select {
		case <-w.polls:
		default:
		}
		began := time.Now()
		cmd, err := w.ours(ctx, s.EnvID, s.EnvKey, "--sandbox", "namespaces")
		if err != nil {
			return nil, err
		}
		select {
		case at := <-w.polls:
			took = append(took, at.Sub(began))
		case <-time.After(time.Minute):
			err = errors.New("no poll within a minute")
		}
		end(cmd)
		if err != nil {
			return nil, err
		}
	}
	p50 := quantile(took, .5)
	return []figure{{"worker started → first poll, p50", ms(p50), "≤ 150 ms", p50 <= 150*time.Millisecond}}, nil
}

// journalCost: what the journal adds to a call.
func journalCost(ctx context.Context) ([]figure, error) {
	got, err := goBench(ctx, "./internal/journal", "BenchmarkCall", "300x")
	if err != nil {
		return nil, err
	}
	cost := time.Duration(got["BenchmarkCall"]["ns/op"])
	return []figure{{"journal, for each tool call", ms(cost), "≤ 1.5 ms", cost > 0 && cost <= 1500*time.Microsecond}}, nil
}
