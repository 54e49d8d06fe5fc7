package app

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/images"
	"github.com/berthdev/berth/internal/policy"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/docker"
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
// that can. Its image is unpacked below images, and stays there until release.
func policySpec(ctx context.Context, p policy.Policy, d sandbox.Driver, in string, log *slog.Logger) (spec sandbox.Spec, release func(), err error) {
	can := d.Capabilities()
	refuse := func(what string) (sandbox.Spec, func(), error) {
		return sandbox.Spec{}, nil, &config.Error{Problem: "the policy asks for " + what + ", which --sandbox " + d.Name() + " cannot give",
			Cure: "choose another --sandbox, or take it out of the policy"}
	}
	switch {
	case p.Image != "" && !can.Images:
		return refuse("an image")
	case p.Network.Mode == sandbox.NetworkAllow && !can.Egress:
		return refuse("hosts to reach")
	case p.Network.Mode == sandbox.NetworkHost && can.Network && !can.HostNet:
		return refuse("the host's network")
	case len(p.Mounts) > 0 && !can.Mounts:
		return refuse("mounts")
	case p.User != (sandbox.User{}) && !can.Users:
		return refuse("a user")
	}
	spec, release = p.Spec(sandbox.Spec{}), func() {}
	if p.Image == "" || d.Name() == docker.Name { // its daemon has images of its own
		return spec, release, nil
	}
	store, err := images.Open(images.Config{Dir: in, Log: log})
	if err != nil {
		return spec, nil, err
	}
	img, err := store.Get(ctx, p.Image)
	if err != nil {
		store.Close()
		if ie, ok := errors.AsType[*images.Error](err); ok {
			err = &Error{Problem: ie.What(), Cure: ie.Cure}
		}
		return spec, nil, err
	}
	spec.Image = &img
	if removed, err := store.Collect(imageAge, nil); err != nil || len(removed) > 0 {
		log.Info("images that nobody has used for long are removed", "digests", removed, "err", err)
	}
	return spec, store.Close, nil
}

// imageAge is how long an image stays that no worker asks for.
const imageAge = 30 * 24 * time.Hour

// unusedImages lists the images of a state directory that no worker holds and
// no sandbox's record names, an hour after they were last asked for.
func unusedImages(state string, log *slog.Logger) ([]sandbox.Leftover, error) {
	if _, err := os.Stat(imagesIn(state)); err != nil {
		return nil, nil
	}
	store, err := images.Open(images.Config{Dir: imagesIn(state), Log: log})
	if err != nil {
		return nil, err
	}
	named := map[string]bool{}
	records, _ := filepath.Glob(filepath.Join(state, "sandboxes", "*")) // no bad pattern
	for _, dir := range records {
		if rec, err := sandbox.ReadRecord(dir); err == nil && rec.Spec.Image != nil {
			named[rec.Spec.Image.Digest] = true
		}
	}
	unused, err := store.Leftovers(time.Hour, func(digest string) bool { return named[digest] })
	var left []sandbox.Leftover
	for _, u := range unused {
		left = append(left, sandbox.Leftover{Kind: "image", Name: u.Name, Remove: func(context.Context) error { return u.Remove() }})
	}
	return left, err
}

// skillsHere is where a state directory has its skills.
func skillsHere(state string) string { return filepath.Join(state, "cache", "skills") }

// imagesIn is where a state directory has its unpacked images.
func imagesIn(state string) string { return filepath.Join(state, "cache", "images") }
