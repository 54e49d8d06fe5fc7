package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/lib/environments"
	"github.com/anthropics/anthropic-sdk-go/option"
	"github.com/anthropics/anthropic-sdk-go/packages/param"

	"github.com/berthdev/berth/test/testenv"
	"github.com/berthdev/berth/worker/workertest"
)

// trial is a corpus case on its way: a session of its own in a directory of
// its own.
type trial struct {
	corpusCase
	session string
	dir     string
	got     []string // results, the set-up's left out
}

// bench is a control plane on which cases are tried.
type bench interface {
	queue() (baseURL, environment, key string)
	// play makes a session of the calls.
	play(calls []corpusCall) (session string)
	// results waits for the session's end and gives a result for each call.
	results(session string) []string
}

// atWorkertest tries cases on the control plane in a box.
type atWorkertest struct {
	t     *testing.T
	plane *workertest.Plane
	mu    sync.Mutex
	by    map[string]*workertest.Session
}

func (a *atWorkertest) queue() (string, string, string) {
	return a.plane.URL, workertest.EnvironmentID, workertest.EnvironmentKey
}

func (a *atWorkertest) play(calls []corpusCall) string {
	var turn workertest.Turn
	for _, c := range calls {
		turn.Calls = append(turn.Calls, workertest.Call{Name: c.tool, Input: c.input})
	}
	s := a.plane.Session(turn, workertest.Turn{})
	a.mu.Lock()
	defer a.mu.Unlock()
	a.by[s.ID] = s
	return s.ID
}

func (a *atWorkertest) results(session string) []string {
	a.mu.Lock()
	s := a.by[session]
	a.mu.Unlock()
	a.plane.Wait(a.t, "the session's end", testenv.Patience, s.Done)
	var all []string
	for _, answer := range s.Answers() {
		all = append(all, resultOf(a.t, answer.Raw))
	}
	return all
}

// atServe tries cases on `berth serve`.
type atServe struct {
	t     *testing.T
	world *testenv.World
	agent string
}

func (a *atServe) queue() (string, string, string) {
	return a.world.BaseURL, a.world.EnvironmentID, a.world.EnvKey
}

func (a *atServe) play(calls []corpusCall) string {
	turn := testenv.Turn{}
	var tools []map[string]any
	for _, c := range calls {
		tools = append(tools, map[string]any{"name": c.tool, "input": json.RawMessage(c.input)})
	}
	turn["tools"] = tools
	return a.world.Session(a.agent, testenv.Script(turn, testenv.Say("done")))
}

func (a *atServe) results(session string) []string {
	var all []string
	answers := map[string]string{}
	events := a.world.Ended(session)
	for _, e := range testenv.Of(events, "user.tool_result") {
		raw, err := json.Marshal(e)
		if err != nil {
			a.t.Fatal(err)
		}
		answers[e["tool_use_id"].(string)] = resultOf(a.t, raw)
	}
	for _, e := range testenv.Of(events, "agent.tool_use") {
		all = append(all, answers[e["id"].(string)])
	}
	return all
}

// resultOf is a result's content and whether it is an error, for people.
func resultOf(t *testing.T, raw json.RawMessage) string {
	t.Helper()
	var r struct {
		Content []map[string]any `json:"content"`
		IsError bool             `json:"is_error"`
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		t.Fatalf("a result is no JSON: %v", err)
	}
	var b strings.Builder
	if r.IsError {
		b.WriteString("ERROR ")
	}
	for _, block := range r.Content {
		if text, ok := block["text"].(string); ok && block["type"] == "text" {
			b.WriteString(text)
			continue
		}
		rest, _ := json.Marshal(block)
		fmt.Fprintf(&b, "[%s]", rest)
	}
	return b.String()
}

