package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/mock"
)

// left is a driver with one thing on the host, of a sandbox that was ready.
type left struct {
	*mock.Driver
	name string
}

func (l left) Leftovers(_ context.Context, live func(string) bool) ([]sandbox.Leftover, error) {
	if live(l.name) {
		return nil, nil
	}
	return []sandbox.Leftover{{Name: l.name}}, nil
}

// TestLeftoversOfAWorkerThatRuns looks while a sandbox goes from session to
// session: what it has on the host is nobody's leftover.
func TestLeftoversOfAWorkerThatRuns(t *testing.T) {
	dir := t.TempDir()
	d := left{mock.New(mock.Knobs{}), sandbox.Label(filepath.Join(dir, "sesn_first"))}
	for i := range 50 {
		if err := os.Mkdir(filepath.Join(dir, fmt.Sprintf("sesn_kept%d", i)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ready := func(i int) string { return filepath.Join(dir, fmt.Sprintf("warm.%d", i)) }
	write := func(at string) error {
		return errors.Join(os.Mkdir(at, 0o700), sandbox.WriteRecord(sandbox.Record{Driver: mock.Name, Label: d.name, Spec: sandbox.Spec{Dir: at}}))
	}
	if err := write(ready(0)); err != nil {
		t.Fatal(err)
	}
	moved := make(chan error)
	for i := range 300 {
		at := filepath.Join(dir, fmt.Sprintf("x.%d", i))
		for _, move := range []func() error{
			func() error { return os.Rename(ready(i), at) },
			func() error { return errors.Join(write(ready(i+1)), os.RemoveAll(at)) },
		} {
			go func() { moved <- move() }()
			l, err := sandbox.Leftovers(t.Context(), dir, []sandbox.Driver{d}, true)
			if err := errors.Join(err, <-moved); err != nil || len(l) != 0 {
				t.Fatalf("%v %v", l, err)
			}
		}
	}
}

// afraid is a driver that cannot be asked.
type afraid struct {
	*mock.Driver
	name  string
	asked *[]string
}

func (a afraid) Name() string { return a.name }

func (a afraid) Recover(context.Context, sandbox.Record) (sandbox.Sandbox, error) {
	*a.asked = append(*a.asked, a.name)
	return nil, errors.New("nobody answers")
}

// TestAbandonedByAnUnknownDriver: what nobody here can end is not called removed,
// though its record cannot be read; without a word of whose it is, all are asked.
func TestAbandonedByAnUnknownDriver(t *testing.T) {
	for driver, want := range map[string]struct{ asked, says string }{
		"elsewhere": {"", `of a driver "elsewhere" that is not here`},
		"one":       {"one", "nobody answers"},
		"":          {"one two", "nobody answers"},
	} {
		dir := t.TempDir()
		at := filepath.Join(dir, "sesn_1")
		err := errors.Join(os.Mkdir(at, 0o700), os.WriteFile(filepath.Join(at, "record.json"), []byte("{"), 0o600))
		if driver != "" {
			err = errors.Join(err, sandbox.WriteReceipt(at, sandbox.Receipt{Session: "sesn_1", Driver: driver, At: time.Now()}))
		}
		if err != nil {
			t.Fatal(err)
		}
		var asked []string
		l, err := sandbox.Abandoned(dir, []sandbox.Driver{afraid{mock.New(mock.Knobs{}), "one", &asked}, afraid{mock.New(mock.Knobs{}), "two", &asked}})
		if err != nil || len(l) != 1 {
			t.Fatalf("%v %v", l, err)
		}
		err = l[0].Remove(t.Context())
		if got := strings.Join(asked, " "); err == nil || !strings.Contains(err.Error(), want.says) || got != want.asked {
			t.Errorf("of %q: %v; asked were %q, not %q", driver, err, got, want.asked)
		}
		if _, err := os.Stat(filepath.Join(at, "record.json")); err != nil {
			t.Errorf("of %q: %v", driver, err)
		}
	}
}

// TestASessionNamedAsATrial keeps its files.
func TestASessionNamedAsATrial(t *testing.T) {
	d, dir := mock.New(mock.Knobs{}), t.TempDir()
	k := keeper(t, d, dir)
	h := open(t, k, "berth-probe-1", false)
	if err := h.Files().WriteFile("f", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	if err := k.LetGo(t.Context()); err != nil {
		t.Fatal(err)
	}
	l, err := sandbox.Abandoned(dir, []sandbox.Driver{d})
	if err != nil || len(l) != 1 {
		t.Fatalf("%v %v", l, err)
	}
	if err := l[0].Remove(t.Context()); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "berth-probe-1", "tree/workspace/f")); string(b) != "kept" {
		t.Errorf("%q %v", b, err)
	}
}
