package namespaces_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/sandboxtest"
)

// harmless are steps, or kinds of them, without which a session may run:
// nothing that is promised rests on them alone. Every other one, failed or gone,
// ends in a refusal.
var harmless = map[string]string{
	"skip step private":                 "mounts of another user namespace come in as slaves: none made here is seen outside",
	"skip step dir":                     "a place that is not made is missed, not open",
	"skip step file":                    "an /etc without the file",
	"skip step link":                    "a name that is missing",
	"skip step bind":                    "a part of the host that is not shown, or a place of the session's that is not there",
	"skip step self":                    "the place stays read-only",
	"skip step memory":                  "the pipes lie in /run, which is a mount of its own",
	"skip step pts":                     "no terminals",
	"fail step pts":                     "optional: no terminals",
	"fail step bind /dev/tty":           "optional: no terminal",
	"skip step loopback":                "no loopback either",
	"fail step no users":                "optional: the filter refuses new user namespaces, and that is tried",
	"skip step no users":                "the same",
	"fail flag read-only of /proc/keys": "it is /dev/null",
	"skip flag read-only of /proc/keys": "the same",
	"skip seal undumpable":              "the agent's memory holds no secret; that no tool may trace it is the filter's and the suite's",
	"skip seal keyring":                 "the filter keeps tools from every key, and that is tried",
}

// TestNoStepVanishes has every step of enforcement fail, and go missing
// without a word: the session is refused, and nothing is left of it.
func TestNoStepVanishes(t *testing.T) {
	d := newDriver()
	if p := d.Probe(t.Context()); !p.OK {
		t.Skipf("namespaces cannot be made here: %s (%s)", p.Reason, p.Cure)
	}
	dir := t.TempDir()
	limits := sandbox.Limits{CPU: 1, Memory: 256 << 20, PIDs: 100, OpenFiles: 100}
	if slices.Contains(d.Capabilities().Limits, sandbox.LimitDisk) { // its own, in memory
		limits.Disk = 32 << 20
	}
	k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: d, Dir: dir, Spec: sandbox.Spec{Limits: limits}})
	fixed := []sandbox.Part{{Path: "/mnt/memory/fixed", ReadOnly: true}, {Path: "/data/fixed", ReadOnly: true}}
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Stop(t.Context()) })
	open := func(fault func(string) error) error {
		undo := sandbox.SetFault(fault)
		h, _, err := k.Open(t.Context(), "sesn_fault", fixed...)
		undo()
		if err != nil {
			return err
		}
		if err := h.Close(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		return nil
	}
	var mu sync.Mutex
	var steps []string
	if err := open(func(step string) error {
		mu.Lock()
		defer mu.Unlock()
		steps = append(steps, step)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(steps) < 50 {
		t.Fatalf("only %d steps: %v", len(steps), steps)
	}
	refused := 0
	boom := errors.New("a test has it fail")
	for _, step := range steps {
		for how, fault := range map[string]error{"fail": boom, "skip": sandbox.ErrSkip} {
			err := open(func(s string) error {
				if s == step {
					return fault
				}
				return nil
			})
			if entries, _ := os.ReadDir(dir); len(entries) > 0 {
				t.Errorf("%s %s: %v is left", how, step, entries[0].Name())
				os.RemoveAll(filepath.Join(dir, entries[0].Name()))
			}
			if err != nil {
				if refused++; testing.Verbose() {
					t.Logf("%s %s: %v", how, step, err)
				}
				continue
			}
			grouped := slices.Contains(d.Capabilities().Limits, sandbox.LimitMemory)
			if excuse(how, step) == "" && (grouped || how == "fail" || !strings.HasPrefix(step, "cgroup ")) {
				t.Errorf("%s %s: the session is not refused", how, step)
			}
		}
	}
	t.Logf("%d steps, %d refusals", len(steps), refused)
}

// excuse says why a session may run without a step, "" when it may not.
func excuse(how, step string) string {
	if strings.HasSuffix(step, "/fixed") { // else it could be written to
		return ""
	}
	step = how + " " + strings.TrimSpace(step)
	if why := harmless[step]; why != "" {
		return why
	}
	kind, _, _ := strings.Cut(step, " /")
	return harmless[kind]
}

// TestNoStepVanishesForUsers is the same without root.
func TestNoStepVanishesForUsers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("by design: this is an ordinary user already")
	}
	sandboxtest.AsOrdinaryUser(t, "^TestNoStepVanishes$")
}