// try plays every case on a bench with a worker that is started by work, and
// gives the trials in the corpus's order. dir names a case's working
// directory.
func try(t *testing.T, on bench, cases []corpusCase, dir func(corpusCase) string, work func(t *testing.T, dirOf func(session string) string)) []trial {
	var mu sync.Mutex
	trials := make([]trial, len(cases))
	dirs := map[string]string{}
	mu.Lock() // the worker asks for a session's directory when all have theirs
	work(t, func(session string) string {
		mu.Lock()
		defer mu.Unlock()
		return dirs[session]
	})
	for i, c := range cases {
		at := dir(c)
		calls := append([]corpusCall{{tool: "bash", input: mustJSON(map[string]any{"command": "true; " + c.setup})}}, c.calls...)
		for j := range calls {
			calls[j].input = strings.ReplaceAll(calls[j].input, "{{workdir}}", at)
		}
		trials[i] = trial{corpusCase: c, session: on.play(calls), dir: at}
		dirs[trials[i].session] = at
	}
	mu.Unlock()
	for i := range trials {
		r := &trials[i]
		got := on.results(r.session)
		if len(got) != len(r.calls)+1 {
			t.Fatalf("%s: %d results for %d calls: %q", r.name, len(got), len(r.calls)+1, got)
		}
		if strings.HasPrefix(got[0], "ERROR") {
			t.Fatalf("%s: the set-up fails: %s", r.name, got[0])
		}
		for _, g := range got[1:] {
			r.got = append(r.got, strings.ReplaceAll(g, r.dir, "WORKDIR"))
		}
	}
	return trials
}

func mustJSON(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

// officials runs the official worker on a bench: four items at one time, each
// in its own directory.
func officials(on bench) func(*testing.T, func(string) string) {
	return func(t *testing.T, dirOf func(string) string) {
		base, environment, key := on.queue()
		ctx, cancel := context.WithCancel(context.Background())
		client := anthropic.NewClient(option.WithBaseURL(base), option.WithAuthToken(""), option.WithAPIKey(""))
		quiet := slog.New(slog.DiscardHandler)
		idle := 20 * time.Millisecond
		var items sync.WaitGroup
		items.Go(func() {
			poller := environments.NewWorkPoller(ctx, client, environments.WorkPollerOptions{
				EnvironmentID: environment, EnvironmentKey: key, AutoStop: param.NewOpt(false), Logger: quiet,
			})
			defer poller.Close()
			room := make(chan struct{}, 4)
			for {
				room <- struct{}{}
				if !poller.Next() {
					break
				}
				item := *poller.Current()
				items.Go(func() {
					defer func() { <-room }()
					w := environments.NewEnvironmentWorker(client, environments.EnvironmentWorkerOptions{Workdir: dirOf(item.Data.ID), MaxIdle: &idle, Logger: quiet})
					err := w.HandleItem(ctx, environments.HandleItemOptions{
						WorkID: item.ID, EnvironmentID: item.EnvironmentID, SessionID: item.Data.ID, EnvironmentKey: key, WorkSecret: item.Secret,
					})
					if err != nil && ctx.Err() == nil {
						t.Errorf("official worker: %v", err)
					}
				})
			}
			if err := poller.Err(); err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("official poller: %v", err)
			}
		})
		t.Cleanup(func() {
			cancel()
			items.Wait()
		})
	}
}

// berths runs our worker on a bench.
func berths(on bench, sandbox string) func(*testing.T, func(string) string) {
	return func(t *testing.T, _ func(string) string) {
		base, environment, key := on.queue()
		testenv.Run(t, []string{"ANTHROPIC_BASE_URL=" + base, "ANTHROPIC_ENVIRONMENT_ID=" + environment, "ANTHROPIC_ENVIRONMENT_KEY=" + key},
			"worker", "poll", "--state-dir", t.TempDir(), "--sandbox", sandbox, "--max-idle", "20ms", "--max-sessions", "8")
	}
}

// withoutRipgrep is a PATH with every program of this one but rg, so that the
// official grep is its own.
func withoutRipgrep(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, from := range filepath.SplitList(os.Getenv("PATH")) {
		programs, _ := os.ReadDir(from)
		for _, p := range programs {
			if p.Name() != "rg" {
				_ = os.Symlink(filepath.Join(from, p.Name()), filepath.Join(dir, p.Name())) // the first of a name stays
			}
		}
	}
	return dir
}

