package test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/test/testenv"
)

// soak says whether this is the long run (make soak).
var soak = os.Getenv("BERTH_SOAK") != ""

// Server and worker are killed again and again at random while sessions play.
// In the end every session has ended its turn, every call has one result, and
// no call ran twice.
func TestChaosLosesNothingAndDoublesNothing(t *testing.T) {
	sessions, kills := 12, 6
	if soak {
		sessions, kills = 300, 120
	}
	eachStore(t, func(t *testing.T, o testenv.Options) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		dice := rand.New(rand.NewPCG(seed, 0))
		w := testenv.Start(t, o)
		shorten(t, w)
		// Not below /tmp, which is each session's own.
		ran, err := os.MkdirTemp("/var/tmp", "berth-chaos-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(ran) })
		state := t.TempDir()
		worker := w.WorkerIn(state, "", "--sandbox", "process")
		agent := w.Agent()
		ids := make([]string, sessions)
		for i := range ids {
			call := func(n int) map[string]any {
				return testenv.Bash(fmt.Sprintf("echo x >> %s/%d-%d; sleep 0.2", ran, i, n))
			}
			ids[i] = w.Session(agent, testenv.Script(
				testenv.Say("one", call(1)), testenv.Say("two", call(2), call(3)), testenv.Say("done")))
		}
		for range kills {
			pause := time.NewTimer(time.Duration(200+dice.IntN(1500)) * time.Millisecond)
			<-pause.C
			if dice.IntN(2) == 0 {
				w.Server.Kill()
				w.Serve("")
			} else {
				worker.Kill()
				worker = w.WorkerIn(state, "", "--sandbox", "process")
			}
		}
		for i, id := range ids {
			events := w.UntilWithin(3*testenv.Patience, id, "the end of its turn", func(e []map[string]any) bool {
				r := testenv.StopReason(e)
				return r != "" && r != "requires_action"
			})
			if got := testenv.StopReason(events); got != "end_turn" {
				t.Errorf("session %d ended with %s:\n%s", i, got, testenv.Dump(events))
			}
			checkLog(t, events)
		}
		files, err := os.ReadDir(ran)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			text, err := os.ReadFile(filepath.Join(ran, f.Name()))
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(text), "x"); n != 1 {
				t.Errorf("call %s ran %d times", f.Name(), n)
			}
		}
	})
}

// The history checker itself finds what it is there to find.
func TestTheCheckerSeesDoctoredLogs(t *testing.T) {
	at := func(s int) string { return time.Unix(int64(s), 0).UTC().Format(time.RFC3339Nano) }
	good := []map[string]any{
		{"id": "a", "type": "span.model_request_start", "processed_at": at(1)},
		{"id": "b", "type": "agent.tool_use", "processed_at": at(2)},
		{"id": "c", "type": "span.model_request_end", "model_request_start_id": "a", "processed_at": at(3)},
		{"id": "d", "type": "user.tool_result", "tool_use_id": "b", "processed_at": at(4)},
	}
	second := map[string]any{"id": "e", "type": "user.tool_result", "tool_use_id": "b", "processed_at": at(5)}
	cases := map[string][]map[string]any{
		"a second result":    append(slices.Clone(good), second),
		"a lost result":      good[:3],
		"a span that stays":  append(slices.Clone(good[:2]), good[3]),
		"an event twice":     append(slices.Clone(good), good[3]),
		"time running back":  {good[0], good[1], good[2], {"id": "d", "type": "user.tool_result", "tool_use_id": "b", "processed_at": at(0)}},
		"an end of no start": append([]map[string]any{good[2]}, good...),
	}
	if !holds(good) {
		t.Error("the good log is refused")
	}
	for name, log := range cases {
		if holds(log) {
			t.Errorf("%s goes unseen", name)
		}
	}
}

// holds says whether checkLog finds nothing to complain of.
func holds(events []map[string]any) bool { return len(faults(events)) == 0 }
