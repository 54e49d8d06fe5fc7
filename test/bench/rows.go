package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// quantile gives the q-th part of measured times.
func quantile(times []time.Duration, q float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[min(len(times)-1, int(math.Ceil(q*float64(len(times))))-1)]
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func ms(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', 1, 64) + " ms"
}

// startedAt is when a call of `echo $EPOCHREALTIME` ran, by its own clock.
func startedAt(events []event) (time.Time, error) {
	for _, e := range events {
		if e.Type == "user.tool_result" && len(e.Content) > 0 {
			sec, err := strconv.ParseFloat(strings.TrimSpace(e.Content[0].Text), 64)
			if err != nil {
				return time.Time{}, fmt.Errorf("the call said %q", e.Content[0].Text)
			}
			return time.UnixMicro(int64(sec * 1e6)), nil
		}
	}
	return time.Time{}, errors.New("no result")
}

// firstCall: from before the create request to the first command's own clock.
func firstCall(ctx context.Context) ([]figure, error) {
	s, err := startServer(ctx, "--no-worker")
	if err != nil {
		return nil, err
	}
	defer s.stop()
	ours, err := s.ours(ctx, s.EnvID, s.EnvKey, "--sandbox", "namespaces")
	if err != nil {
		return nil, err
	}
	defer end(ours)
	const officials = 8
	ask, stop, err := s.manyOfficial(ctx, officials, func() (*server, error) { return s, nil })
	if err != nil {
		return nil, err
	}
	defer stop()

	once := func(env string) (time.Duration, error) {
		began := time.Now()
		id, err := s.session(ctx, env, bash("echo $EPOCHREALTIME"), say("done"))
		if err != nil {
			return 0, err
		}
		events, err := s.ended(ctx, id)
		if err != nil {
			return 0, err
		}
		at, err := startedAt(events)
		if err != nil {
			return 0, err
		}
		return at.Sub(began), s.archive(ctx, id)
	}
	var mine, official []time.Duration
	for round := range 20 {
		for range 10 {
			d, err := once(s.EnvID)
			if err != nil {
				return nil, err
			}
			if round > 0 { // the first round warms up
				mine = append(mine, d)
			}
		}
		took := make([]time.Duration, officials)
		if err := ask(func(i int, env string) (err error) { took[i], err = once(env); return err }); err != nil {
			return nil, fmt.Errorf("official worker: %w", err)
		}
		official = append(official, took...)
	}
	p50, p99, theirs50 := quantile(mine, .5), quantile(mine, .99), quantile(official, .5)
	ratio := float64(theirs50) / float64(p50)
	return []figure{
		{"session created → first tool call starts, p50", ms(p50), "≤ 25 ms", p50 <= 25*time.Millisecond},
		{"session created → first tool call starts, p99", ms(p99), "≤ 120 ms", p99 <= 120*time.Millisecond},
		{"the same against the official worker's p50", fmt.Sprintf("%.0f × faster (%s)", ratio, ms(theirs50)), "≥ 30 ×", ratio >= 30},
	}, nil
}

// roundTrip: from the tool use's place in the log to its result's.
func roundTrip(ctx context.Context) ([]figure, error) {
	s, err := startServer(ctx, "--no-worker")
	if err != nil {
		return nil, err
	}
	defer s.stop()
	worker, err := s.ours(ctx, s.EnvID, s.EnvKey, "--sandbox", "namespaces")
	if err != nil {
		return nil, err
	}
	defer end(worker)
	turns := make([]any, 0, 301)
	for range 300 {
		turns = append(turns, bash("true"))
	}
	id, err := s.session(ctx, s.EnvID, append(turns, say("done"))...)
	if err != nil {
		return nil, err
	}
	var used = map[string]time.Time{}
	var trips []time.Duration
	all, err := s.ended(ctx, id)
	if err != nil {
		return nil, err
	}
	page := all
	for len(page) == 1000 { // more than one page of events
		last := page[len(page)-1]
		var more struct{ Data []event }
		if err := s.call(ctx, "GET", "/v1/sessions/"+id+"/events?limit=1000&created_at[gt]="+last.ProcessedAt.Format(time.RFC3339Nano), nil, &more); err != nil {
			return nil, err
		}
		page = more.Data
		all = append(all, page...)
	}
	for _, e := range all {
		switch e.Type {
		case "agent.tool_use":
			used[e.ID] = e.ProcessedAt
		case "user.tool_result":
			trips = append(trips, e.ProcessedAt.Sub(used[e.ToolUseID]))
		}
	}
	if len(trips) != 300 {
		return nil, fmt.Errorf("%d round trips, want 300", len(trips))
	}
	p50 := quantile(trips[10:], .5)
	return []figure{{"bash true round trip (tool use written → result accepted), namespaces, p50",
		fmt.Sprintf("%s (p99 %s)", ms(p50), ms(quantile(trips[10:], .99))), "≤ 6 ms", p50 <= 6*time.Millisecond}}, nil
}

func sleepers(ctx context.Context) ([]figure, error) {
	s, err := startServer(ctx, "--no-worker")
	if err != nil {
		return nil, err
	}
	defer s.stop()
	wall := func(env string, start func() (*exec.Cmd, error)) (time.Duration, error) {
		worker, err := start()
		if err != nil {
			return 0, err
		}
		defer end(worker)
		// A first session makes sure that the worker is there.
		id, err := s.session(ctx, env, bash("true"), say("done"))
		if err == nil {
			_, err = s.ended(ctx, id)
		}
		if err == nil {
			err = s.archive(ctx, id)
		}
		if err != nil {
			return 0, err
		}
		began := time.Now()
		var wg sync.WaitGroup
		errs := make(chan error, 8)
		for range 8 {
			wg.Go(func() {
				id, err := s.session(ctx, env, bash("sleep 2"), say("done"))
				if err == nil {
					_, err = s.ended(ctx, id)
				}
				if err == nil {
					err = s.archive(ctx, id)
				}
				errs <- err
			})
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			if err != nil {
				return 0, err
			}
		}
		return time.Since(began), nil
	}
	ours, err := wall(s.EnvID, func() (*exec.Cmd, error) {
		return s.ours(ctx, s.EnvID, s.EnvKey, "--sandbox", "namespaces", "--max-sessions", "16")
	})
	if err != nil {
		return nil, err
	}
	env, key, err := s.environment(ctx, "official")
	if err != nil {
		return nil, err
	}
	theirs, err := wall(env, func() (*exec.Cmd, error) { return s.official(ctx, env, key) })
	if err != nil {
		return nil, fmt.Errorf("official worker: %w", err)
	}
	return []figure{{"8 sessions of one sleep 2 call", fmt.Sprintf("%.2f s (official %.1f s)", ours.Seconds(), theirs.Seconds()), "≤ 2.3 s", ours <= 2300*time.Millisecond}}, nil
}

// goBench runs a Go benchmark and gives its metrics by sub-benchmark and unit.
func goBench(ctx context.Context, pkg, name, benchtime string) (map[string]map[string]float64, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^"+name+"$", "-benchtime", benchtime, "-count", "3", pkg)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("go test -bench %s %s: %w\n%s", name, pkg, err, out)
	}
	all := map[string]map[string][]float64{}
	suffix := regexp.MustCompile(`-\d+$`)
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		key := suffix.ReplaceAllString(f[0], "")
		if all[key] == nil {
			all[key] = map[string][]float64{}
		}
		for i := 2; i+1 < len(f); i += 2 {
			if v, err := strconv.ParseFloat(f[i], 64); err == nil {
				all[key][f[i+1]] = append(all[key][f[i+1]], v)
			}
		}
	}
	medians := map[string]map[string]float64{}
	for key, units := range all {
		medians[key] = map[string]float64{}
		for unit, vs := range units {
			slices.Sort(vs)
			medians[key][unit] = vs[len(vs)/2]
		}
	}
	return medians, nil
}

