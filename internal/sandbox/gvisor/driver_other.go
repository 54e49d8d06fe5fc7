//go:build !linux

package gvisor

import (
	"context"
	"errors"

	"github.com/berthdev/berth/internal/sandbox"
)

// Driver cannot run here.
type Driver struct{}

// New makes a driver whose Probe says why it cannot run here.
func New(Config) *Driver { return &Driver{} }

// Name is "gvisor".
func (*Driver) Name() string { return Name }

const elsewhere = "gVisor runs on Linux"

// Probe says no.
func (*Driver) Probe(context.Context) sandbox.Probe {
	return sandbox.Probe{Reason: elsewhere, Cure: "run the worker on Linux, for example in a container"}
}

// Capabilities are none.
func (*Driver) Capabilities() sandbox.Capabilities { return sandbox.Capabilities{} }

// Start fails.
func (*Driver) Start(context.Context, sandbox.Spec) (sandbox.Sandbox, error) {
	return nil, errors.New(elsewhere)
}

// Recover finds nothing.
func (*Driver) Recover(context.Context, sandbox.Record) (sandbox.Sandbox, error) {
	return nil, sandbox.ErrGone
}
