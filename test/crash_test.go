package test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/client"
	"github.com/berthdev/berth/test/testenv"
)

// eachStore runs a test on SQLite and on PostgreSQL.
func eachStore(t *testing.T, test func(t *testing.T, o testenv.Options)) {
	t.Run("sqlite", func(t *testing.T) { test(t, testenv.Options{}) })
	t.Run("postgres", func(t *testing.T) { test(t, testenv.Options{Postgres: true}) })
}

// checkLog fails the test for every fault of a session's log.
func checkLog(t *testing.T, events []map[string]any) {
	t.Helper()
	found := faults(events)
	for _, f := range found {
		t.Error(f)
	}
	if len(found) > 0 {
		t.Logf("the log:\n%s", testenv.Dump(events))
	}
}

// faults holds a log to what must be true of every log: one accepted result
// for each call, one span end for each start, times in order, nothing twice.
func faults(events []map[string]any) (found []string) {
	fault := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	seen, open, results := map[string]bool{}, map[string]bool{}, map[string]int{}
	var last time.Time
	for _, e := range events {
		id := e["id"].(string)
		if seen[id] {
			fault("%s is listed twice", id)
		}
		seen[id] = true
		if s, _ := e["processed_at"].(string); s != "" {
			at, err := time.Parse(time.RFC3339Nano, s)
			if err != nil {
				fault("%s: %v", id, err)
			}
			if at.Before(last) {
				fault("%s has processed_at %s, before its predecessor's", id, s)
			}
			last = at
		}
		switch e["type"] {
		case "user.tool_result", "agent.tool_result":
			results[e["tool_use_id"].(string)]++
		case "span.model_request_start":
			open[id] = true
		case "span.model_request_end":
			start := e["model_request_start_id"].(string)
			if !open[start] {
				fault("%s ends %s, which is not open", id, start)
			}
			delete(open, start)
		}
	}
	for id := range open {
		fault("%s never ended", id)
	}
	for _, e := range testenv.Of(events, "agent.tool_use") {
		if n := results[e["id"].(string)]; n != 1 {
			fault("%s has %d results, want 1", e["id"], n)
		}
	}
	return found
}

// The server is killed at each step of a turn. After a restart the session
// ends as it would have.
func TestServerKilledAtEachStep(t *testing.T) {
	steps := []string{
		"turn.accepted", "turn.before_model", "turn.during_model", "turn.after_model",
		"turn.after_tool_use", "turn.result_accepted", "turn.before_idle",
	}
	eachStore(t, func(t *testing.T, o testenv.Options) {
		for _, step := range steps {
			for _, nth := range []int{1, 2} {
				if nth == 2 && (step == "turn.accepted" || step == "turn.before_idle") {
					continue // one message, one end
				}
				t.Run(fmt.Sprintf("%s:%d", step, nth), func(t *testing.T) {
					w := testenv.Start(t, o)
					agent := w.Agent()
					session := w.Session(agent)
					w.Server.Kill()
					w.Serve(fmt.Sprintf("%s:%d", step, nth))
					w.Worker("", "--sandbox", "process")

					message := testenv.Script(
						testenv.Say("first", testenv.Bash("echo one >> ran; echo one")),
						testenv.Say("second", testenv.Bash("echo two >> ran; cat ran")),
						testenv.Say("it said {{result 0}}"))
					sent := w.Send(session, message)
					select {
					case <-w.Server.Done():
					case <-time.After(testenv.Patience):
						t.Fatalf("the server was not killed at %s", step)
					}
					w.Serve("")
					if sent.Status == http.StatusOK && len(testenv.Of(w.Events(session), "user.message")) != 1 {
						t.Fatal("an acknowledged message is lost")
					}
					if sent.Status != http.StatusOK && len(testenv.Of(w.Events(session), "user.message")) == 0 {
						w.Send(session, message)
					}
					events := w.Ended(session)
					checkLog(t, events)
					if got := testenv.StopReason(events); got != "end_turn" {
						t.Errorf("ended with %s", got)
					}
					results := testenv.Of(events, "user.tool_result")
					if len(results) != 2 {
						t.Fatalf("%d results, want 2:\n%s", len(results), testenv.Dump(events))
					}
					if got := strings.TrimSpace(testenv.Text(results[1])); got != "one\ntwo" {
						t.Errorf("the calls ran as %q, want each once", got)
					}
					var said []string
					for _, e := range testenv.Of(events, "agent.message") {
						said = append(said, testenv.Text(e))
					}
					if want := []string{"first", "second", "it said one\ntwo"}; !slices.Equal(said, want) {
						t.Errorf("the agent said %q, want %q", said, want)
					}
					if n := len(testenv.Of(events, "agent.tool_use")); n != 2 || len(testenv.Of(events, "user.message")) != 1 {
						t.Errorf("something is doubled:\n%s", testenv.Dump(events))
					}
					checkFrames(t, w, session, events)
				})
			}
		}
	})
}

