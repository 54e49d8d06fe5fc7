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
	"syscall"
	"time"

	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/outputs"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/removal"
	"github.com/berthdev/berth/internal/sandbox/tree"
)

// maxInput bounds one --file.
const maxInput = 16 << 30

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
			return nil, &config.Error{Problem: fmt.Sprintf("--file %s is larger than %d GiB", f, maxInput>>30), Cure: "name a smaller one"}
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
	files, ok := held.Files().(*tree.Tree)
	if !ok {
		return &config.Error{Problem: "--file does not work with --sandbox " + h.driver, Cure: "use another --sandbox"}
	}
	draft, err := files.Draft(held.Workdir())
	if err != nil {
		return fmt.Errorf("copy files into the sandbox: %w", err)
	}
	defer draft.Drop()
	for _, in := range inputs {
		if err := putFile(draft, in); err != nil {
			return fmt.Errorf("copy %s into the sandbox: %w", in.from, err)
		}
	}
	if err := draft.Publish(); err != nil {
		return fmt.Errorf("copy files into the sandbox: %w", err)
	}
	return nil
}

func putFile(draft *tree.Draft, in input) error {
	from, err := os.Open(in.from)
	if err != nil {
		return err
	}
	defer from.Close()
	info, err := from.Stat()
	if err != nil {
		return err
	}
	return draft.Create(in.name, 0o644|info.Mode()&0o111, func(to io.Writer) error {
		_, err := io.Copy(to, from)
		return err
	})
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

// keepOutputs gives the keeper's hook that keeps what sessions leave in
// STATE/outputs.
func keepOutputs(state string, log *slog.Logger) func(context.Context, string, string) error {
	return func(ctx context.Context, session, dir string) error {
		began := time.Now()
		m, err := collect(ctx, session, dir, outputsOf(state, session))
		switch {
		case err != nil:
			return err
		case m.Collected.Before(began.Add(-time.Second)):
			// nothing new
		default:
			log.Info("outputs kept", "session", session, "files", len(m.Files), "bytes", m.Bytes,
				"left_out", len(m.LeftOut)+m.More, "dir", outputsOf(state, session), "took", time.Since(began).Round(time.Millisecond))
		}
		return nil
	}
}

// forgetOutputs removes what was kept of sessions long enough.
func forgetOutputs(state string, r sandbox.Retain, now time.Time, log *slog.Logger) {
	dir := filepath.Join(state, "outputs")
	past, err := r.Past(dir, now, func(string) bool { return false })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("it cannot be found out which outputs are kept too long", "err", err)
	}
	for _, folder := range past {
		if err := removal.All(filepath.Join(dir, folder)); err != nil {
			log.Warn("outputs that were kept long enough could not be removed", "folder", folder, "err", err)
		}
	}
}

// outputsOf is where a session's outputs are kept.
func outputsOf(state, session string) string {
	return filepath.Join(state, "outputs", sandbox.Folder(session))
}

// empty says that dir is a directory, and no link to one, with nothing in it.
func empty(dir string) bool {
	d, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer d.Close()
	_, err = d.Readdirnames(1)
	return err == io.EOF
}

func collect(ctx context.Context, session, dir, to string) (outputs.Manifest, error) {
	var lost []outputs.LeftOut
	unfetched, err := sandbox.ReadUnfetched(dir)
	if err != nil {
		lost = append(lost, outputs.LeftOut{Path: ".", Reason: err.Error()})
	}
	for _, u := range unfetched {
		lost = append(lost, outputs.LeftOut{Path: outputs.Path(u.Name), Reason: u.Reason})
	}
	root := filepath.Join(dir, "tree")
	if _, err := os.Stat(filepath.Join(root, outputs.Dir)); err != nil && len(lost) == 0 {
		return outputs.Manifest{}, nil // a sandbox without a tree, or one that never started
	}
	if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) && len(lost) == 0 && empty(filepath.Join(root, outputs.Dir)) {
		return outputs.Manifest{}, nil
	}
	t, err := tree.Open(tree.Config{Root: root, UID: -1, GID: -1})
	if err != nil {
		return outputs.Manifest{}, err
	}
	defer t.Close()
	return outputs.Collect(ctx, t, session, to, outputs.Limits{}, lost...)
}

// deliverOutputs copies what was kept of a session to where the run wants it.
func deliverOutputs(state, session string, c RunConfig, res *RunResult, w Watcher) error {
	kept := outputsOf(state, session)
	m, err := outputs.Read(kept)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no tool was ever called, or none left anything
	}
	if err != nil {
		return fmt.Errorf("read the outputs: %w", err)
	}
	for _, l := range m.LeftOut {
		w.Note(fmt.Sprintf("left behind: %q: %s", l.Path, l.Reason))
	}
	if m.More > 0 {
		w.Note(fmt.Sprintf("left behind: %d more", m.More))
	}
	dir := c.Outputs
	if dir == "" {
		dir = "outputs-" + session
	}
	for _, f := range m.Files {
		to := filepath.Join(dir, filepath.FromSlash(string(f.Path)))
		if err := outputs.Deliver(kept, f, to, c.Replace); err != nil {
			return fmt.Errorf("copy %q to %q: %w", f.Path, to, err)
		}
		res.Outputs = append(res.Outputs, Output{Path: to, Size: f.Size, SHA256: f.SHA256})
	}
	if len(res.Outputs) > 0 {
		res.OutputDir = dir
	}
	return nil
}
