package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/tree"
	"github.com/berthdev/berth/internal/stage"
	"github.com/berthdev/berth/worker"
)

// newStager makes what brings inputs into sessions.
func newStager(c config.Inputs, log *slog.Logger) (*stage.Stager, error) {
	s, err := stage.New(stage.Config{
		Roots: c.InputRoot, Buckets: c.InputBucket, MaxBytes: int64(c.InputBytes), Private: c.InputPrivate,
		CA: c.InputCA, S3Endpoint: c.S3Endpoint, Log: log,
	})
	if err != nil {
		return nil, &config.Error{Problem: err.Error(), Cure: "check --input-root and --input-ca"}
	}
	return s, nil
}

// stageInputs brings a session's inputs into its working directory, after the
// directory it is a copy of, unless its tree has had them. A session whose inputs cannot be had is told so.
func (h hosts) stageInputs(ctx context.Context, session api.Session, held *sandbox.Held) error {
	inputs, err := stage.Parse(session.Metadata)
	if err != nil {
		return &worker.OpenError{Text: "the session's metadata names inputs that cannot be understood: " + err.Error(), Final: true}
	}
	if len(inputs) == 0 && h.copied == "" {
		return nil
	}
	files, ok := held.Files().(*tree.Tree)
	if !ok {
		return &worker.OpenError{Text: "the session's metadata names inputs, which sandboxes of this kind cannot have", Final: true}
	}
	there := arrived{held, files, session.ID}
	if there.yes() {
		return nil
	}
	if h.copied != "" {
		if err := h.copyWorkdir(ctx, files, held.Workdir()); err != nil {
			return err
		}
	}
	if len(inputs) == 0 {
		return held.MarkStaged()
	}
	draft, err := files.Draft(held.Workdir())
	if err == nil {
		err = there.with(draft)
	}
	if err != nil {
		return err
	}
	if err := h.stager.Stage(ctx, inputs, draft); err != nil {
		if e, ok := errors.AsType[*stage.Error](err); ok {
			return &worker.OpenError{Text: e.Error(), Final: !e.Passing}
		}
		return err
	}
	return held.MarkStaged()
}

// arrived remembers that a session's files have had its inputs: in its folder,
// or, where they are on another machine and last as long as they do there, by a
// file beside them.
type arrived struct {
	held    *sandbox.Held
	files   *tree.Tree
	session string
}

func (a arrived) yes() bool {
	if !a.files.Far() {
		return a.held.Staged()
	}
	_, err := a.files.Stat(a.mark())
	return err == nil
}

// with has the mark come with a draft.
func (a arrived) with(d *tree.Draft) error {
	if !a.files.Far() {
		return nil
	}
	err := d.Create(a.mark(), 0o444, func(io.Writer) error { return nil })
	if err != nil {
		err = errors.Join(err, d.Drop())
	}
	return err
}

func (a arrived) mark() string {
	sum := sha256.Sum256([]byte(a.session))
	return ".berth-inputs-" + hex.EncodeToString(sum[:6])
}
