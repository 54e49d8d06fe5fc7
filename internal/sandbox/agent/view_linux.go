package agent

import (
	"errors"
	"os"
	"syscall"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/view"
)

// errNoView is Recover's reason to give a sandbox up: its view was mounted
// where this process does not see it.
var errNoView = errors.New("agent: the view of its working directory is not mounted here")

// ShowView mounts the private view that a spec asks for in its tree, whose
// working directory exists. The files' owner becomes uid and gid, if those are
// not negative. HideView undoes it.
func ShowView(spec sandbox.Spec, uid, gid int, program *Program) error {
	if spec.View == "" {
		return nil
	}
	return view.Mount(view.Config{
		Lower: spec.View, Tree: spec.Tree, Workdir: spec.Workdir, UID: uid, GID: gid,
		Lend: func(ownerUID, ownerGID int) (*os.File, error) {
			return program.UserNamespace(
				syscall.SysProcIDMap{ContainerID: ownerUID, HostID: uid, Size: 1},
				syscall.SysProcIDMap{ContainerID: ownerGID, HostID: gid, Size: 1})
		},
	})
}

// HideView takes a spec's view away. What was changed in it stays in the tree.
func HideView(spec sandbox.Spec) error {
	if spec.View == "" {
		return nil
	}
	return view.Unmount(spec.Tree, spec.Workdir)
}

// CheckView says whether the view of a recovered sandbox is there.
func CheckView(spec sandbox.Spec) error {
	if spec.View == "" || view.Mounted(spec.Tree, spec.Workdir) {
		return nil
	}
	return errNoView
}
