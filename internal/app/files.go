package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/tree"
	"github.com/berthdev/berth/toolset"
)

// outputsDir is where agents are told to leave what they made.
const outputsDir = "/mnt/session/outputs"

// maxInput bounds one --file.
const maxInput = 512 << 20

// input is a file to be copied into a session's working directory.
type input struct{ from, name string }

// readInputs checks the files of a run before anything is started.
func readInputs(files []string) ([]input, error) {
	var inputs []input
	from := map[string]string{}
	for _, f := range files {
		info, err := os.Stat(f)
		switch {
		case err != nil:
			return nil, &config.Error{Problem: "--file " + f + ": " + reason(err), Cure: "name a file that can be read"}
		case !info.Mode().IsRegular():
			return nil, &config.Error{Problem: "--file " + f + " is not a regular file", Cure: "name a file; pack a directory first"}
		case info.Size() > maxInput:
			return nil, &config.Error{Problem: fmt.Sprintf("--file %s is larger than %d MiB", f, maxInput>>20), Cure: "name a smaller one"}
		}
		name := filepath.Base(f)
		if other, ok := from[name]; ok {
			return nil, &config.Error{Problem: fmt.Sprintf("--file %s and %s have the same name", other, f), Cure: "rename one"}
		}
		from[name] = f
		inputs = append(inputs, input{f, name})
	}
	return inputs, nil
}

func reason(err error) string {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err.Error()
	}
	return err.Error()
}

// putInputs opens the session's sandbox and copies the inputs into its
// working directory. The worker then finds the sandbox open.
func (h *workerHalf) putInputs(ctx context.Context, session string, inputs []input) error {
	if len(inputs) == 0 {
		return nil
	}
	held, _, err := h.keeper.Open(ctx, session)
	if err != nil {
		return err
	}
	files := held.Files()
	if files == nil {
		return &config.Error{Problem: "--file does not work with --sandbox " + h.driver, Cure: "use another --sandbox"}
	}
	for _, in := range inputs {
		data, err := os.ReadFile(in.from)
		if err == nil {
			err = files.WriteFile(path.Join(held.Workdir(), in.name), data)
		}
		if err != nil {
			return fmt.Errorf("copy %s into the sandbox: %w", in.from, err)
		}
	}
	return nil
}

// checkOutputs refuses a directory that holds files or cannot be written to,
// before anything is run: a session's outputs are gone with its sandbox.
func checkOutputs(dir string, replace bool) error {
	if dir == "" {
		return nil
	}
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return &config.Error{Problem: "--outputs " + dir + ": " + reason(err), Cure: "name a directory that can be written to"}
	case len(entries) > 0 && !replace:
		return &config.Error{Problem: "--outputs " + dir + " is not empty", Cure: "name another directory, or let files be replaced with --replace"}
	}
	if err := canMake(dir); err != nil {
		return &config.Error{Problem: "--outputs " + dir + ": " + reason(err), Cure: "name a directory that can be written to"}
	}
	return nil
}

// canMake tries whether files can be made in dir, or dir itself where it is
// not there yet, and leaves nothing behind.
func canMake(dir string) error {
	at := filepath.Clean(dir)
	for {
		if _, err := os.Stat(at); !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			break
		}
		at = filepath.Dir(at)
	}
	probe, err := os.MkdirTemp(at, ".berth-")
	if err != nil {
		return err
	}
	return os.Remove(probe)
}

// collectOutputs copies what the session left out of its tree. The sandbox
// has ended; links and special files stay behind.
func collectOutputs(sandboxes, session string, c RunConfig, res *RunResult, w Watcher) error {
	root := filepath.Join(sandboxes, sandbox.Folder(session), "tree")
	if _, err := os.Stat(root); err != nil {
		return nil // no tool was ever called
	}
	t, err := tree.Open(tree.Config{Root: root, UID: -1, GID: -1})
	if err != nil {
		return fmt.Errorf("read the outputs: %w", err)
	}
	defer t.Close()
	dir := c.Outputs
	if dir == "" {
		dir = "outputs-" + session
	}
	var lost error // kept apart: a copy may fail with ErrNotExist as well
	err = t.Walk(context.Background(), outputsDir, func(name string, e toolset.Entry) error {
		rel := strings.TrimPrefix(strings.TrimPrefix(name, outputsDir), "/")
		if rel == "" || e.IsDir() {
			return nil
		}
		if !e.Type().IsRegular() || !filepath.IsLocal(filepath.FromSlash(rel)) {
			w.Note(fmt.Sprintf("left behind, not a regular file: %q", name))
			return nil
		}
		if info, err := e.Info(); err == nil && hollow(info) {
			w.Note(fmt.Sprintf("left behind, %d bytes that are mostly a hole: %q", info.Size(), name))
			return nil
		}
		to := filepath.Join(dir, filepath.FromSlash(rel))
		n, err := copyOut(e, to, c.Replace)
		if err != nil {
			lost = fmt.Errorf("copy %q to %q: %w", name, to, err)
			return lost
		}
		res.Outputs = append(res.Outputs, Output{Path: to, Size: n})
		return nil
	})
	if lost != nil {
		err = lost
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil // the session made no such directory
	}
	if len(res.Outputs) > 0 {
		res.OutputDir = dir
	}
	return err
}

// hollow says of a file that it is long and nearly nothing of it on disk: a
// copy could fill the disk, or never end.
func hollow(info fs.FileInfo) bool {
	const some = 1 << 30
	switch st := info.Sys().(type) {
	case *unix.Stat_t:
		return st.Size > some && st.Blocks < st.Size/512/8
	case *syscall.Stat_t:
		return st.Size > some && st.Blocks < st.Size/512/8
	}
	return false
}

// copyOut copies one output to a new file, or over an old one with replace.
func copyOut(e toolset.Entry, to string, replace bool) (int64, error) {
	in, err := e.Open()
	if err != nil {
		return 0, err
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return 0, err
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if replace {
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	out, err := os.OpenFile(to, flags, 0o644)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(out, in)
	if e := out.Close(); err == nil {
		err = e
	}
	return n, err
}
