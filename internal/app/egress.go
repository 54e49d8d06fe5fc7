package app

import (
	"log/slog"
	"path/filepath"

	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/egress"
	"github.com/berthdev/berth/internal/policy"
	"github.com/berthdev/berth/internal/sandbox"
)

// openEgress is the proxy of the hosts that a policy allows, with the secrets
// that it names; nil when it allows none.
func openEgress(p policy.Policy, state string, log *slog.Logger) (*egress.Proxy, sandbox.Ways, error) {
	if p.Network.Mode != sandbox.NetworkAllow {
		return nil, nil, nil
	}
	taken := map[string]config.Secret{} // two secrets may be one variable
	rules, err := p.Egress(func(name string) (string, bool) {
		v, ok := taken[name]
		if !ok {
			if v, ok = config.Take(name); ok {
				taken[name] = v
			}
		}
		return v.Reveal(), ok
	})
	if err != nil {
		return nil, nil, policyError(err)
	}
	proxy, err := egress.New(egress.Config{Dir: filepath.Join(state, "egress"), Log: log})
	if err != nil {
		return nil, nil, err
	}
	return proxy, func(s *sandbox.Spec) (sandbox.Way, error) {
		way, err := proxy.Session(s.SessionID, filepath.Join(s.Dir, sandbox.EgressDirName), rules)
		if err != nil {
			return nil, err
		}
		s.Network.Socket, s.Network.CA, s.Network.Bundle = way.Socket(), way.CA(), way.Bundle()
		env := rules.Env()
		for name, v := range s.Env {
			env[name] = v
		}
		s.Env = env
		return way, nil
	}, nil
}
