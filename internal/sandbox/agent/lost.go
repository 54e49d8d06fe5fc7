package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/cgroup"
)

// lostTime is how long an agent has to end when it is told to.
const lostTime = 10 * time.Second

// Lost ends what can be found of a sandbox whose record does not say what it is:
// what clear finds by its label, and every agent that listens in its folder. When
// nobody listens there any more the record is set aside and the error is ErrGone;
// until then it is not, and the sandbox may be alive.
func Lost(ctx context.Context, spec sandbox.Spec, why error, clear func(context.Context) error) error {
	why = fmt.Errorf("%w: %w", sandbox.ErrRecord, why)
	err := clear(ctx)
	walk := filepath.WalkDir(spec.Dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case path == spec.Tree:
			return fs.SkipDir
		case path == sandbox.SocketPath(filepath.Dir(path)):
			return silence(ctx, filepath.Dir(path))
		}
		return nil
	})
	if err := errors.Join(err, walk); err != nil {
		return fmt.Errorf("%w; what runs of it cannot be ended: %w", why, err)
	}
	return errors.Join(sandbox.ErrGone, why, HideView(spec), sandbox.SetAside(spec.Dir), sandbox.Sweep(spec.Dir))
}

// silence tells the agent in a directory to end, until nobody listens there.
func silence(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, lostTime)
	defer cancel()
	end, err := agentwire.Append(nil, agentwire.KindEnd, nil)
	if err != nil {
		return err
	}
	for {
		c, err := dial(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
			return nil
		case err == nil:
			t, _ := ctx.Deadline()
			_ = c.SetDeadline(t)
			_, _ = c.Write(end)
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("somebody listens at %s and does not end; kill whom fuser names there", sandbox.SocketPath(dir)), err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// ClearGroups ends all that runs in the groups of a label, and removes them.
func ClearGroups(label string) error {
	groups, err := cgroup.Leftovers(label)
	for _, g := range groups {
		if g.Name() == label { // and no longer name that begins with it
			err = errors.Join(err, g.Kill(), g.Remove())
		}
	}
	return err
}