func queueAlone(ctx context.Context) ([]figure, error) {
	got, err := goBench(ctx, "./internal/queue", "BenchmarkEnqueueClaimStop", "3s")
	if err != nil {
		return nil, err
	}
	var figures []figure
	for engine, bar := range map[string]float64{"sqlite": 1500, "postgres": 2500} {
		rate := got["BenchmarkEnqueueClaimStop/"+engine]["items/s"]
		figures = append(figures, figure{"enqueue → claim → stop, 64 callers, " + engine, fmt.Sprintf("%.0f items/s", rate), fmt.Sprintf("≥ %.0f items/s", bar), rate >= bar})
	}
	slices.SortFunc(figures, func(a, b figure) int { return strings.Compare(b.measure, a.measure) })
	return figures, nil
}

func resultToModel(ctx context.Context) ([]figure, error) {
	sync, err := fsync()
	if err != nil {
		return nil, err
	}
	got, err := goBench(ctx, "./internal/turn", "BenchmarkResultToRequest", "500x")
	if err != nil {
		return nil, err
	}
	var figures []figure
	for _, engine := range []string{"sqlite", "postgres"} {
		m := got["BenchmarkResultToRequest/"+engine]
		p50, p99 := m["p50-ms"], m["p99-ms"]
		figures = append(figures,
			figure{"tool result accepted → next model request starts, p50, " + engine, fmt.Sprintf("%.2f ms (one fsync %s)", p50, ms(sync)), "≤ 3 ms over one fsync",
				p50 > 0 && p50-sync.Seconds()*1000 <= 3},
			figure{"tool result accepted → next model request starts, p99, " + engine, fmt.Sprintf("%.2f ms", p99), "≤ 20 ms", p99 > 0 && p99 <= 20})
	}
	return figures, nil
}

