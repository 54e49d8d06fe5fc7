package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/berthdev/berth/toolset"
)

const (
	trialPrefix = "berth-probe." // no session's folder begins so
	trialMost   = time.Minute    // what a trial takes, and half of it before for what others left
)

// Try starts a sandbox in a temporary folder, runs a command in it and stops
// it: the honest probe. The spec's session and places are filled in. The folder
// is made in spec.Dir, if that is set, which is made too.
func Try(ctx context.Context, d Driver, spec Spec) error {
	return trial(ctx, d, spec, func(context.Context, Sandbox) error { return nil })
}

// Trial is Try of a sandbox that is proven first. The receipt is whole also
// when a check failed.
func Trial(ctx context.Context, d Driver) (r Receipt, err error) {
	err = trial(ctx, d, Spec{}, func(ctx context.Context, sb Sandbox) (err error) {
		r, err = Prove(ctx, d, sb, true)
		return err
	})
	return r, err
}

func trial(ctx context.Context, d Driver, spec Spec, look func(context.Context, Sandbox) error) (err error) {
	in := spec.Dir
	if in == "" {
		in = os.TempDir()
	} else if err := os.MkdirAll(in, 0o700); err != nil {
		return err
	}
	endTrials(ctx, d, in)
	ctx, cancel := context.WithTimeout(ctx, trialMost)
	defer cancel()
	dir, err := os.MkdirTemp(in, trialPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	spec.SessionID, spec.Dir, spec.Tree = "probe"+rand.Text(), dir, tree
	sb, err := d.Start(ctx, spec)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sb.Stop(context.WithoutCancel(ctx))) }()
	if err := look(ctx, sb); err != nil {
		return err
	}
	res, err := sb.Bash(ctx, toolset.Command{ID: "probe", Text: "echo ok", Timeout: 30 * time.Second})
	if err == nil && (res.End != toolset.Exited || string(res.Head) != "ok\n") {
		err = fmt.Errorf("a command ended as %s with %q", res.End, res.Head)
	}
	return err
}

// endTrials ends what processes that were killed amid a trial left in a
// directory. What it cannot end is left to the next trial.
func endTrials(ctx context.Context, d Driver, in string) {
	ctx, cancel := context.WithTimeout(ctx, trialMost/2)
	defer cancel()
	entries, _ := os.ReadDir(in)
	ended := false
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), trialPrefix) {
			continue
		}
		info, err := e.Info()
		if err != nil || !info.IsDir() || time.Since(info.ModTime()) < 10*trialMost {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
			continue
		}
		if abandon(ctx, filepath.Join(in, e.Name()), []Driver{d}) == nil {
			ended = true
		}
	}
	if !ended {
		return
	}
	left, _ := Leftovers(ctx, in, []Driver{d}, true)
	for _, l := range left {
		_ = l.Remove(ctx)
	}
}
