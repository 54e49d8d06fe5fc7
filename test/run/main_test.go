package main

import (
	"fmt"
	"strings"
	"testing"
)

// TestWhatIsLeftOut: a skipped test is named with its reason and, where it must
// not be, fails the run.
func TestWhatIsLeftOut(t *testing.T) {
	event := func(action, test, output string) string {
		return fmt.Sprintf(`{"Action":%q,"Package":"p","Test":%q,"Output":%q}`, action, test, output)
	}
	skip := func(reason string) []string {
		return []string{event("output", "TestS", "    s_test.go:7: "+reason+"\n"), event("skip", "TestS", "")}
	}
	for _, c := range []struct {
		name           string
		events         []string
		failed, strict bool
		want           int
		says           string
	}{
		{"all passed", []string{event("pass", "TestA", "")}, false, true, 0, "1 passed, 0 failed, 0 skipped"},
		{"left out", skip("needs root"), false, false, 0, "left out:\n  p TestS: needs root\n"},
		{"left out under CI", skip("needs root"), false, true, 1, "CI=true: a test that is left out is a failure"},
		{"left out by design", skip("by design: it is long"), false, true, 0, "  p TestS: by design: it is long\n"},
		{"failed", []string{event("output", "TestF", "why it failed\n"), event("fail", "TestF", "")}, true, false, 1, "--- FAIL: p TestF\nwhy it failed\n"},
		{"a race beside one that passed", []string{event("output", "TestA", "WARNING: DATA RACE\n"), event("pass", "TestA", ""), event("fail", "TestB", "")}, true, false, 1, "--- RACE: p TestA\nWARNING: DATA RACE\n"},
		{"never ended", []string{event("output", "TestH", "last words\n"), event("fail", "", "")}, true, false, 1, "--- NEVER ENDED: p TestH\nlast words\n"},
	} {
		var said strings.Builder
		r := newReport(&said)
		for _, e := range c.events {
			r.read([]byte(e))
		}
		if got := r.close(c.failed, c.strict); got != c.want || !strings.Contains(said.String(), c.says) {
			t.Errorf("%s: ended with %d, want %d; said\n%s", c.name, got, c.want, said.String())
		}
	}
}
