package outputs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/berthdev/berth/internal/sandbox/removal"
)

// replaceInTwo is replace where two names cannot be exchanged: for a moment
// neither is there.
func replaceInTwo(dir, to string) error {
	if err := os.Rename(to, dir+".old"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(dir, to); err != nil {
		return errors.Join(err, os.Rename(dir+".old", to))
	}
	return removal.All(dir + ".old")
}

// Deliver copies a file that was kept in a session's directory to a path of
// somebody's own; missing directories are made. Without over an existing file
// is an error. It shares blocks with the kept one where the file system can.
func Deliver(dir string, f File, to string, over bool) error {
	in, err := os.Open(filepath.Join(dir, filesName, filepath.FromSlash(string(f.Path))))
	if err != nil {
		return fmt.Errorf("outputs: %w", err)
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("outputs: %w", err)
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if over {
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	out, err := os.OpenFile(to, flags, 0o644|f.Mode&0o111)
	if err != nil {
		return fmt.Errorf("outputs: %w", err)
	}
	_, err = io.Copy(out, in)
	if e := out.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("outputs: %w", err)
	}
	return nil
}
