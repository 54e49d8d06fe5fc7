package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/tree"
	"github.com/berthdev/berth/toolset"
)

// Bounds of what is fetched of a session's outputs.
const (
	maxFiles = 100_000
	maxBytes = 16 << 30
	// fetchTime bounds the fetching at a session's end.
	fetchTime = 2 * time.Minute
)

// fetch copies the session's outputs to its tree on this machine, in the place
// of what an earlier sandbox has left there. The copy is whole before the old
// goes: both may be the same, where the command shows the tree at the far side.
func fetch(ctx context.Context, spec sandbox.Spec, files *tree.Tree) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	if _, err := files.Stat(outputs); err != nil {
		return nil // there are none, or nobody is there to ask
	}
	fresh, dir := filepath.Join(spec.Dir, sandbox.RunDirName), filepath.Join(spec.Tree, outputs)
	if err := os.MkdirAll(fresh, 0o755); err != nil {
		return err
	}
	if err := copyTo(ctx, files, fresh); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	return os.Rename(fresh, dir)
}

// copyTo copies the outputs to a directory.
func copyTo(ctx context.Context, files *tree.Tree, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	count, left := 0, int64(maxBytes)
	return files.Walk(ctx, outputs, func(name string, e toolset.Entry) error {
		rel := strings.TrimPrefix(name, outputs+"/")
		if count++; count > maxFiles {
			return fmt.Errorf("there are more than %d files", maxFiles)
		}
		switch {
		case e.IsDir():
			return root.MkdirAll(rel, 0o755)
		case e.Type() != 0:
			return nil
		}
		n, err := fetchFile(root, rel, e, left)
		left -= n
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went meanwhile
		}
		return err
	})
}

func fetchFile(root *os.Root, rel string, e toolset.Entry, left int64) (int64, error) {
	from, err := e.Open()
	if err != nil {
		return 0, err
	}
	defer from.Close()
	mode := fs.FileMode(0o644)
	if info, err := from.Stat(); err == nil {
		mode = info.Mode().Perm() | 0o400
	}
	to, err := root.OpenFile(rel, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(to, io.LimitReader(from, left+1))
	if n > left {
		err = fmt.Errorf("they are larger than %d bytes", int64(maxBytes))
	}
	return n, errors.Join(err, to.Close())
}
