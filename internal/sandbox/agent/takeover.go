package agent

import (
	"context"
	"errors"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/tree"
)

// OpenTree opens a session's tree, shows the spec's view in it and gives all of
// it to uid and gid; negative ones leave owners as they are. On error nothing
// is shown.
func OpenTree(spec sandbox.Spec, uid, gid int, program *Program) (_ *tree.Tree, err error) {
	files, err := tree.Open(Tree(spec, uid, gid))
	if err != nil {
		return nil, err
	}
	err = ShowView(spec, uid, gid, program)
	if err == nil {
		err = Own(spec, uid, gid)
	}
	if err != nil {
		return nil, errors.Join(err, files.Close(), HideView(spec))
	}
	return files, nil
}

// CloseTree undoes OpenTree; the files stay.
func CloseTree(spec sandbox.Spec, files *tree.Tree) error {
	return errors.Join(files.Close(), HideView(spec))
}

// Reopen opens the tree of a sandbox that is taken over, as OpenTree has it.
func Reopen(spec sandbox.Spec, uid, gid int) func(*Live) (*tree.Tree, error) {
	return func(*Live) (*tree.Tree, error) { return tree.Open(Tree(spec, uid, gid)) }
}

// Takeover is a sandbox that an earlier process has started.
type Takeover struct {
	Spec   sandbox.Spec
	Agent  Handle
	Socket string // the directory of the agent's socket
	Files  func(*Live) (*tree.Tree, error)
	// End ends it while it is alive; Clear removes what is left when it is gone.
	End   func(context.Context, *Live) error
	Clear func(context.Context) error
}

// Take takes the sandbox over. One that is gone is cleared away, one that
// cannot be taken over is ended, as nobody else could: then the error is
// ErrGone. For want of descriptors or memory nothing is ended.
func (t Takeover) Take(ctx context.Context) (*Live, *tree.Tree, error) {
	swept := func(why error) error {
		return errors.Join(sandbox.ErrGone, why, HideView(t.Spec), sandbox.Sweep(t.Spec.Dir))
	}
	live, err := Recover(t.Socket, t.Agent)
	if errors.Is(err, sandbox.ErrGone) {
		return nil, nil, swept(errors.Join(err, t.Clear(ctx)))
	}
	if err != nil {
		return nil, nil, err
	}
	var files *tree.Tree
	if err = CheckView(t.Spec); err == nil {
		files, err = t.Files(live)
	}
	if err == nil {
		return live, files, nil
	}
	if short(err) { // the next try may go better
		live.Close()
		live.Process().Release()
		return nil, nil, err
	}
	end := t.End(ctx, live)
	live.Close()
	live.Process().Release()
	if end != nil {
		return nil, nil, errors.Join(err, end)
	}
	return nil, nil, swept(err)
}