// fsync is the median cost of making 4 KB durable here.
func fsync() (time.Duration, error) {
	f, err := os.CreateTemp("", "berth-bench-fsync-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var took []time.Duration
	for range 200 {
		if _, err := f.Write(make([]byte, 4<<10)); err != nil {
			return 0, err
		}
		began := time.Now()
		if err := f.Sync(); err != nil {
			return 0, err
		}
		took = append(took, time.Since(began))
	}
	return quantile(took, .5), nil
}

// streams: a thousand open streams, an event a second on each.
func streams(ctx context.Context) ([]figure, error) {
	const n, seconds = 1000, 10
	s, err := startServer(ctx, "--no-worker")
	if err != nil {
		return nil, err
	}
	defer s.stop()
	ids := make([]string, n)
	for i := range ids {
		var made struct{ ID string }
		if err := s.call(ctx, "POST", "/v1/sessions", map[string]any{"agent": s.agent, "environment_id": s.EnvID}, &made); err != nil {
			return nil, err
		}
		ids[i] = made.ID
	}
	// send changes every session's title once a second; it notes when.
	var mu sync.Mutex
	sent := map[string]time.Time{}
	send := func(note bool) (time.Duration, error) {
		tick := time.NewTicker(time.Second / n)
		defer tick.Stop()
		jobs := make(chan int, n)
		var senders sync.WaitGroup
		errs := make(chan error, 16)
		for range 16 {
			senders.Go(func() {
				for i := range jobs {
					name := strconv.Itoa(i)
					if note {
						mu.Lock()
						sent[name] = time.Now()
						mu.Unlock()
					} else {
						name = "before " + name
					}
					if err := s.call(ctx, "POST", "/v1/sessions/"+ids[i%n], map[string]any{"title": name}, nil); err != nil {
						select {
						case errs <- err:
						default:
						}
					}
				}
			})
		}
		began := time.Now()
		for i := range n * seconds {
			<-tick.C
			jobs <- i
		}
		took := time.Since(began)
		close(jobs)
		senders.Wait()
		select {
		case err := <-errs:
			return 0, err
		default:
			return took, nil
		}
	}
	// The same load without streams first: what it makes the server hold is
	// not the streams'.
	if _, err := send(false); err != nil {
		return nil, err
	}
	before := rss(s.cmd.Process.Pid)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	var delays []time.Duration
	var readers sync.WaitGroup
	defer readers.Wait()
	defer cancel()
	opened := make(chan error, n)
	title := []byte(`"title":"`)
	for _, id := range ids {
		readers.Go(func() {
			req, _ := http.NewRequestWithContext(ctx, "GET", s.BaseURL+"/v1/sessions/"+id+"/events/stream", nil)
			req.Header.Set("x-api-key", s.APIKey)
			res, err := (&http.Client{Transport: &http.Transport{}}).Do(req)
			opened <- err
			if err != nil {
				return
			}
			defer res.Body.Close()
			in := bufio.NewReaderSize(res.Body, 1<<10)
			for {
				line, err := in.ReadBytes('\n')
				if err != nil {
					return
				}
				_, rest, ok := bytes.Cut(line, title)
				if !ok {
					continue
				}
				got := time.Now()
				name, _, _ := bytes.Cut(rest, []byte{'"'})
				mu.Lock()
				if at, ok := sent[string(name)]; ok {
					delays = append(delays, got.Sub(at))
				}
				mu.Unlock()
			}
		})
	}
	for range ids {
		if err := <-opened; err != nil {
			return nil, err
		}
	}
	took, err := send(true)
	if err != nil {
		return nil, err
	}
	during := rss(s.cmd.Process.Pid)
	arrived := func() int { mu.Lock(); defer mu.Unlock(); return len(delays) }
	for deadline := time.Now().Add(5 * time.Second); arrived() < n*seconds && time.Now().Before(deadline); {
		if err := wait(ctx, 10*time.Millisecond); err != nil {
			return nil, err
		}
	}
	if got := arrived(); got < n*seconds {
		return nil, fmt.Errorf("%d of %d events arrived", got, n*seconds)
	}
	mu.Lock()
	defer mu.Unlock()
	p99, each := quantile(delays, .99), (during-before)/n
	return []figure{
		{"1,000 open streams, 1 event/s each: sent → at the client, p99", fmt.Sprintf("%s (p50 %s, %.0f events/s)", ms(p99), ms(quantile(delays, .5)), n*seconds/took.Seconds()), "≤ 50 ms", p99 <= 50*time.Millisecond},
		{"server memory for each open stream", fmt.Sprintf("%d KB", each>>10), "≤ 60 KB", each <= 60<<10},
	}, nil
}

// idle: both halves in one process with nothing to do.
func idle(ctx context.Context) ([]figure, error) {
	s, err := startServer(ctx, "--sandbox", "namespaces", "--warm", "0")
	if err != nil {
		return nil, err
	}
	defer s.stop()
	if err := wait(ctx, 5*time.Second); err != nil {
		return nil, err
	}
	pid := s.cmd.Process.Pid
	before, began := cpu(pid), time.Now()
	if err := wait(ctx, 30*time.Second); err != nil {
		return nil, err
	}
	share := 100 * float64(cpu(pid)-before) / float64(time.Since(began))
	memory := rss(pid)
	return []figure{
		{"idle berth dev with one waiting worker: processor", fmt.Sprintf("%.2f %% of a core", share), "< 1 %", share < 1},
		{"idle berth dev with one waiting worker: memory", fmt.Sprintf("%d MB", memory>>20), "< 80 MB", memory < 80<<20 && memory > 0},
	}, nil
}
