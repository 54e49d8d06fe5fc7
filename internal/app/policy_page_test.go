package app

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/mock"
)

// able is a driver's promises by its name, on a machine where nothing starts.
type able struct {
	way
	can sandbox.Capabilities
}

func (a able) Capabilities() sandbox.Capabilities { return a.can }

// TestPolicyPageSaysWhatDriversGive: each driver takes or refuses each key as the
// table in docs/policy.md has it.
func TestPolicyPageSaysWhatDriversGive(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("by design: the drivers are Linux's")
	}
	page, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	mount := t.TempDir()
	keys := map[string]string{
		"`image`": "image: /nowhere/image.tar", "`network.allow`, `secrets`": "network: {allow: [a.org]}", "`network: host`": "network: host",
		"`mounts`": "mounts: [{source: " + mount + ", target: /data}]", "`user`": "user: {name: dev, uid: 1500}",
	}
	var names []string
	rows := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "| "), " | ")
		if cells[0] == "Key" && len(cells) == 6 {
			names = cells[1:]
			continue
		}
		text, is := keys[cells[0]]
		if !is || len(cells) != 6 || names == nil {
			continue
		}
		rows++
		file := filepath.Join(t.TempDir(), "policy.yaml")
		if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := readPolicy(config.Policy{PolicyFile: file})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range drivers(config.Sandbox{}, "", t.TempDir(), slog.New(slog.DiscardHandler)) {
			said := ""
			for i, name := range names {
				if strings.Trim(name, "`") == d.Name() {
					said = cells[i+1]
				}
			}
			_, release, err := policySpec(t.Context(), p, able{way{mock.New(mock.Knobs{}), d.Name()}, d.Capabilities()}, t.TempDir(), slog.New(slog.DiscardHandler))
			if release != nil {
				release()
			}
			wrong, _ := errors.AsType[*config.Error](err)
			refused := wrong != nil && strings.Contains(wrong.Problem, "--sandbox "+d.Name()+" cannot give")
			if said == "" || refused != (said == "no") {
				t.Errorf("%s with %s: the page says %q, the worker %v", d.Name(), text, said, err)
			}
		}
	}
	if rows != len(keys) {
		t.Errorf("the table has %d of %d keys", rows, len(keys))
	}
}
