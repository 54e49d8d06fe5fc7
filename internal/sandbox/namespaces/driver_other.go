//go:build !linux

package namespaces

import (
	"context"
	"errors"

	"github.com/berthdev/berth/internal/sandbox"
)

// Driver says that it needs Linux.
type Driver struct{}

var _ sandbox.Driver = (*Driver)(nil)

var errLinux = errors.New("namespaces are a feature of Linux")

// New makes the driver.
func New(Config) *Driver { return &Driver{} }

// Name is "namespaces".
func (d *Driver) Name() string { return Name }

// Probe says no.
func (d *Driver) Probe(context.Context) sandbox.Probe {
	return sandbox.Probe{Reason: errLinux.Error(), Cure: "run the worker on Linux, or choose --sandbox process, which isolates nothing"}
}

// Capabilities are none.
func (d *Driver) Capabilities() sandbox.Capabilities { return sandbox.Capabilities{} }

// Start fails.
func (d *Driver) Start(context.Context, sandbox.Spec) (sandbox.Sandbox, error) { return nil, errLinux }

// Recover finds nothing.
func (d *Driver) Recover(context.Context, sandbox.Record) (sandbox.Sandbox, error) {
	return nil, sandbox.ErrGone
}
