package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/anthropics/anthropic-sdk-go/tools/agenttoolset"
	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/outputs"
	"github.com/berthdev/berth/internal/sandbox/tree"
	"github.com/berthdev/berth/internal/stage"
	"github.com/berthdev/berth/toolset"
)

// ground is a session's tree in a folder of the working disk.
type ground struct {
	dir   string
	files *tree.Tree
}

func newGround() (*ground, error) {
	dir, err := os.MkdirTemp("", "berth-bench-")
	if err != nil {
		return nil, err
	}
	root := filepath.Join(dir, "tree")
	if err := os.Mkdir(root, 0o755); err != nil {
		return nil, err
	}
	files, err := tree.Open(tree.Config{Root: root, UID: -1, GID: -1})
	return &ground{dir, files}, err
}

func (g *ground) close() {
	g.files.Close()
	os.RemoveAll(g.dir)
}

func (g *ground) path(names ...string) string {
	return filepath.Join(append([]string{g.dir, "tree"}, names...)...)
}

// Files and Workdir make the ground a host without a shell.
func (g *ground) Files() toolset.Files { return g.files }
func (g *ground) Workdir() string      { return "/workspace" }

func (g *ground) Bash(context.Context, toolset.Command) (toolset.Result, error) {
	return toolset.Result{}, errors.New("there is no shell")
}
func (g *ground) Restart(context.Context) error { return nil }

// alternate runs things in turn, each round in another order, rounds times
// after one to warm up, and gives the median time of each.
func alternate(ctx context.Context, rounds int, things ...func() error) ([]time.Duration, error) {
	return alternateAfter(ctx, rounds, func() error { return nil }, things...)
}

// alternateAfter is alternate with something that is done before each and not
// timed.
func alternateAfter(ctx context.Context, rounds int, before func() error, things ...func() error) ([]time.Duration, error) {
	times := make([][]time.Duration, len(things))
	for round := range rounds + 1 {
		for n := range things {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			i := (n + round) % len(things)
			if err := before(); err != nil {
				return nil, err
			}
			began := time.Now()
			if err := things[i](); err != nil {
				return nil, err
			}
			if round > 0 {
				times[i] = append(times[i], time.Since(began))
			}
		}
	}
	medians := make([]time.Duration, len(things))
	for i := range things {
		medians[i] = quantile(times[i], .5)
	}
	return medians, nil
}

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %.200s", name, err, out)
	}
	return nil
}

func within(measure string, ours, theirs time.Duration, whose string, factor float64) figure {
	ratio := float64(ours) / float64(theirs)
	return figure{measure, fmt.Sprintf("%.2f × (%s, %s %s)", ratio, ms(ours), whose, ms(theirs)), fmt.Sprintf("≤ %g × %s", factor, whose), ratio <= factor}
}

// staging: one file of 1 GB from an input root into a session, against cp.
func staging(ctx context.Context) ([]figure, error) {
	g, err := newGround()
	if err != nil {
		return nil, err
	}
	defer g.close()
	from := filepath.Join(g.dir, "big")
	f, err := os.Create(from)
	if err != nil {
		return nil, err
	}
	block := make([]byte, 1<<20)
	random := rand.NewChaCha8([32]byte{1})
	for range 1000 {
		random.Read(block)
		if _, err := f.Write(block); err != nil {
			return nil, err
		}
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	s, err := stage.New(stage.Config{Roots: []string{g.dir}})
	if err != nil {
		return nil, err
	}
	inputs, err := stage.Parse(api.Metadata{"input_file": "file://" + from})
	if err != nil {
		return nil, err
	}
	to := g.path("workspace", "big")
	// Neither is to wait for what the other has left the disk to write.
	clean := func() error {
		if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		unix.Sync()
		return nil
	}
	times, err := alternateAfter(ctx, 7, clean, func() error {
		d, err := g.files.Draft("/workspace")
		if err != nil {
			return err
		}
		return s.Stage(ctx, inputs, d)
	}, func() error {
		return run("cp", from, to)
	})
	if err != nil {
		return nil, err
	}
	return []figure{within("staging a 1 GB file, p50", times[0], times[1], "cp", 1.5)}, nil
}

// collecting: 10,000 small outputs with their manifest, against cp -r.
func collecting(ctx context.Context) ([]figure, error) {
	g, err := newGround()
	if err != nil {
		return nil, err
	}
	defer g.close()
	from := g.path(outputs.Dir)
	for i := range 10_000 {
		dir := filepath.Join(from, fmt.Sprintf("d%02d", i%100))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%d", i)), bytes.Repeat([]byte("a line of a result\n"), 50), 0o644); err != nil {
			return nil, err
		}
	}
	// All stays until the end: ext4 looks for room among inodes that were just
	// given back, one by one.
	to := ""
	fresh := func() (err error) {
		to, err = os.MkdirTemp(g.dir, "kept")
		to = filepath.Join(to, "here")
		return err
	}
	times, err := alternateAfter(ctx, 7, fresh, func() error {
		m, err := outputs.Collect(ctx, g.files, "sesn_bench", to, outputs.Limits{})
		if err == nil && len(m.Files) != 10_000 {
			err = fmt.Errorf("collected %d files", len(m.Files))
		}
		return err
	}, func() error {
		return run("cp", "-r", from, to)
	})
	if err != nil {
		return nil, err
	}
	return []figure{within("collecting 10,000 small outputs, p50", times[0], times[1], "cp -r", 1.5)}, nil
}

