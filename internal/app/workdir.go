package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/tree"
	"github.com/berthdev/berth/internal/stage"
	"github.com/berthdev/berth/worker"
)

// Bounds of a directory that each session gets a copy of.
const (
	maxCopyBytes = 2 << 30
	maxCopyFiles = 200_000
)

// setWorkdir fits the pattern of sandboxes to the working directory. copied is
// a directory of which each session's tree gets a copy: its view where private
// views cannot be mounted; "" for none.
func setWorkdir(ctx context.Context, c config.Engine, spec *sandbox.Spec, d sandbox.Driver, boxes string, log *slog.Logger) (copied string, err error) {
	spec.Workdir = "/workspace"
	if c.Workdir == "" || c.Workdir == "/workspace" {
		return "", nil
	}
	dir, err := filepath.Abs(c.Workdir)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(dir)
	there := err == nil && info.IsDir()
	spec.Workdir = dir
	switch {
	case c.WorkdirMode == "share" && !there:
		return "", &config.Error{Problem: "--workdir " + dir + " cannot be shared: it is no directory here", Cure: "name one that is there"}
	case c.WorkdirMode == "share":
		spec.Share = dir
		return "", nil
	case !there:
		return "", nil
	}
	why := errors.New("--sandbox " + d.Name() + " has no views of a directory for this user")
	if d.Capabilities().View {
		trial := sandbox.Spec{Dir: boxes, Workdir: dir, View: dir}
		if why = sandbox.Try(ctx, d, trial); why == nil {
			spec.View = dir
			return "", nil
		}
	}
	cure := "run as root where overlays can be mounted, use --workdir-mode share, or a path that does not exist"
	if !d.Capabilities().Tree {
		return "", &config.Error{Problem: fmt.Sprintf("--workdir %s exists, and sessions cannot have views of it: %v", dir, why), Cure: cure}
	}
	if err := measure(dir); err != nil {
		return "", &config.Error{Problem: fmt.Sprintf("--workdir %s cannot be shown as a view (%v), and is no directory to copy for each session: %v", dir, why, err), Cure: cure}
	}
	log.Info("each session gets a copy of the working directory", "workdir", dir, "why", why)
	return dir, nil
}

// measure refuses a directory that is too much to copy.
func measure(dir string) error {
	var bytes, files int64
	return filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() {
			bytes += info.Size()
		}
		if files++; files > maxCopyFiles || bytes > maxCopyBytes {
			return fmt.Errorf("it has more than %d files or %d bytes", maxCopyFiles, int64(maxCopyBytes))
		}
		return nil
	})
}

// copyInto copies a directory into a draft: files, directories and links as
// they are, nothing else.
func copyInto(ctx context.Context, dir string, d stage.Draft) error {
	from, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer from.Close()
	left := int64(maxCopyBytes)
	return fs.WalkDir(from.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case name == ".":
			return nil
		case e.IsDir():
			return d.Dir(name)
		case e.Type()&fs.ModeSymlink != 0:
			target, err := from.Readlink(name)
			if err != nil {
				return err
			}
			return d.Link(name, target)
		case !e.Type().IsRegular():
			return nil
		}
		in, err := from.Open(name)
		if err != nil {
			return err
		}
		defer in.Close()
		info, err := in.Stat()
		if err != nil {
			return err
		}
		if left -= info.Size(); left < 0 {
			return fmt.Errorf("it has grown beyond %d bytes", int64(maxCopyBytes))
		}
		return d.Create(name, info.Mode(), func(to io.Writer) error {
			_, err := io.Copy(to, io.LimitReader(in, info.Size()))
			return err
		})
	})
}

// copyWorkdir brings a copy of the directory into a session's tree.
func (h hosts) copyWorkdir(ctx context.Context, files *tree.Tree, workdir string) error {
	draft, err := files.Draft(workdir)
	if err != nil {
		return err
	}
	defer draft.Drop()
	if err = copyInto(ctx, h.copied, draft); err == nil {
		err = draft.Publish()
	}
	if err == nil || ctx.Err() != nil {
		return err
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = fmt.Errorf("%s: %w", filepath.Base(pe.Path), pe.Err)
	}
	return &worker.OpenError{Text: "the working directory could not be copied for this session: " + err.Error()}
}
