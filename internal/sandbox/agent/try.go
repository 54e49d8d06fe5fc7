package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

// Try starts a sandbox in a temporary folder, runs a command in it and stops
// it: the honest probe.
func Try(ctx context.Context, d sandbox.Driver) error { return TryWith(ctx, d, sandbox.Spec{}) }

// TryWith is Try with a spec, whose session and places are filled in. The
// folder is made in spec.Dir, if that is set, which is made too.
func TryWith(ctx context.Context, d sandbox.Driver, spec sandbox.Spec) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if spec.Dir != "" {
		if err := os.MkdirAll(spec.Dir, 0o700); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp(spec.Dir, "berth-probe-")
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
	res, err := sb.Bash(ctx, toolset.Command{ID: "probe", Text: "echo ok", Timeout: 30 * time.Second})
	if stop := sb.Stop(context.WithoutCancel(ctx)); stop != nil {
		err = errors.Join(err, stop)
	}
	if err != nil {
		return err
	}
	if res.End != toolset.Exited || string(res.Head) != "ok\n" {
		return fmt.Errorf("a command ended as %s with %q", res.End, res.Head)
	}
	return nil
}
