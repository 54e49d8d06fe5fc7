package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/berthdev/berth/toolset"
)

// Trial starts a sandbox in a temporary folder, has it proven, runs a command
// in it and stops it. The receipt is whole also when a check failed.
func Trial(ctx context.Context, d Driver) (r Receipt, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "berth-probe-")
	if err != nil {
		return Receipt{}, err
	}
	defer os.RemoveAll(dir)
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return Receipt{}, err
	}
	sb, err := d.Start(ctx, Spec{SessionID: "probe" + rand.Text(), Dir: dir, Tree: tree})
	if err != nil {
		return Receipt{}, err
	}
	defer func() { err = errors.Join(err, sb.Stop(context.WithoutCancel(ctx))) }()
	if r, err = Prove(ctx, d, sb, true); err != nil {
		return r, err
	}
	res, err := sb.Bash(ctx, toolset.Command{ID: "probe", Text: "echo ok", Timeout: 30 * time.Second})
	if err == nil && (res.End != toolset.Exited || string(res.Head) != "ok\n") {
		err = fmt.Errorf("a command ended as %s with %q", res.End, res.Head)
	}
	return r, err
}
