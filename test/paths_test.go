package test

import (
	"slices"
	"strings"
	"testing"

	"github.com/berthdev/berth/test/testenv"
)

// types gives the event types of a log in order.
func types(events []map[string]any) []string {
	var out []string
	for _, e := range events {
		out = append(out, e["type"].(string))
	}
	return out
}

// Path one of ARCHITECTURE.md, in a sandbox of its own: claimed, run, posted.
func TestPathOneAToolCall(t *testing.T) {
	w := testenv.Start(t, testenv.Options{})
	w.Worker("", "--sandbox", "namespaces")
	session := w.Session(w.Agent(), testenv.Script(
		testenv.Say("I look.", testenv.Bash("pwd; echo made > /mnt/session/outputs/made.txt; cat /mnt/session/outputs/made.txt")),
		testenv.Say("done")))
	events := w.Ended(session)
	checkLog(t, events)
	if got := testenv.Text(testenv.Of(events, "user.tool_result")[0]); strings.TrimSpace(got) != "/workspace\nmade" {
		t.Errorf("the call said %q", got)
	}
}

// Path two of ARCHITECTURE.md: the events of a turn with one call, in order.
func TestPathTwoATurn(t *testing.T) {
	w := testenv.Start(t, testenv.Options{Worker: true, Sandbox: "process"})
	session := w.Session(w.Agent())
	if a := w.Send(session, testenv.Script(testenv.Say("I run it.", testenv.Bash("echo hi")), testenv.Say("it said {{result 0}}"))); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Raw)
	}
	events := w.Ended(session)
	checkLog(t, events)
	var got []string
	for _, kind := range types(events) {
		if !strings.HasPrefix(kind, "session.thread_") {
			got = append(got, kind)
		}
	}
	want := []string{
		"user.message", "session.status_running",
		"span.model_request_start", "agent.message", "agent.tool_use", "span.model_request_end", "session.usage", "session.status_idle",
		"user.tool_result", "session.status_running",
		"span.model_request_start", "agent.message", "span.model_request_end", "session.usage", "session.status_idle",
	}
	if !slices.Equal(got, want) {
		t.Errorf("a turn's events are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	last := testenv.Of(events, "agent.message")[1]
	if got := testenv.Text(last); got != "it said hi" {
		t.Errorf("the agent's last words are %q", got)
	}
}
