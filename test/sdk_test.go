package test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/lib/environments"
	"github.com/anthropics/anthropic-sdk-go/option"
	"github.com/anthropics/anthropic-sdk-go/packages/param"
	"github.com/berthdev/berth/test/testenv"
	"github.com/google/go-cmp/cmp"
)

func TestMain(m *testing.M) {
	code := m.Run()
	testenv.RemoveBinary()
	os.Exit(code)
}

func sdkMessage(text string) *anthropic.BetaManagedAgentsUserMessageEventParams {
	return &anthropic.BetaManagedAgentsUserMessageEventParams{
		Type: "user.message",
		Content: []anthropic.BetaManagedAgentsUserMessageEventParamsContentUnion{{
			OfText: &anthropic.BetaManagedAgentsTextBlockParam{Type: "text", Text: text},
		}},
	}
}

// The official Go SDK makes everything, sends, lists, streams, counts and stops.
func TestOfficialSDKDrivesTheControlPlane(t *testing.T) {
	w := testenv.Start(t, testenv.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Patience)
	defer cancel()
	sdk := w.SDK()

	env, err := sdk.Beta.Environments.New(ctx, anthropic.BetaEnvironmentNewParams{
		Name:   "from the SDK",
		Config: anthropic.BetaEnvironmentNewParamsConfigUnion{OfSelfHosted: &anthropic.BetaSelfHostedConfigParams{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	agent, err := sdk.Beta.Agents.New(ctx, anthropic.BetaAgentNewParams{
		Name:  "player",
		Model: anthropic.BetaManagedAgentsModelConfigParams{ID: "scripted"},
		Tools: []anthropic.BetaAgentNewParamsToolUnion{{
			OfAgentToolset20260401: &anthropic.BetaManagedAgentsAgentToolset20260401Params{Type: "agent_toolset_20260401"},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	session, err := sdk.Beta.Sessions.New(ctx, anthropic.BetaSessionNewParams{
		Agent:         anthropic.BetaSessionNewParamsAgentUnion{OfString: param.NewOpt(agent.ID)},
		EnvironmentID: env.ID,
		Metadata:      map[string]string{"input_file": "s3://bucket/key"},
	})
	if err != nil {
		t.Fatal(err)
	}

	stream := sdk.Beta.Sessions.Events.StreamEvents(ctx, session.ID, anthropic.BetaSessionEventStreamParams{})
	defer stream.Close()
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	sent, err := sdk.Beta.Sessions.Events.Send(ctx, session.ID, anthropic.BetaSessionEventSendParams{
		Events: []anthropic.BetaManagedAgentsEventParamsUnion{{OfUserMessage: sdkMessage("hello")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(sent.Data) != 1 || sent.Data[0].ID == "" {
		t.Fatalf("send answered %s", sent.RawJSON())
	}
	var streamed []string
	for stream.Next() {
		e := stream.Current()
		if e.JSON.Type.Valid() && e.Type != "" {
			streamed = append(streamed, e.ID)
		}
		if e.Type == "session.status_idle" {
			break
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	var listed []string
	pager := sdk.Beta.Sessions.Events.ListAutoPaging(ctx, session.ID, anthropic.BetaSessionEventListParams{Limit: param.NewOpt(int64(3))})
	for pager.Next() {
		listed = append(listed, pager.Current().ID)
	}
	if err := pager.Err(); err != nil {
		t.Fatal(err)
	}
	// A queued message is streamed twice, listed once.
	if diff := cmp.Diff(listed, unique(streamed)); diff != "" {
		t.Errorf("listed (-) and streamed (+) differ:\n%s", diff)
	}

	stats, err := sdk.Beta.Environments.Work.Stats(ctx, env.ID, anthropic.BetaEnvironmentWorkStatsParams{})
	if err != nil {
		t.Fatal(err)
	}
	if stats.Depth != 1 {
		t.Errorf("depth is %d, want the session's one item", stats.Depth)
	}
	items, err := sdk.Beta.Environments.Work.List(ctx, env.ID, anthropic.BetaEnvironmentWorkListParams{})
	if err != nil {
		t.Fatal(err)
	}
	if len(items.Data) != 1 || items.Data[0].Metadata["input_file"] != "s3://bucket/key" {
		t.Fatalf("work list: %s", items.RawJSON())
	}
	stopped, err := sdk.Beta.Environments.Work.Stop(ctx, items.Data[0].ID, anthropic.BetaEnvironmentWorkStopParams{EnvironmentID: env.ID})
	if err != nil {
		t.Fatal(err)
	}
	if stopped.State != "stopped" {
		t.Errorf("a queued item stopped gracefully is %s", stopped.State)
	}
	if _, err := sdk.Beta.Sessions.Archive(ctx, session.ID, anthropic.BetaSessionArchiveParams{}); err != nil {
		t.Error(err)
	}
	_, err = sdk.Beta.Sessions.Get(ctx, "sesn_01nothing", anthropic.BetaSessionGetParams{})
	var apiErr *anthropic.Error
	if !errors.As(err, &apiErr) || apiErr.StatusCode != 404 || apiErr.RequestID == "" {
		t.Errorf("getting nothing: %v", err)
	}
}

func unique(ids []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, id := range ids {
		if !seen[id] {
			seen[id] = true
			out = append(out, id)
		}
	}
	return out
}

// officialWorker runs the official EnvironmentWorker on the world's queue.
func officialWorker(t *testing.T, w *testenv.World, workdir string, maxIdle time.Duration) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	client := anthropic.NewClient(option.WithBaseURL(w.BaseURL), option.WithAuthToken(""), option.WithAPIKey(""))
	worker := environments.NewEnvironmentWorker(client, environments.EnvironmentWorkerOptions{
		EnvironmentID:  w.EnvironmentID,
		EnvironmentKey: w.EnvKey,
		Workdir:        workdir,
		MaxIdle:        &maxIdle,
		Logger:         slog.New(slog.DiscardHandler),
	})
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("official worker: %v", err)
		}
	})
}

// transcript is a log without what differs from run to run.
func transcript(events []map[string]any) []string {
	names := map[string]string{}
	name := func(id string) string {
		if names[id] == "" {
			names[id] = "event" + string(rune('A'+len(names)))
		}
		return names[id]
	}
	id := regexp.MustCompile(`(sevt|sthr)_[0-9A-Za-z]+`)
	var out []string
	for _, e := range events {
		e = cloned(e)
		delete(e, "processed_at")
		if e["type"] == "session.usage" {
			delete(e, "usage")
		}
		raw, _ := json.Marshal(e)
		out = append(out, id.ReplaceAllStringFunc(string(raw), name))
	}
	return out
}

func cloned(e map[string]any) map[string]any {
	c := map[string]any{}
	for k, v := range e {
		c[k] = v
	}
	return c
}

// interchangeScript has several calls of several tools with results that do
// not depend on whose worker runs them.
func interchangeScript() map[string]any {
	read := func(path string) map[string]any {
		return map[string]any{"name": "read", "input": map[string]any{"file_path": path}}
	}
	return testenv.Script(
		testenv.Say("I look around.", testenv.Bash("echo one; echo two >&2")),
		testenv.Say("I write.", map[string]any{"name": "write", "input": map[string]any{"file_path": "note.txt", "content": "alpha\nbeta\n"}}, read("note.txt")),
		testenv.Say("I edit.", map[string]any{"name": "edit", "input": map[string]any{"file_path": "note.txt", "old_string": "beta", "new_string": "gamma"}}, testenv.Bash("cat note.txt; exit_code=3; (exit $exit_code)")),
		testenv.Say("I look for what is not there.", read("missing.txt"), map[string]any{"name": "grep", "input": map[string]any{"pattern": "nowhere"}}),
		testenv.Say("Silence.", testenv.Bash("true")),
		testenv.Say("The last result was {{result 0}}"),
	)
}

// The same script gives the same transcript through the official worker and
// through ours.
func TestWorkersAreInterchangeable(t *testing.T) {
	play := func(t *testing.T, start func(*testing.T, *testenv.World)) []map[string]any {
		w := testenv.Start(t, testenv.Options{})
		start(t, w)
		session := w.Session(w.Agent(), interchangeScript())
		return w.Ended(session)
	}
	var official, ours []map[string]any
	t.Run("official", func(t *testing.T) {
		official = play(t, func(t *testing.T, w *testenv.World) { officialWorker(t, w, t.TempDir(), time.Second) })
	})
	for _, sandbox := range []string{"process", "namespaces"} {
		t.Run(sandbox, func(t *testing.T) {
			ours = play(t, func(t *testing.T, w *testenv.World) { w.Worker("", "--sandbox", sandbox) })
			want, got := transcript(settle(official)), transcript(settle(ours))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("official (-) and ours (+) differ:\n%s", diff)
			}
		})
	}
}

var newlines = regexp.MustCompile(`\n+`)

// settle takes out of a log the newlines that the official worker's terminal
// adds to every output.
func settle(events []map[string]any) []map[string]any {
	var out []map[string]any
	for _, e := range events {
		e = cloned(e)
		if e["type"] == "user.tool_result" {
			raw, _ := json.Marshal(e["content"])
			var blocks []map[string]any
			json.Unmarshal(raw, &blocks)
			for _, b := range blocks {
				if s, ok := b["text"].(string); ok {
					b["text"] = newlines.ReplaceAllString(strings.TrimRight(s, "\n"), "\n")
				}
			}
			e["content"] = blocks
		}
		out = append(out, e)
	}
	return out
}

// The official WorkPoller gets items, one each, and its automatic stop is
// understood.
func TestOfficialPollerServesOurQueue(t *testing.T) {
	w := testenv.Start(t, testenv.Options{})
	agent := w.Agent()
	want := map[string]bool{}
	for range 3 {
		want[w.Session(agent, testenv.Message("hello"))] = true
	}
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Patience)
	defer cancel()
	client := anthropic.NewClient(option.WithBaseURL(w.BaseURL), option.WithAuthToken(""), option.WithAPIKey(""))
	poller := environments.NewWorkPoller(ctx, client, environments.WorkPollerOptions{
		EnvironmentID:  w.EnvironmentID,
		EnvironmentKey: w.EnvKey,
		Drain:          true,
		Logger:         slog.New(slog.DiscardHandler),
	})
	defer poller.Close()
	for poller.Next() {
		item := poller.Current()
		if !want[item.Data.ID] {
			t.Errorf("polled %s for the second time, or never asked for", item.Data.ID)
		}
		delete(want, item.Data.ID)
		if item.Secret == "" {
			t.Errorf("%s has no secret", item.ID)
		}
	}
	if err := poller.Err(); err != nil {
		t.Fatal(err)
	}
	if len(want) > 0 {
		t.Errorf("never polled: %v", want)
	}
}