// forest fills the working directory with files of words, 50 to a directory;
// one in a hundred holds a rare word.
func (g *ground) forest(files, size int) error {
	words := strings.Fields("return func error string the of and value index buffer config session worker claim lease result module import struct interface channel context deadline")
	r := rand.New(rand.NewPCG(1, 2))
	var text bytes.Buffer
	for i := range files {
		dir := g.path("workspace", fmt.Sprintf("p%03d", i/500), fmt.Sprintf("q%02d", i/50%10))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		text.Reset()
		for text.Len() < size {
			text.WriteString(words[r.IntN(len(words))])
			text.WriteByte(" \n"[r.IntN(10)/9])
		}
		if i%100 == 0 && size > 0 {
			text.WriteString("\nfindThisNeedle42(x)\n")
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%02d.%s", i%50, []string{"go", "txt"}[i%2])), text.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// search compares one search with ripgrep on one core, which finds the same,
// and with the official toolset.
func search(ctx context.Context, g *ground, measure, tool, pattern string, hits int, rg ...string) ([]figure, error) {
	input, err := json.Marshal(map[string]string{"pattern": pattern})
	if err != nil {
		return nil, err
	}
	ours := toolset.New(g, toolset.Options{})
	env := &agenttoolset.AgentToolContext{Workdir: g.path("workspace")}
	theirs := agenttoolset.BetaGrepTool(env)
	if tool == "glob" {
		theirs = agenttoolset.BetaGlobTool(env)
	}
	one := append([]string{"-c", "0", "rg", "-j1", "--hidden", "--no-ignore"}, rg...)
	path := os.Getenv("PATH")
	times, err := alternate(ctx, 15, func() error {
		content, bad := ours.Run(ctx, "bench", tool, input)
		if got := strings.Count(content[0].Text, "\n") + 1; bad || got < hits {
			return fmt.Errorf("%s gave %d lines: %.200s", tool, got, content[0].Text)
		}
		return nil
	}, func() error {
		return run("taskset", append(one, g.path("workspace"))...)
	}, func() error {
		// Its own walker: with rg in the path it would start that.
		os.Setenv("PATH", "/nonexistent")
		defer os.Setenv("PATH", path)
		_, err := theirs.Execute(ctx, input)
		return err
	}, func() error {
		_, err := theirs.Execute(ctx, input)
		return err
	})
	if err != nil {
		return nil, err
	}
	figures := []figure{
		within(measure+", p50", times[0], times[1], "rg -j1 on one core", 2),
		within("the same against the official toolset, p50", times[0], times[2], "the official one", 1),
	}
	if tool == "grep" {
		f := within("the same where it has rg, which takes all cores, p50", times[0], times[3], "the official one with rg", 1)
		f.bar, f.ok = "reported", true
		figures = append(figures, f)
	}
	return figures, nil
}

func grepping(ctx context.Context) ([]figure, error) {
	g, err := newGround()
	if err != nil {
		return nil, err
	}
	defer g.close()
	if err := g.forest(20_000, 4096); err != nil {
		return nil, err
	}
	const word = "findThisNeedle42"
	return search(ctx, g, "grep of a rare word over 20,000 files", "grep", word, 200, "-n", "--no-heading", "-e", word, "--")
}

func globbing(ctx context.Context) ([]figure, error) {
	g, err := newGround()
	if err != nil {
		return nil, err
	}
	defer g.close()
	if err := g.forest(50_000, 0); err != nil {
		return nil, err
	}
	return search(ctx, g, "glob of **/*.go over 50,000 files", "glob", "**/*.go", 200, "--files", "-g", "**/*.go")
}
