package app

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/sandbox/mock"
)

func TestPolicyOfFileAndFlags(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte("limits: {memory: 1GiB, pids: 100}\nnetwork: none\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := readPolicy(config.Policy{PolicyFile: file, Memory: "2GiB", CPUs: "1.5", CallTime: "5m", AllowHost: []string{"a.org"}})
	if err != nil {
		t.Fatal(err)
	}
	if l := p.Limits; l.Memory != 2<<30 || l.PIDs != 100 || l.CPU != 1.5 || len(l.Required) != 4 || len(p.Network.Allow) != 1 {
		t.Errorf("%+v", p)
	}
	for want, c := range map[string]config.Policy{
		`--disk: the value is "much"`: {PolicyFile: file, Disk: "much"},
		`--allow-host: the value`:     {AllowHost: []string{"http://a"}},
		"the policy cannot be read":   {PolicyFile: file + ".not"},
	} {
		_, err := readPolicy(c)
		if ce, ok := errors.AsType[*config.Error](err); !ok || !strings.Contains(ce.Error(), want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// A policy that a driver cannot follow is refused before anything starts.
func TestPolicyThatADriverCannotFollow(t *testing.T) {
	d := mock.New(mock.Knobs{})
	for _, c := range []config.Policy{{Image: "x"}, {AllowHost: []string{"a.org"}}} {
		p, err := readPolicy(c)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = policySpec(t.Context(), p, d, t.TempDir(), slog.New(slog.DiscardHandler))
		if _, ok := errors.AsType[*config.Error](err); !ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
