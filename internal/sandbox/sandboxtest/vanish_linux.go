package sandboxtest

import (
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/berthdev/berth/internal/sandbox"
)

// optional are steps without which a session runs with the same promises:
// terminals, a second line against user namespaces, which are refused by
// the filter and tried, and a flag of what is /dev/null.
var optional = []string{"step pts /dev/pts", "step bind /dev/tty", "step no users", "flag read-only of /proc/keys"}

// testVanishing has each step of enforcement fail, and those that make a
// namespace, a cgroup or a container go missing without a word. The session
// is refused, and leaves nothing. namespaces' own tests do so with all.
func testVanishing(t *testing.T, d sandbox.Driver) {
	dir := t.TempDir()
	limits := sandbox.Limits{CPU: 1, Memory: 256 << 20, PIDs: 100, OpenFiles: 100}
	limits.Required = limits.Of(d.Capabilities().Limits...)
	k, err := sandbox.NewKeeper(sandbox.KeeperConfig{Driver: d, Dir: dir, Spec: sandbox.Spec{Limits: limits}})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
	open := func(fault func(string) error) error {
		undo := sandbox.SetFault(fault)
		h, _, err := k.Open(t.Context(), "sesn_vanish")
		undo()
		if err != nil {
			return err
		}
		return h.Close(t.Context(), true)
	}
	var mu sync.Mutex
	var steps []string
	if err := open(func(step string) error {
		mu.Lock()
		defer mu.Unlock()
		if step = strings.TrimSpace(step); !slices.Contains(steps, step) {
			steps = append(steps, step)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(steps) == 0 {
		t.Fatal("there is no step to fail")
	}
	boom := errors.New("a test has it fail")
	grouped := slices.Contains(limits.Required, sandbox.LimitMemory)
	refused := 0
	for _, step := range steps {
		faults := map[string]error{"fails": boom}
		if kind, _, _ := strings.Cut(step, " "); kind != "step" && kind != "flag" && kind != "seal" && (kind != "cgroup" || grouped) {
			faults["is skipped"] = sandbox.ErrSkip
		}
		for how, fault := range faults {
			err := open(func(s string) error {
				if strings.TrimSpace(s) == step {
					return fault
				}
				return nil
			})
			switch {
			case err != nil:
				refused++
			case !slices.Contains(optional, step):
				t.Errorf("%s %s: the session is not refused", step, how)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
				t.Errorf("%s %s: %v is left, %v", step, how, entries, err)
			}
		}
	}
	t.Logf("%d steps, %d refusals", len(steps), refused)
}
