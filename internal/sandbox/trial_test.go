package sandbox_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/mock"
)

// deaf is a driver that takes nothing over, and says so when there is no time left.
type deaf struct{ *mock.Driver }

func (deaf) Recover(ctx context.Context, _ sandbox.Record) (sandbox.Sandbox, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestATrialHasItsTime though what another one left cannot be ended.
func TestATrialHasItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		old, at := time.Now().Add(-time.Hour), filepath.Join(dir, "berth-probe.1")
		err := errors.Join(os.Mkdir(at, 0o700), sandbox.WriteRecord(sandbox.Record{Driver: mock.Name, Spec: sandbox.Spec{Dir: at}}), os.Chtimes(at, old, old))
		if err != nil {
			t.Fatal(err)
		}
		if err := sandbox.Try(t.Context(), deaf{mock.New(mock.Knobs{})}, sandbox.Spec{Dir: dir}); err != nil {
			t.Error(err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("there is %v, %v", entries, err)
		}
	})
}
