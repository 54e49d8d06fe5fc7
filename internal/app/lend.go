package app

import (
	"context"
	"crypto/rand"
	"errors"
	"path"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/tree"
	"github.com/berthdev/berth/toolset"
	"github.com/berthdev/berth/worker"
)

// lend shows the session directories of this host: as copies in its tree,
// which every driver has, which the file tools see by themselves, and which let
// a sandbox that was kept ready be used. One that cannot be shown is a warning.
func (h hosts) lend(ctx context.Context, o worker.Opening, held *sandbox.Held) {
	files, ok := held.Files().(*tree.Tree)
	for _, m := range o.Mounts {
		at := m.Target
		if !path.IsAbs(at) {
			at = path.Join(held.Workdir(), at)
		}
		err := errors.New("sandboxes of this kind cannot have it")
		if ok {
			err = files.Lend(ctx, m.Source, at)
		}
		if err == nil && files.Far() {
			err = markProgram(ctx, held, at)
		}
		if err == nil {
			continue
		}
		h.log.Warn("a directory cannot be shown to a session", "session", o.Session.ID, "source", m.Source, "at", at, "err", err)
		why := "it could not be copied"
		if errors.Is(err, tree.ErrTaken) {
			why = tree.ErrTaken.Error()
		}
		o.Warn(m.Target + " is missing: " + why)
	}
}

// markProgram makes what lies at a path on another machine readable and
// executable, and nothing else.
func markProgram(ctx context.Context, held *sandbox.Held, at string) error {
	quoted := "'" + strings.ReplaceAll(at, "'", `'\''`) + "'"
	r, err := held.Bash(ctx, toolset.Command{ID: "lend_" + rand.Text(), Text: "find " + quoted + " -type f -exec chmod 555 {} +", Timeout: time.Minute})
	if err == nil && (r.End != toolset.Exited || r.ExitCode != 0) {
		err = errors.New("its modes could not be set: " + string(r.Tail))
	}
	return err
}
