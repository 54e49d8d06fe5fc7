package sandbox

import (
	"context"
	"errors"
	"fmt"
)

// Way is a session's way out while its sandbox lives.
type Way interface {
	// Assign gives the way of a sandbox that was started for nobody to a
	// session.
	Assign(session string)
	// Close closes it. Twice is fine.
	Close() error
}

// Ways opens the way out of a sandbox that is about to start, or that was
// taken over: at the socket of an earlier one, if there was one in the spec's
// folder. It completes Spec.Network and Spec.Env.
type Ways func(*Spec) (Way, error)

// outward is a driver whose sandboxes have their ways out with them.
type outward struct {
	Driver
	ways   Ways
	policy string // that the ways follow
}

// attachable is a sandbox that closes its way when it stops.
type attachable interface{ Attach(Way) }

// Start opens the way, and then the sandbox.
func (o outward) Start(ctx context.Context, spec Spec) (Sandbox, error) {
	if spec.Network.Mode != NetworkAllow {
		return o.Driver.Start(ctx, spec)
	}
	if o.ways == nil || !o.Capabilities().Egress {
		return nil, fmt.Errorf("%s has no way to the hosts that the policy allows", o.Name())
	}
	way, err := o.ways(&spec)
	if err != nil {
		return nil, err
	}
	sb, err := o.Driver.Start(ctx, spec)
	if err != nil {
		return nil, errors.Join(err, way.Close())
	}
	return o.attach(ctx, sb, way)
}

// Recover takes a sandbox over and opens its way again. With an error and a
// sandbox that is to be stopped, as is one that follows another policy than
// this worker's: what it may reach is not to change under it.
func (o outward) Recover(ctx context.Context, rec Record) (Sandbox, error) {
	sb, err := o.Driver.Recover(ctx, rec)
	if err != nil {
		return nil, err
	}
	allow := rec.Spec.Network.Mode == NetworkAllow
	if rec.Spec.Policy != o.policy || allow && o.ways == nil {
		return sb, errors.New("it follows another policy")
	}
	if !allow {
		return sb, nil
	}
	spec := rec.Spec
	way, err := o.ways(&spec)
	if err != nil {
		return sb, err
	}
	return o.attach(ctx, sb, way)
}

func (o outward) attach(ctx context.Context, sb Sandbox, way Way) (Sandbox, error) {
	a, ok := sb.(attachable)
	if !ok {
		err := fmt.Errorf("a sandbox of %s cannot keep its way out", o.Name())
		return nil, errors.Join(err, sb.Stop(context.WithoutCancel(ctx)), way.Close())
	}
	a.Attach(way)
	return sb, nil
}

// Leftovers are the driver's own.
func (o outward) Leftovers(ctx context.Context, live func(string) bool) ([]Leftover, error) {
	c, ok := o.Driver.(Cleaner)
	if !ok {
		return nil, nil
	}
	return c.Leftovers(ctx, live)
}
