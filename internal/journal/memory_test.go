package journal

import (
	"fmt"
	"testing"

	"github.com/berthdev/berth/worker"
)

func TestMemoryRemembersHowFarACallCame(t *testing.T) {
	m, ctx := NewMemory(), t.Context()
	key := worker.CallKey{Session: "s", Call: "c"}
	step := func(want worker.CallState, result string) {
		t.Helper()
		got, err := m.Started(ctx, key)
		if err != nil || got.State != want || string(got.Result) != result {
			t.Fatalf("Started: %+v %v, want %s %q", got, err, want, result)
		}
	}
	step(worker.CallNew, "")
	step(worker.CallStarted, "")
	if err := m.Finished(ctx, key, []byte("r")); err != nil {
		t.Fatal(err)
	}
	step(worker.CallFinished, "r")
	if err := m.Posted(ctx, key); err != nil {
		t.Fatal(err)
	}
	step(worker.CallPosted, "")
	if err := m.Finished(ctx, key, []byte("late")); err != nil {
		t.Fatal(err)
	}
	step(worker.CallPosted, "")
	if got, _ := m.Started(ctx, worker.CallKey{Session: "other", Call: "c"}); got.State != worker.CallNew {
		t.Errorf("another session's call is %s", got.State)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	m, ctx := NewMemory(), t.Context()
	for i := range keepPosted + 10 {
		key := worker.CallKey{Session: "s", Call: fmt.Sprint(i)}
		if _, err := m.Started(ctx, key); err != nil {
			t.Fatal(err)
		}
		if err := m.Posted(ctx, key); err != nil {
			t.Fatal(err)
		}
	}
	if len(m.calls) != keepPosted || len(m.posted) != keepPosted {
		t.Errorf("%d calls, %d posted, want %d", len(m.calls), len(m.posted), keepPosted)
	}
	if got, _ := m.Started(ctx, worker.CallKey{Session: "s", Call: fmt.Sprint(keepPosted + 9)}); got.State != worker.CallPosted {
		t.Errorf("the newest is %s", got.State)
	}
}
