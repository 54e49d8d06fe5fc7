package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// attachedIdle has one worker hold 500 sessions that have run a command and
// wait for their next turn.
func attachedIdle(ctx context.Context) ([]figure, error) {
	const many, watched = 500, 90 * time.Second // a minute after its end a session is looked at
	s, err := startServer(ctx, "--no-worker")
	if err != nil {
		return nil, err
	}
	defer s.stop()
	kernelBefore := kernelMemory()
	worker, err := s.ours(ctx, s.EnvID, s.EnvKey, "--sandbox", "namespaces", "--memory", "24MiB", "--warm", "0",
		"--max-parked", strconv.Itoa(many), "--max-idle", "0")
	if err != nil {
		return nil, err
	}
	defer end(worker)
	ids := make(chan int, many)
	for i := range many {
		ids <- i
	}
	close(ids)
	if err := each(16, func(int) error {
		for range ids {
			id, err := s.session(ctx, s.EnvID, bash("true"), say("done"))
			if err == nil {
				_, err = s.ended(ctx, id)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	if err := wait(ctx, 10*time.Second); err != nil { // what was made for the start is given back
		return nil, err
	}
	family, agents := descendants(worker.Process.Pid)
	if agents < many {
		return nil, fmt.Errorf("only %d of %d sessions have their sandbox", agents, many)
	}
	var user int64
	for _, pid := range family {
		n, err := pss(pid)
		if err != nil {
			return nil, err
		}
		user += n
	}
	own, err := pss(worker.Process.Pid)
	if err != nil {
		return nil, err
	}
	kernel := kernelMemory() - kernelBefore
	before := runtimeOf(family)
	if err := wait(ctx, watched); err != nil {
		return nil, err
	}
	share := (runtimeOf(family) - before).Seconds() / watched.Seconds() * 100
	mb := func(n int64) float64 { return float64(n) / many / (1 << 20) }
	each := mb(user + kernel)
	return []figure{
		{fmt.Sprintf("%d attached idle sessions in one worker (namespaces): memory of each", many),
			fmt.Sprintf("%.1f MB (PSS %.1f, of it the worker %.2f; kernel %.1f)", each, mb(user), mb(own), mb(kernel)), "≤ 8 MB", each <= 8},
		{"the same: processor, sandboxes included", fmt.Sprintf("%.2f %% of a core", share), "< 5 %", share < 5},
	}, nil
}

// descendants are a process and all that descend from it, and how many of them
// are agents.
func descendants(pid int) (all []int, agents int) {
	all = []int{pid}
	if name, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm"); err == nil && strings.TrimSpace(string(name)) == "berth-agent" {
		agents++
	}
	tasks, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
	for _, t := range tasks {
		b, _ := os.ReadFile(t) // the thread may have ended
		for _, f := range strings.Fields(string(b)) {
			if child, err := strconv.Atoi(f); err == nil {
				more, n := descendants(child)
				all, agents = append(all, more...), agents+n
			}
		}
	}
	return all, agents
}

// runtimeOf is what processes have used so far, to the nanosecond: idle ones
// use less than a tick.
func runtimeOf(pids []int) (sum time.Duration) {
	for _, pid := range pids {
		tasks, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/schedstat")
		for _, t := range tasks {
			b, _ := os.ReadFile(t)
			if f := strings.Fields(string(b)); len(f) > 0 {
				n, _ := strconv.ParseInt(f[0], 10, 64)
				sum += time.Duration(n)
			}
		}
	}
	return sum
}

// kernelMemory is what the kernel has taken for itself and for files in memory:
// page tables, stacks, its objects, what control groups cost on each processor.
func kernelMemory() (sum int64) {
	b, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(b)) {
		name, v, _ := strings.Cut(line, ":")
		switch name {
		case "PageTables", "KernelStack", "SUnreclaim", "SReclaimable", "Percpu", "Shmem":
			if f := strings.Fields(v); len(f) > 0 {
				n, _ := strconv.ParseInt(f[0], 10, 64)
				sum += n << 10
			}
		}
	}
	return sum
}
