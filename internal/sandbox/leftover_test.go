package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

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
