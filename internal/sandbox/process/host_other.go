//go:build !linux

package process

import (
	"errors"
	"syscall"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
)

const (
	recovers       = false
	mountsPossible = false
	runDir         = ""
)

type attributes struct {
	mounts bool
	group  *group
}

func (a attributes) sys() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

func mountPlan(sandbox.Spec) ([]agentwire.Step, error) {
	return nil, errors.New("mounts of one's own need Linux")
}

// group stands for Linux's cgroup; there is none here.
type group struct{ dir, mark string }

func newGroup(string) *group        { return &group{} }
func oldGroup(dir, _ string) *group { return &group{dir: dir} }
func (g *group) started()           {}
func (g *group) kill()              {}
func (g *group) remove()            {}
