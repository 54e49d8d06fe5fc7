package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/gvisor"
	"github.com/berthdev/berth/toolset"
)

func gvisorBoxes(ctx context.Context) (*boxes, error) {
	b, err := boxesOf(func(p *agent.Program, _ string) sandbox.Driver {
		return gvisor.New(gvisor.Config{Runsc: "bin/runsc", Program: p})
	})
	if err != nil {
		return nil, err
	}
	if p := b.driver.Probe(ctx); !p.OK {
		b.close()
		return nil, fmt.Errorf("%s (%s)", p.Reason, p.Cure)
	}
	return b, nil
}

// echo runs the first command.
func echo(ctx context.Context, h toolset.Shell) error {
	r, err := h.Bash(ctx, toolset.Command{Text: "echo x"})
	if err == nil && string(r.Head) != "x\n" {
		err = fmt.Errorf("the first command answered %q", r.Head)
	}
	return err
}

// gvisorStart measures from Start to the first command's output, one at a time.
func gvisorStart(ctx context.Context) ([]figure, error) {
	b, err := gvisorBoxes(ctx)
	if err != nil {
		return nil, err
	}
	defer b.close()
	var took []time.Duration
	for range 60 {
		began := time.Now()
		sb, err := b.start(ctx)
		if err != nil {
			return nil, err
		}
		err = echo(ctx, sb)
		took = append(took, time.Since(began))
		if err := errors.Join(err, sb.Stop(context.WithoutCancel(ctx))); err != nil {
			return nil, err
		}
	}
	p50 := quantile(took, .5)
	return []figure{{"gvisor: start to the first command's output, p50", ms(p50) + " (p99 " + ms(quantile(took, .99)) + ")", "≤ 250 ms", p50 <= 250*time.Millisecond}}, nil
}

// gvisorClaim measures what a session waits for its sandbox, when one was
// ready, and until its first command's output: one at a time, and 20 at once.
func gvisorClaim(ctx context.Context) (_ []figure, err error) {
	b, err := gvisorBoxes(ctx)
	if err != nil {
		return nil, err
	}
	defer b.close()
	const many = 20
	k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: b.driver, Dir: filepath.Join(b.dir, "keeper"), Warm: many})
	if err != nil {
		return nil, err
	}
	if err := k.Start(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, k.Stop(context.WithoutCancel(ctx))) }()
	session := 0
	claim := func(id string, first bool) (*sandbox.Held, time.Duration, error) {
		began := time.Now()
		h, _, err := k.Open(ctx, id)
		if err == nil && first {
			err = echo(ctx, h)
		}
		return h, time.Since(began), err
	}
	next := func() string {
		session++
		return "sesn_claim" + strconv.Itoa(session)
	}
	var single, claims, together []time.Duration
	for range 2 {
		if err := ready(ctx, k, many); err != nil {
			return nil, err
		}
		for range 10 { // the pool refills behind it
			h, d, err := claim(next(), true)
			if err == nil {
				err = h.Close(ctx, true)
			}
			if err != nil {
				return nil, err
			}
			single = append(single, d)
		}
	}
	for round := range 6 { // in turn without and with a first command
		took := []*[]time.Duration{&claims, &together}[round%2]
		if err := ready(ctx, k, many); err != nil {
			return nil, err
		}
		var all sync.WaitGroup
		var mu sync.Mutex
		var failed error
		var claimed []*sandbox.Held
		for range many {
			id := next()
			all.Go(func() {
				h, d, err := claim(id, round%2 == 1)
				mu.Lock()
				defer mu.Unlock()
				*took, failed = append(*took, d), errors.Join(failed, err)
				if err == nil {
					claimed = append(claimed, h)
				}
			})
		}
		all.Wait()
		for _, h := range claimed {
			failed = errors.Join(failed, h.Close(ctx, true))
		}
		if failed != nil {
			return nil, failed
		}
	}
	p50, p99, last := quantile(single, .5), quantile(claims, .99), quantile(together, .99)
	return []figure{
		{"gvisor: from the pool to the first command's output, p50", ms(p50), "≤ 10 ms", p50 <= 10*time.Millisecond},
		{"gvisor: 20 claims from the pool at once, each until it has its sandbox, p99", ms(p99), "≤ 25 ms", p99 <= 25*time.Millisecond},
		{"gvisor: the same, each until its first command's output, p99", ms(last), "≤ 25 ms", last <= 25*time.Millisecond},
	}, nil
}

// ready waits until so many sandboxes are.
func ready(ctx context.Context, k *sandbox.Keeper, n int) error {
	for end := time.Now().Add(time.Minute); k.Ready() < n; {
		if time.Now().After(end) {
			return fmt.Errorf("only %d sandboxes are ready", k.Ready())
		}
		if err := wait(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func gvisorTrue(ctx context.Context) ([]figure, error) {
	b, err := gvisorBoxes(ctx)
	if err != nil {
		return nil, err
	}
	defer b.close()
	return b.trueOver(ctx, 3*time.Millisecond)
}

// gvisorIdle measures the memory of sandboxes that do nothing: sentry, file
// server, agent and shell.
func gvisorIdle(ctx context.Context) (_ []figure, err error) {
	b, err := gvisorBoxes(ctx)
	if err != nil {
		return nil, err
	}
	defer b.close()
	const many = 20
	var all []sandbox.Sandbox
	defer func() {
		for _, sb := range all {
			err = errors.Join(err, sb.Stop(context.WithoutCancel(ctx)))
		}
	}()
	for range many {
		sb, err := b.start(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, sb)
		if err := echo(ctx, sb); err != nil {
			return nil, err
		}
	}
	var sum int64
	for _, sb := range all {
		var h struct {
			PID   int
			Gofer struct{ PID int }
		}
		if err := json.Unmarshal(sb.Record().Handle, &h); err != nil {
			return nil, err
		}
		for _, pid := range []int{h.PID, h.Gofer.PID} {
			n, err := proportional(pid)
			if err != nil {
				return nil, err
			}
			sum += n
		}
	}
	each := float64(sum) / many / (1 << 20)
	return []figure{{fmt.Sprintf("gvisor: memory of an idle sandbox of %d, sentry to shell, PSS", many), fmt.Sprintf("%.1f MB", each), "≤ 25 MB", each <= 25}}, nil
}
