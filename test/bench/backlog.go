package main

import (
	"cmp"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"sync"
	"time"
)

// load is what a backlog took.
type load struct {
	rate           float64       // sessions a second
	server, worker time.Duration // of processor for each session; the worker's with its children
}

func (l load) String() string {
	return fmt.Sprintf("%.0f/s, processor %s + %s", l.rate, ms(l.server), ms(l.worker))
}

// backlog queues sessions of five echo calls, starts a worker and says how
// they were served; archive lets each go at its end. Who watches them does so
// before the clock starts: that is the bench's work, not the worker's.
func (s *server) backlog(ctx context.Context, env string, sessions int, archive bool, start func() (*exec.Cmd, error)) (l load, err error) {
	echo := bash("echo hello")
	ids, rest := make([]string, sessions), make([]func() error, sessions)
	for i := range ids {
		ids[i], err = s.session(ctx, env, echo, echo, echo, echo, echo, say("done"))
		if err == nil {
			rest[i], err = s.watch(ctx, ids[i])
		}
		if err != nil {
			return l, err
		}
	}
	before, began := cpu(s.cmd.Process.Pid), time.Now()
	worker, err := start()
	if err != nil {
		return l, err
	}
	defer end(worker)
	var wg sync.WaitGroup
	errs := make(chan error, sessions)
	for i, id := range ids {
		wg.Go(func() {
			err := rest[i]()
			if err == nil && archive {
				err = s.archive(ctx, id)
			}
			errs <- err
		})
	}
	wg.Wait()
	took := time.Since(began)
	close(errs)
	for err := range errs {
		if err != nil {
			return l, err
		}
	}
	end(worker)
	n := time.Duration(sessions)
	return load{
		rate:   float64(sessions) / took.Seconds(),
		server: (cpu(s.cmd.Process.Pid) - before) / n,
		worker: (worker.ProcessState.UserTime() + worker.ProcessState.SystemTime()) / n,
	}, nil
}

func backlogOpen(ctx context.Context) ([]figure, error) {
	s, err := startServer(ctx, "--no-worker")
	if err != nil {
		return nil, err
	}
	defer s.stop()
	ours, err := s.backlog(ctx, s.EnvID, 200, false, func() (*exec.Cmd, error) {
		return s.ours(ctx, s.EnvID, s.EnvKey, "--sandbox", "namespaces")
	})
	if err != nil {
		return nil, err
	}
	env, key, err := s.environment(ctx, "official")
	if err != nil {
		return nil, err
	}
	theirs, err := s.backlog(ctx, env, 2, false, func() (*exec.Cmd, error) { return s.official(ctx, env, key) })
	if err != nil {
		return nil, fmt.Errorf("official worker: %w", err)
	}
	return []figure{{"200 sessions × 5 echo, backlog, sessions stay open, namespaces",
		fmt.Sprintf("%s (official %.3f/s)", ours, theirs.rate), "≥ 60 sessions/s", ours.rate >= 60}}, nil
}

func backlogArchived(ctx context.Context) ([]figure, error) {
	s, err := startServer(ctx, "--no-worker")
	if err != nil {
		return nil, err
	}
	defer s.stop()
	loads := map[string][]load{}
	for round := range 3 {
		for _, way := range []string{"official", "namespaces", "process"} {
			env, key, err := s.environment(ctx, fmt.Sprintf("%s %d", way, round))
			if err != nil {
				return nil, err
			}
			l, err := s.backlog(ctx, env, 200, true, func() (*exec.Cmd, error) {
				if way == "official" {
					return s.official(ctx, env, key)
				}
				return s.ours(ctx, env, key, "--sandbox", way)
			})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", way, err)
			}
			loads[way] = append(loads[way], l)
		}
	}
	median := func(way string) load {
		slices.SortFunc(loads[way], func(a, b load) int { return cmp.Compare(a.rate, b.rate) })
		return loads[way][len(loads[way])/2]
	}
	official, namespaces, process := median("official"), median("namespaces"), median("process")
	return []figure{
		{"the same, sessions archived at their end, namespaces, against the official worker", fmt.Sprintf("%.2f × (%s; official %s)", namespaces.rate/official.rate, namespaces, official), "≥ 1 ×", namespaces.rate >= official.rate},
		{"the same with --sandbox process", fmt.Sprintf("%.2f × (%s)", process.rate/official.rate, process), "≥ 2 ×", process.rate >= 2*official.rate},
	}, nil
}
