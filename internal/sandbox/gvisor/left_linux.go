package gvisor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/cgroup"
)

// stray is a process of runsc's, known by its command line, which names its
// bundle.
type stray struct {
	pid    int
	bundle string
	makes  bool // it is the one that makes the others
}

// strays finds all that run on this machine, those that make others first.
func strays() []stray {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil
	}
	var found []stray
	for _, path := range lines {
		b, err := os.ReadFile(path)
		args := strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
		name := filepath.Base(args[0])
		if err != nil || !strings.HasPrefix(name, "runsc") {
			continue
		}
		pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
		s := stray{pid: pid, makes: !strings.HasPrefix(name, "runsc-")}
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
	slices.SortStableFunc(found, func(a, b stray) int {
		switch {
		case a.makes == b.makes:
			return 0
		case a.makes:
			return -1
		}
		return 1
	})
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

// killStrays ends what runs of the sandbox with this directory, and what that
// was about to start.
func killStrays(run string) error {
	var errs []error
	for again := true; again && errors.Join(errs...) == nil; {
		again = false
		for _, s := range strays() {
			if s.bundle == filepath.Join(run, "bundle") {
				again = true
				errs = append(errs, s.kill())
			}
		}
	}
	return errors.Join(errs...)
}

// wipe removes what is left of a sandbox that is gone, or that never came to
// be; group is nil where there is none yet.
func wipe(label string, spec sandbox.Spec, group *cgroup.Group) error {
	var errs []error
	if group != nil {
		errs = append(errs, group.Kill())
	}
	errs = append(errs, killStrays(runDir(spec)))
	if group != nil {
		errs = append(errs, group.Remove())
	}
	roots, err := filepath.Glob(filepath.Join(rootsDir, label+".new-*"))
	errs = append(errs, err)
	for _, dir := range append(roots, stateDir(label)) {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

// Leftovers lists sentries, file servers, control groups and unfinished roots
// whose sandbox is not live. What else a sandbox has its record leads to.
func (d *Driver) Leftovers(_ context.Context, live func(name string) bool) ([]sandbox.Leftover, error) {
	left, err := cgroup.Stale(live)
	for _, s := range strays() {
		run := filepath.Dir(s.bundle)
		name := sandbox.Label(filepath.Dir(run))
		if filepath.Base(run) != sandbox.RunDirName || live(name) {
			continue
		}
		left = append(left, sandbox.Leftover{Kind: "runsc", Name: name, Remove: func(context.Context) error { return s.kill() }})
	}
	roots, _ := filepath.Glob(filepath.Join(rootsDir, "*.new-*"))
	for _, dir := range roots {
		if !live(filepath.Base(dir)) {
			left = append(left, sandbox.Leftover{Kind: "folder", Name: dir, Remove: func(context.Context) error { return os.RemoveAll(dir) }})
		}
	}
	return left, err
}
