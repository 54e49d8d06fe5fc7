package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
)

// TestSetClock has a record say since when it is a session's: what is left of the
// session's time does not change with the machine's clock from then on.
func TestSetClock(t *testing.T) {
	b := &Box{record: sandbox.Record{
		StartedAt: time.Now().Add(-time.Minute).Round(0), Spec: sandbox.Spec{Limits: sandbox.Limits{SessionTime: time.Hour}},
	}}
	b.arm()
	defer b.deadline.Stop()
	if b.until == b.until.Round(0) { // without a reading of the other clock
		t.Error("it ends at a time of the machine's clock")
	}
	if left := time.Until(b.until); left > 59*time.Minute || left < 58*time.Minute {
		t.Errorf("%v are left", left)
	}
}

// TestReadyBoxesAreNotTimed: the time begins when a session takes one.
func TestReadyBoxesAreNotTimed(t *testing.T) {
	dir := t.TempDir()
	b := &Box{Live: &Live{}, record: sandbox.Record{
		StartedAt: time.Now().Add(-2 * time.Hour), Spec: sandbox.Spec{Dir: filepath.Join(dir, "warm.x"), Limits: sandbox.Limits{SessionTime: time.Hour}},
	}}
	err := os.Mkdir(b.record.Spec.Dir, 0o700)
	if err = errors.Join(err, os.WriteFile(filepath.Join(b.record.Spec.Dir, "unsettled"), []byte("sesn_1"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if b.arm(); b.deadline != nil {
		t.Error("it ends before a session has it")
	}
	if err := b.Assign("sesn_1", filepath.Join(dir, "sesn_1"), ""); err != nil {
		t.Fatal(err)
	}
	if b.deadline == nil {
		t.Fatal("it does not end")
	}
	defer b.deadline.Stop()
	if left := time.Until(b.until); left < 59*time.Minute {
		t.Errorf("%v are left", left)
	}
}
