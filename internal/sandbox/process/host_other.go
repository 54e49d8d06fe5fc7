//go:build !linux

package process

import (
	"errors"
	"syscall"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/cgroup"
)

const (
	recovers       = false
	mountsPossible = false
	runDir         = ""
)

type attributes struct {
	mounts bool
	later  bool
	group  *cgroup.Group
	user   int
}

func (a attributes) sys() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

func mountPlan(sandbox.Spec) ([]agentwire.Step, error) {
	return nil, errors.New("mounts of one's own need Linux")
}

func killMarked(string) {}

func mayView() bool { return false }

func mayReturn() bool { return false }
