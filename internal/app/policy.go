package app

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"

	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/policy"
	"github.com/berthdev/berth/internal/sandbox"
)

// readPolicy is the policy that a file and flags give.
func readPolicy(c config.Policy) (policy.Policy, error) {
	var p policy.Policy
	var err error
	if c.PolicyFile != "" {
		if p, err = policy.Read(c.PolicyFile); err != nil {
			return p, policyError(err)
		}
	}
	for _, f := range []struct{ flag, key, text string }{
		{"--image", "image", c.Image}, {"--cpus", "limits.cpu", c.CPUs}, {"--memory", "limits.memory", c.Memory},
		{"--pids", "limits.pids", c.PIDs}, {"--disk", "limits.disk", c.Disk},
		{"--call-time", "limits.call_time", c.CallTime}, {"--session-time", "limits.session_time", c.SessionTime},
	} {
		if f.text == "" {
			continue
		}
		if err := p.Override(f.flag, f.key, f.text); err != nil {
			return p, policyError(err)
		}
	}
	if len(c.AllowHost) > 0 {
		return p, policyError(p.AllowHosts("--allow-host", c.AllowHost))
	}
	return p, nil
}

// policyError makes a policy that cannot be used a setting that cannot.
func policyError(err error) error {
	if pe, ok := errors.AsType[*policy.Error](err); ok {
		return &config.Error{Problem: pe.Where + ": " + pe.Problem, Cure: pe.Cure}
	}
	return err
}

// policySpec is the pattern of sandboxes that follow a policy, for a driver
// that can.
func policySpec(_ context.Context, p policy.Policy, d sandbox.Driver, _ string, _ *slog.Logger) (sandbox.Spec, error) {
	can := d.Capabilities()
	refuse := func(what string) (sandbox.Spec, error) {
		return sandbox.Spec{}, &config.Error{Problem: "the policy asks for " + what + ", which --sandbox " + d.Name() + " cannot give",
			Cure: "choose another --sandbox, or take it out of the policy"}
	}
	switch {
	case p.Image != "" && !can.Images:
		return refuse("an image")
	case p.Network.Mode == sandbox.NetworkAllow && !can.Egress:
		return refuse("hosts to reach")
	}
	return p.Spec(sandbox.Spec{}), nil
}

// imagesIn is where a state directory has its unpacked images.
func imagesIn(state string) string { return filepath.Join(state, "cache", "images") }
