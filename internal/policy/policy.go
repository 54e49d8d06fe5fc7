// Package policy is what a session may use and reach, written in one file or
// given by flags: image, limits, network, secrets, variables, mounts, user. It
// becomes one typed value, and every mistake in it is refused with its place
// and its cure.
package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/berthdev/berth/internal/egress"
	"github.com/berthdev/berth/internal/sandbox"
)

// Policy is a policy that has been checked. It holds no secret, only where
// each is found. The zero value asks for nothing beyond the defaults.
type Policy struct {
	// Image is a reference, as images.Store takes it; "" is the host's programs.
	Image  string         `json:"image,omitempty"`
	Limits sandbox.Limits `json:"limits,omitzero"`
	// Output is how many bytes of a command's output are kept; 0 is the default.
	Output  int               `json:"output,omitempty"`
	Network Network           `json:"network,omitzero"`
	Secrets []Secret          `json:"secrets,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
	Mounts  []sandbox.Mount   `json:"mounts,omitempty"`
	User    sandbox.User      `json:"user,omitzero"`
}

// Network is what a session may reach.
type Network struct {
	Mode  sandbox.NetworkMode `json:"mode,omitempty"`
	Allow []egress.Rule       `json:"allow,omitempty"` // with sandbox.NetworkAllow
}

// Secret is a credential that hosts get and the session does not, and where
// the worker finds its value: one of the two.
type Secret struct {
	egress.Secret
	FromEnv  string `json:"from_env,omitempty"`
	FromFile string `json:"from_file,omitempty"`
}

// Spec is base with the policy in it. The image is named and not yet unpacked,
// the network has no socket yet.
func (p Policy) Spec(base sandbox.Spec) sandbox.Spec {
	s := base
	s.Policy = p.Digest()
	s.Limits = p.Limits
	s.Limits.Required = slices.Clone(p.Limits.Required)
	s.Network.Mode = p.Network.Mode
	s.User = p.User
	s.Mounts = append(slices.Clip(base.Mounts), p.Mounts...)
	if p.Image != "" {
		s.Image = &sandbox.Image{Ref: p.Image}
	}
	if p.Output > 0 {
		s.OutputBytes = p.Output
	}
	if len(p.Env) > 0 {
		s.Env = maps.Clone(base.Env)
		if s.Env == nil {
			s.Env = map[string]string{}
		}
		maps.Copy(s.Env, p.Env)
	}
	return s
}

// Digest names what the policy says, however it was written; "" for the zero
// value. It depends on no secret's value.
func (p Policy) Digest() string {
	b, err := json.Marshal(p) // maps are sorted, so one policy has one text
	if err != nil || string(b) == "{}" {
		return ""
	}
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// maxSecret bounds a file that holds a secret, in bytes.
const maxSecret = 64 << 10

// Egress is the way out that the policy allows, with the secrets' values.
// variable gives the worker's own variables.
func (p Policy) Egress(variable func(name string) (string, bool)) (egress.Rules, error) {
	r := egress.Rules{Allow: slices.Clone(p.Network.Allow)}
	for _, s := range p.Secrets {
		text, err := s.value(variable)
		if err != nil {
			return egress.Rules{}, err
		}
		s.Value = egress.Hide(text)
		r.Secrets = append(r.Secrets, s.Secret)
	}
	if err := r.Check(); err != nil {
		return egress.Rules{}, &Error{"the policy", err.Error(), "correct it where the policy says it is found"}
	}
	return r, nil
}

func (s Secret) value(variable func(string) (string, bool)) (string, error) {
	if s.FromEnv != "" {
		text, ok := variable(s.FromEnv)
		if !ok || text == "" {
			return "", &Error{"secret " + s.Name, "the variable " + s.FromEnv + " is not set", "set it for this program"}
		}
		return text, nil
	}
	text, err := readUpTo(s.FromFile, maxSecret)
	if err != nil {
		return "", &Error{"secret " + s.Name, "its file cannot be read: " + err.Error(), "let this user read " + s.FromFile}
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}