// checkFrames reads a session's stream from its beginning: each event of the log
// is there, and the frames' numbers rise.
func checkFrames(t *testing.T, w *testenv.World, session string, events []map[string]any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Patience)
	defer cancel()
	stream, err := client.New(w.BaseURL, client.APIKey(w.APIKey), nil).Stream(ctx, session, client.StreamOptions{LastEventID: "0"})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	missing := map[string]bool{}
	for _, e := range events {
		missing[e["id"].(string)] = true
	}
	for last := 0; len(missing) > 0; {
		e, err := stream.Next()
		if err != nil {
			t.Fatalf("%d events are not in the stream: %v", len(missing), err)
		}
		delete(missing, e.Head().ID)
		n, err := strconv.Atoi(stream.LastEventID())
		if err != nil || n <= last {
			t.Errorf("frame %q follows frame %d", stream.LastEventID(), last)
		}
		last = n
	}
}

// A worker is killed, or replaced by another one, while a command runs. The
// next one on the same directory goes on: the command ends as itself, in its
// own shell, and the item is the one it was.
func TestTheNextWorkerGoesOn(t *testing.T) {
	for _, replaced := range []bool{false, true} {
		t.Run(map[bool]string{false: "killed", true: "replaced"}[replaced], func(t *testing.T) {
			w := testenv.Start(t, testenv.Options{})
			state := t.TempDir()
			first := w.WorkerIn(state, "", "--sandbox", "namespaces")
			session := w.Session(w.Agent(), testenv.Script(
				testenv.Say("a variable", testenv.Bash("mine=kept; echo ran >> ran; mkfifo gate; echo there > at; read < gate; echo $mine; cat ran")),
				testenv.Say("the same shell", testenv.Bash("echo $mine")), testenv.Say("done")))
			workspace := filepath.Join(state, "sandboxes", session, "tree", "workspace")
			w.Until(session, "the command to run", func([]map[string]any) bool {
				_, err := os.Stat(filepath.Join(workspace, "at"))
				return err == nil
			})
			if replaced {
				w.WorkerIn(state, "", "--sandbox", "namespaces", "--replace")
				if code := first.Wait(); code != 0 {
					t.Errorf("the replaced worker ended with %d", code)
				}
			} else {
				first.Kill()
				w.WorkerIn(state, "", "--sandbox", "namespaces")
			}
			// The gate's reader is the command of the first worker.
			gate, err := os.OpenFile(filepath.Join(workspace, "gate"), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer gate.Close()
			if _, err := gate.WriteString("go\n"); err != nil {
				t.Fatal(err)
			}
			events := w.Ended(session)
			checkLog(t, events)
			results := testenv.Of(events, "user.tool_result")
			if len(results) != 2 || testenv.Text(results[0]) != "kept\nran" || testenv.Text(results[1]) != "kept" {
				t.Errorf("the calls said otherwise:\n%s", testenv.Dump(events))
			}
			if items := w.Must("GET", "/v1/environments/"+w.EnvironmentID+"/work", w.EnvKey, nil); len(items.Body["data"].([]any)) != 1 {
				t.Errorf("the item was offered again: %s", items.Raw)
			}
		})
	}
}

// A worker is replaced again and again while sessions play: no call is lost
// and none runs twice.
func TestReplacedAgainAndAgain(t *testing.T) {
	rounds := 4
	if soak {
		rounds = 60
	}
	w := testenv.Start(t, testenv.Options{})
	state := t.TempDir()
	worker := w.WorkerIn(state, "", "--sandbox", "namespaces")
	agent := w.Agent()
	var ids []string
	call := func(n int) map[string]any { return testenv.Bash(fmt.Sprintf("echo %d >> ran; sleep 0.2", n)) }
	for range 6 {
		turns := []testenv.Turn{}
		for n := range 3 * rounds {
			turns = append(turns, testenv.Say("next", call(n)))
		}
		ids = append(ids, w.Session(agent, testenv.Script(append(turns, testenv.Say("all", testenv.Bash("sort -n ran | uniq -d; wc -l < ran")), testenv.Say("done"))...)))
	}
	for range rounds {
		// Who does not have the directory yet is not the one that is replaced.
		holder := func() string {
			pid, _ := os.ReadFile(filepath.Join(state, "lock"))
			return strings.TrimSpace(string(pid))
		}
		if !until(testenv.Patience, func() bool { return holder() == strconv.Itoa(worker.PID()) }) {
			t.Fatalf("process %q has the directory, not %d", holder(), worker.PID())
		}
		<-time.After(300 * time.Millisecond)
		next := w.WorkerIn(state, "", "--sandbox", "namespaces", "--replace")
		if code := worker.Wait(); code != 0 {
			t.Fatalf("the replaced worker ended with %d", code)
		}
		worker = next
	}
	for _, id := range ids {
		events := w.UntilWithin(3*testenv.Patience, id, "the end of its turn", func(e []map[string]any) bool {
			r := testenv.StopReason(e)
			return r != "" && r != "requires_action"
		})
		checkLog(t, events)
		results := testenv.Of(events, "user.tool_result")
		if got := testenv.Text(results[len(results)-1]); got != fmt.Sprint(3*rounds) {
			t.Errorf("%s ran its calls as %q, want each once:\n%s", id, got, testenv.Dump(events))
		}
	}
}

// shorten gives the world's environment leases of test length.
func shorten(t *testing.T, w *testenv.World) {
	t.Helper()
	w.Must("POST", "/v1/environments/"+w.EnvironmentID, w.APIKey, map[string]any{"metadata": shortLeases})
}

var shortLeases = map[string]string{"berth.lease_ttl_seconds": "10", "berth.startup_seconds": "10"}
