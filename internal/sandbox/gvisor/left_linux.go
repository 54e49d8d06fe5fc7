package gvisor

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
)

// stray is a process of runsc's, known by its command line, which names its
// bundle.
type stray struct {
	pid    int
	bundle string
}

// strays finds all that run on this machine.
func strays() []stray {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil
	}
	var found []stray
	for _, path := range lines {
		b, err := os.ReadFile(path)
		if err != nil || !bytes.HasPrefix(b, []byte("runsc-")) {
			continue
		}
		args := strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
		pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
		s := stray{pid: pid}
		for i, a := range args {
			if v, ok := strings.CutPrefix(a, "--bundle="); ok {
				s.bundle = v
			} else if a == "--bundle" && i+1 < len(args) {
				s.bundle = args[i+1]
			}
		}
		if s.bundle != "" {
			found = append(found, s)
		}
	}
	return found
}

func (s stray) kill() error {
	p, err := agent.FindProcess(s.pid)
	if err != nil {
		return nil // it is gone
	}
	defer p.Release()
	if err := p.Kill(); err != nil {
		return err
	}
	return p.Wait(endTime)
}

// killStrays ends what runs of the sandbox with this directory.
func killStrays(run string) error {
	var errs []error
	for _, s := range strays() {
		if s.bundle == filepath.Join(run, "bundle") {
			errs = append(errs, s.kill())
		}
	}
	return errors.Join(errs...)
}

// Leftovers lists sentries and file servers whose sandbox is not live. What
// else a sandbox has is in its folder.
func (d *Driver) Leftovers(_ context.Context, live func(name string) bool) ([]sandbox.Leftover, error) {
	var left []sandbox.Leftover
	for _, s := range strays() {
		run := filepath.Dir(s.bundle)
		name := sandbox.Label(filepath.Dir(run))
		if filepath.Base(run) != sandbox.RunDirName || live(name) {
			continue
		}
		left = append(left, sandbox.Leftover{Kind: "runsc", Name: name, Remove: func(context.Context) error { return s.kill() }})
	}
	return left, nil
}
