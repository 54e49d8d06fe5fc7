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
	d := left{mock.New(mock.Knobs{}), sandbox.Label(filepath.Join(dir, "warm.0"))}
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
	done, moved := make(chan struct{}), make(chan error, 1)
	go func() {
		var err error
		for i := 0; err == nil; i++ {
			select {
			case <-done:
				moved <- nil
				return
			default:
			}
			at := filepath.Join(dir, fmt.Sprintf("sesn_%d", i))
			err = errors.Join(os.Rename(ready(i), at), write(ready(i+1)), os.RemoveAll(at))
		}
		moved <- err
	}()
	for range 500 {
		if l, err := sandbox.Leftovers(t.Context(), dir, []sandbox.Driver{d}, true); err != nil || len(l) != 0 {
			t.Errorf("%v %v", l, err)
			break
		}
	}
	close(done)
	if err := <-moved; err != nil {
		t.Fatal(err)
	}
}
