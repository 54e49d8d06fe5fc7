//go:build !linux

package agent

import (
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/view"
)

// ShowView fails when a view is asked for.
func ShowView(s sandbox.Spec, _, _ int, _ *Program) error { return CheckView(s) }

// HideView has nothing to do.
func HideView(sandbox.Spec) error { return nil }

// CheckView fails when a view is asked for.
func CheckView(s sandbox.Spec) error {
	if s.View == "" {
		return nil
	}
	return view.ErrImpossible
}
