package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/docker"
	"github.com/berthdev/berth/internal/sandbox/docker/dockertest"
	"github.com/berthdev/berth/toolset"
)

func dockerBoxes(ctx context.Context) (*boxes, string, error) {
	host, err := dockertest.Start()
	if err != nil {
		return nil, "", err
	}
	b, err := boxesOf(func(p *agent.Program, dir string) sandbox.Driver {
		return docker.New(docker.Config{Host: host, Program: p, Dir: dir})
	})
	if err != nil {
		return nil, "", err
	}
	if p := b.driver.Probe(ctx); !p.OK {
		b.close()
		return nil, "", fmt.Errorf("%s (%s)", p.Reason, p.Cure)
	}
	return b, host, nil
}

// dockerClaim measures from a session's Open to its first command's output,
// when its container was ready.
func dockerClaim(ctx context.Context) (_ []figure, err error) {
	b, _, err := dockerBoxes(ctx)
	if err != nil {
		return nil, err
	}
	defer b.close()
	const many = 10
	k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: b.driver, Dir: filepath.Join(b.dir, "keeper"), Warm: many})
	if err != nil {
		return nil, err
	}
	if err := k.Start(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, k.Stop(context.WithoutCancel(ctx))) }()
	var took []time.Duration
	for round := range 3 {
		if err := ready(ctx, k, many); err != nil {
			return nil, err
		}
		for i := range 7 { // the pool refills behind it
			began := time.Now()
			h, _, err := k.Open(ctx, "sesn_claim"+strconv.Itoa(round*10+i))
			if err == nil {
				err = echo(ctx, h)
			}
			took = append(took, time.Since(began))
			if err == nil {
				err = h.Close(ctx, true)
			}
			if err != nil {
				return nil, err
			}
		}
	}
	p50 := quantile(took, .5)
	return []figure{{"docker: from the pool to the first command's output, p50", ms(p50) + " (p99 " + ms(quantile(took, .99)) + ")", "≤ 20 ms", p50 <= 20*time.Millisecond}}, nil
}

func dockerTrue(ctx context.Context) ([]figure, error) {
	b, _, err := dockerBoxes(ctx)
	if err != nil {
		return nil, err
	}
	defer b.close()
	return b.trueOver(ctx, 2*time.Millisecond)
}

// dockerRun measures docker run of a command against a namespaces sandbox
// made for the same one, in turn.
func dockerRun(ctx context.Context) ([]figure, error) {
	b, host, err := dockerBoxes(ctx)
	if err != nil {
		return nil, err
	}
	b.close()
	if err := importHost(ctx, host); err != nil {
		return nil, err
	}
	ours, err := newBoxes()
	if err != nil {
		return nil, err
	}
	defer ours.close()
	var run, own []time.Duration
	for i := range 22 {
		began := time.Now()
		out, err := exec.CommandContext(ctx, "docker", "-H", host, "run", "--rm", "--network", "none", "-v", "/usr:/usr:ro", hostImage, "/bin/bash", "-c", "echo x").CombinedOutput()
		d := time.Since(began)
		if err != nil || !strings.HasSuffix(string(out), "x\n") {
			return nil, fmt.Errorf("docker run: %w: %s", err, out)
		}
		began = time.Now()
		sb, err := ours.start(ctx)
		if err != nil {
			return nil, err
		}
		r, err := sb.Bash(ctx, toolset.Command{Text: "echo x"})
		o := time.Since(began)
		if err = errors.Join(err, sb.Stop(context.WithoutCancel(ctx))); err != nil || string(r.Head) != "x\n" {
			return nil, fmt.Errorf("namespaces: %w: %q", err, r.Head)
		}
		if i >= 2 {
			run, own = append(run, d), append(own, o)
		}
	}
	times := float64(quantile(run, .5)) / float64(quantile(own, .5))
	return []figure{{"namespaces: start to the first command's output against docker run of it, p50",
		fmt.Sprintf("%.0f × faster (%s, docker %s)", times, ms(quantile(own, .5)), ms(quantile(run, .5))), "≥ 20 ×", times >= 20}}, nil
}

const hostImage = "berth-bench:host"

// importHost makes an image whose programs are the host's, to be shown to it.
func importHost(ctx context.Context, host string) error {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range []string{"bin", "lib", "lib64"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: "usr/" + name, Mode: 0o777}); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "docker", "-H", host, "import", "-", hostImage)
	cmd.Stdin = &b
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("docker import: %w: %s", err, out)
	}
	return nil
}