// TestCorpus has the official worker and ours answer every call of the corpus,
// on both control planes. Their answers are the same but where an improvement
// is named, and there they differ.
func TestCorpus(t *testing.T) {
	planes := []struct {
		name      string
		sandboxes []string
		start     func(*testing.T) bench
	}{
		{"workertest", []string{"namespaces", "process"}, func(t *testing.T) bench {
			return &atWorkertest{t: t, plane: workertest.New(t), by: map[string]*workertest.Session{}}
		}},
		{"serve", []string{"namespaces"}, func(t *testing.T) bench {
			w := testenv.Start(t, testenv.Options{Serve: true})
			return &atServe{t: t, world: w, agent: w.Agent()}
		}},
	}
	for _, p := range planes {
		t.Run(p.name, func(t *testing.T) {
			official := tryOfficial(t, p.start(t), corpus, withoutRipgrep(t))
			if !slices.ContainsFunc(official, endsLines) {
				t.Errorf("the official worker no longer does what %q is better than", noExtraLine.title)
			}
			for _, sandbox := range p.sandboxes {
				ours := tryOurs(t, p.start(t), sandbox, corpus)
				compare(t, official, ours, func(c corpusCall) *improvement { return c.better })
				if i := slices.IndexFunc(ours, endsLines); i >= 0 {
					t.Errorf("%s: an output of ours ends with a line end: %.300q", ours[i].name, ours[i].got)
				}
			}
		})
	}
	t.Run("ripgrep", func(t *testing.T) {
		if _, err := exec.LookPath("rg"); err != nil {
			t.Skip("rg is not here (apt-get install ripgrep)")
		}
		var greps []corpusCase
		for _, c := range corpus {
			if c.name != grepPipe && slices.ContainsFunc(c.calls, func(c corpusCall) bool { return c.tool == "grep" }) {
				greps = append(greps, c)
			}
		}
		compare(t, tryOfficial(t, planes[0].start(t), greps, os.Getenv("PATH")), tryOurs(t, planes[0].start(t), "namespaces", greps), func(c corpusCall) *improvement { return c.betterRG })
	})
}

// endsLines says whether an output of bash ends with a line end.
func endsLines(r trial) bool {
	for j, c := range r.calls {
		if c.tool == "bash" && strings.HasSuffix(r.got[j], "\n") {
			return true
		}
	}
	return false
}

func tryOfficial(t *testing.T, on bench, cases []corpusCase, path string) (trials []trial) {
	t.Run("official", func(t *testing.T) {
		t.Setenv("PATH", path)
		trials = try(t, on, cases, func(corpusCase) string { return t.TempDir() }, officials(on))
	})
	return trials
}

func tryOurs(t *testing.T, on bench, sandbox string, cases []corpusCase) (trials []trial) {
	t.Run(sandbox, func(t *testing.T) {
		trials = try(t, on, cases, func(corpusCase) string { return "/workspace" }, berths(on, sandbox))
	})
	return trials
}

// compare holds the answers of two workers to each other.
func compare(t *testing.T, official, ours []trial, better func(corpusCall) *improvement) {
	t.Helper()
	if len(official) != len(ours) {
		t.Fatalf("%d cases were tried with the official worker and %d with ours", len(official), len(ours))
	}
	for i := range official {
		for j, c := range official[i].calls {
			want, got := settled(c, official[i].got[j]), settled(c, ours[i].got[j])
			switch b := better(c); {
			case b == nil && want != got:
				t.Errorf("%s, call %d, %s %.200s: answers differ\nofficial %s\nours     %s", official[i].name, j, c.tool, c.input, short(want), short(got))
			case b != nil && want == got:
				t.Errorf("%s, call %d, %s %.200s: both answer %s; it is no case of %q any more", official[i].name, j, c.tool, c.input, short(got), b.title)
			}
		}
	}
}

// extraLines are line ends after a command's output, before what is said of
// its end.
var extraLines = regexp.MustCompile(`\n+((?:\nexit code: -?\d+|\n\[timed out\]\nsession restarted after timeout)?)$`)

// settled takes out of a result what no improvement has to be named for: line
// ends after an output (noExtraLine), rg's included, and the order in which
// grep found its lines.
func settled(c corpusCall, result string) string {
	switch c.tool {
	case "bash":
		return strings.Replace(extraLines.ReplaceAllString(result, "$1"), "ERROR \n", "ERROR ", 1)
	case "grep":
		lines := strings.Split(strings.TrimSuffix(result, "\n"), "\n")
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
	return result
}

func short(s string) string {
	if len(s) > 600 {
		return fmt.Sprintf("%q … %d bytes … %q", s[:300], len(s), s[len(s)-300:])
	}
	return fmt.Sprintf("%q", s)
}

// Each tool has its part in the corpus.
func TestCorpusIsLarge(t *testing.T) {
	count, names := map[string]int{}, map[string]bool{}
	for _, c := range corpus {
		if names[c.name] {
			t.Errorf("there are two cases %q", c.name)
		}
		names[c.name] = true
		for _, call := range c.calls {
			count[call.tool]++
		}
	}
	for _, tool := range []string{"bash", "read", "write", "edit", "glob", "grep"} {
		if count[tool] < 20 {
			t.Errorf("%s has %d calls in the corpus", tool, count[tool])
		}
	}
}
