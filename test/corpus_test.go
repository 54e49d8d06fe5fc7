package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
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
func berths(on bench) func(*testing.T, func(string) string) {
	return func(t *testing.T, _ func(string) string) {
		base, environment, key := on.queue()
		sandbox := "namespaces"
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

var _ = slices.Contains[[]string]
var _ = regexp.MustCompile

func TestCorpusDump(t *testing.T) {
	t.Setenv("PATH", withoutRipgrep(t))
	root := t.TempDir()
	os.Chmod(root, 0o755)
	n := 0
	fresh := func(corpusCase) string {
		n++
		d := filepath.Join(root, fmt.Sprint(n))
		os.MkdirAll(d, 0o755)
		return d
	}
	began := time.Now()
	var theirs, ours []trial
	on := &atWorkertest{t: t, plane: workertest.New(t), by: map[string]*workertest.Session{}}
	t.Run("official", func(t *testing.T) { theirs = try(t, on, corpus, fresh, officials(on)) })
	t.Log(time.Since(began))
	on = &atWorkertest{t: t, plane: workertest.New(t), by: map[string]*workertest.Session{}}
	t.Run("ours", func(t *testing.T) {
		ours = try(t, on, corpus, func(corpusCase) string { return "/workspace" }, berths(on))
	})
	t.Log(time.Since(began))
	short := func(s string) string {
		if len(s) > 400 {
			return fmt.Sprintf("%q …(%d) %q", s[:200], len(s), s[len(s)-200:])
		}
		return fmt.Sprintf("%q", s)
	}
	calls := 0
	for i, c := range corpus {
		for j := range c.calls {
			calls++
			a, b := theirs[i].got[j], ours[i].got[j]
			mark := "same"
			if a != b {
				mark = "DIFF"
			}
			fmt.Printf("%s %s/%d %s\n   their %s\n   ours  %s\n", mark, c.name, j, c.calls[j].input[:min(len(c.calls[j].input), 120)], short(a), short(b))
		}
	}
	fmt.Println(calls, "calls")
}
