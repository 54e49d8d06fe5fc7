// Package testenv builds a small world from a short description: the real
// binary as a server, real workers beside it, on a real store, and clients
// that talk to them.
package testenv

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
	"github.com/berthdev/berth/internal/store/storetest/pgtest"
)

// Patience bounds every wait on something that must happen.
const Patience = 60 * time.Second

var build struct {
	sync.Once
	path string
	err  error
}

// Binary builds berth once for this test binary and gives its path.
func Binary(t testing.TB) string {
	t.Helper()
	build.Do(func() {
		dir, err := os.MkdirTemp("", "berth-test-bin-")
		if err != nil {
			build.err = err
			return
		}
		build.path = filepath.Join(dir, "berth")
		cmd := exec.Command("go", "build", "-o", build.path, "github.com/berthdev/berth/cmd/berth")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			build.err = fmt.Errorf("build berth: %w\n%s", err, out)
		}
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return build.path
}

// RemoveBinary forgets the build; call it at the end of TestMain.
func RemoveBinary() {
	if build.path != "" {
		os.RemoveAll(filepath.Dir(build.path))
	}
}

// Options describe a world. The zero value is a control plane on SQLite with
// no worker.
type Options struct {
	Postgres bool
	Worker   bool     // with the server's own worker
	Sandbox  string   // of the server's own worker
	Serve    bool     // `berth serve` in place of `berth dev`
	Crash    string   // crash point to arm in the first server
	Args     []string // more flags for the server
	Env      []string // more environment for the server
}

// World is a control plane that can be killed and started again on the same
// data, and the keys to it.
type World struct {
	t    testing.TB
	opts Options
	dir  string
	db   string
	addr string

	Server        *Process
	BaseURL       string
	APIKey        string
	EnvironmentID string
	EnvKey        string
}

// Start starts a world and stops it with the test.
func Start(t testing.TB, o Options) *World {
	t.Helper()
	w := &World{t: t, opts: o, dir: t.TempDir(), addr: address(t)}
	if o.Postgres {
		w.db = pgtest.Database(t)
	}
	w.Serve(o.Crash)
	return w
}

// Dir is the world's data directory.
func (w *World) Dir() string { return w.dir }

// Serve starts the server again on the same data and the same address; crash,
// when not "", arms a crash point.
func (w *World) Serve(crash string) {
	w.t.Helper()
	args := []string{"dev", "--json", "--addr", w.addr, "--data-dir", w.dir}
	if w.db != "" {
		args = append(args, "--database", w.db)
	}
	if w.opts.Serve {
		args[0] = "serve"
	} else if !w.opts.Worker {
		args = append(args, "--no-worker")
	} else if w.opts.Sandbox != "" {
		args = append(args, "--sandbox", w.opts.Sandbox)
	}
	env := append([]string{"BERTH_CRASH_AT=" + crash}, w.opts.Env...)
	w.Server = Run(w.t, env, append(args, w.opts.Args...)...)
	var ready struct {
		BaseURL        string `json:"base_url"`
		APIKey         string `json:"api_key"`
		EnvironmentID  string `json:"environment_id"`
		EnvironmentKey string `json:"environment_key"`
	}
	line := w.Server.FirstLine()
	if err := json.Unmarshal([]byte(line), &ready); err != nil || ready.BaseURL == "" {
		w.t.Fatalf("berth dev: no ready line but %q (%v)\n%s", line, err, w.Server.Log())
	}
	w.BaseURL, w.addr = ready.BaseURL, strings.TrimPrefix(ready.BaseURL, "http://")
	switch {
	case !w.opts.Serve:
		w.APIKey, w.EnvironmentID, w.EnvKey = ready.APIKey, ready.EnvironmentID, ready.EnvironmentKey
	case w.APIKey == "":
		w.APIKey = w.key("--api")
		w.EnvironmentID = w.Must("POST", "/v1/environments", w.APIKey, map[string]any{"name": "default", "config": map[string]any{"type": "self_hosted"}}).String("id")
		w.EnvKey = w.key("--environment", w.EnvironmentID)
	}
}

// key makes a key in the server's database.
func (w *World) key(of ...string) string {
	w.t.Helper()
	args := append([]string{"keys", "create", "-q", "--data-dir", w.dir}, of...)
	if w.db != "" {
		args = append(args, "--database", w.db)
	}
	return strings.TrimSpace(Run(w.t, nil, args...).FirstLine())
}

// Environment is the world with a queue of its own: a new environment with
// these settings, and its key.
func (w *World) Environment(name string, settings map[string]string) *World {
	w.t.Helper()
	own := *w
	own.EnvironmentID = w.Must("POST", "/v1/environments", w.APIKey, map[string]any{
		"name": name, "config": map[string]any{"type": "self_hosted"}, "metadata": settings,
	}).String("id")
	own.EnvKey = w.Must("POST", "/v1/berth/keys", w.APIKey, map[string]any{"type": "environment", "environment_id": own.EnvironmentID}).String("key")
	return &own
}

// SDK is the official client with the API key.
func (w *World) SDK() anthropic.Client {
	return anthropic.NewClient(option.WithBaseURL(w.BaseURL), option.WithAPIKey(w.APIKey))
}

// Worker starts a `berth worker poll` on the world's environment.
func (w *World) Worker(crash string, args ...string) *Process {
	w.t.Helper()
	return w.WorkerIn(w.t.TempDir(), crash, args...)
}

// WorkerIn is Worker with a state directory that it may have used before.
func (w *World) WorkerIn(state, crash string, args ...string) *Process {
	w.t.Helper()
	env := []string{
		"BERTH_CRASH_AT=" + crash,
		"ANTHROPIC_BASE_URL=" + w.BaseURL,
		"ANTHROPIC_ENVIRONMENT_ID=" + w.EnvironmentID,
		"ANTHROPIC_ENVIRONMENT_KEY=" + w.EnvKey,
	}
	return Run(w.t, env, append([]string{"worker", "poll", "--state-dir", state}, args...)...)
}

// Process is a running berth.
type Process struct {
	t    testing.TB
	cmd  *exec.Cmd
	line chan string
	done chan struct{}
	mu   sync.Mutex
	log  bytes.Buffer
}

// Run starts the binary with a clean environment plus env, and ends it with
// the test.
func Run(t testing.TB, env []string, args ...string) *Process {
	t.Helper()
	p := &Process{t: t, line: make(chan string, 1), done: make(chan struct{})}
	p.cmd = exec.Command(Binary(t), args...)
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "TMPDIR=" + os.TempDir()}, env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Stderr = writer(func(b []byte) {
		p.mu.Lock()
		p.log.Write(b)
		p.mu.Unlock()
	})
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		in := bufio.NewReader(out)
		first, _ := in.ReadString('\n')
		p.line <- first
		io.Copy(io.Discard, in)
		p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("berth %s said:\n%s", args[0], p.Log())
		}
	})
	return p
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) { w(b); return len(b), nil }

// FirstLine waits for the process's first line on standard output.
func (p *Process) FirstLine() string {
	p.t.Helper()
	select {
	case l := <-p.line:
		return l
	case <-time.After(Patience):
		p.t.Fatalf("berth printed nothing\n%s", p.Log())
		return ""
	}
}

// Log is what the process has written to standard error so far.
func (p *Process) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// Said waits until the process has written a text to standard error.
func (p *Process) Said(text string) {
	p.t.Helper()
	deadline := time.After(Patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(p.Log(), text) {
		select {
		case <-deadline:
			p.t.Fatalf("berth never said %q\n%s", text, p.Log())
		case <-tick.C:
		}
	}
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to the process.
func (p *Process) Signal(s syscall.Signal) { p.cmd.Process.Signal(s) }

// Kill ends the process at once and waits for it.
func (p *Process) Kill() {
	p.cmd.Process.Kill()
	p.Wait()
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits until the process has ended and gives its exit code, -1 after a
// signal.
func (p *Process) Wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(Patience):
		p.t.Fatalf("berth did not end\n%s", p.Log())
	}
	return p.cmd.ProcessState.ExitCode()
}

// Answer is what an HTTP call gave.
type Answer struct {
	Status int
	Header http.Header
	Body   map[string]any // nil when the body is no JSON object
	Raw    []byte
}

// ErrorType is error.type of an error answer.
func (a Answer) ErrorType() string {
	e, _ := a.Body["error"].(map[string]any)
	s, _ := e["type"].(string)
	return s
}

// Message is error.message of an error answer.
func (a Answer) Message() string {
	e, _ := a.Body["error"].(map[string]any)
	s, _ := e["message"].(string)
	return s
}

// String is a member of the body as a string.
func (a Answer) String(member string) string {
	s, _ := a.Body[member].(string)
	return s
}

// Call makes one plain HTTP call with a bearer, no retries.
func (w *World) Call(method, path, bearer string, body any) Answer {
	w.t.Helper()
	var in io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		in = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			w.t.Fatal(err)
		}
		in = bytes.NewReader(raw)
	}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, w.BaseURL+path, in)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return Answer{}
	}
	defer res.Body.Close()
	a := Answer{Status: res.StatusCode, Header: res.Header}
	a.Raw, _ = io.ReadAll(res.Body)
	json.Unmarshal(a.Raw, &a.Body)
	return a
}

// Must is Call that fails the test unless the answer is 200.
func (w *World) Must(method, path, bearer string, body any) Answer {
	w.t.Helper()
	a := w.Call(method, path, bearer, body)
	if a.Status != http.StatusOK {
		w.t.Fatalf("%s %s: %d %s", method, path, a.Status, a.Raw)
	}
	return a
}

// Agent makes an agent that plays scripts, with the agent toolset and more
// tools.
func (w *World) Agent(tools ...map[string]any) string {
	w.t.Helper()
	all := append([]map[string]any{{"type": "agent_toolset_20260401"}}, tools...)
	return w.Must("POST", "/v1/agents", w.APIKey, map[string]any{"name": "player", "model": "scripted", "tools": all}).String("id")
}

// Turn is one turn of a script.
type Turn map[string]any

// Say is a turn that says something and calls tools.
func Say(text string, tools ...map[string]any) Turn {
	t := Turn{"text": text}
	if len(tools) > 0 {
		t["tools"] = tools
	}
	return t
}

// Bash is a call of the bash tool.
func Bash(command string) map[string]any {
	return map[string]any{"name": "bash", "input": map[string]any{"command": command}}
}

// Script is a message that has the scripted model play turns.
func Script(turns ...Turn) map[string]any {
	raw, _ := json.Marshal(map[string]any{"turns": turns})
	return Message("Play this.\n```script\n" + string(raw) + "\n```")
}

// Message is a user.message.
func Message(text string) map[string]any {
	return map[string]any{"type": "user.message", "content": []map[string]any{{"type": "text", "text": text}}}
}

// Session makes a session of an agent with its first events.
func (w *World) Session(agent string, events ...map[string]any) string {
	w.t.Helper()
	body := map[string]any{"agent": agent, "environment_id": w.EnvironmentID}
	if len(events) > 0 {
		body["initial_events"] = events
	}
	return w.Must("POST", "/v1/sessions", w.APIKey, body).String("id")
}

// Send sends events to a session with the API key.
func (w *World) Send(session string, events ...map[string]any) Answer {
	w.t.Helper()
	return w.Call("POST", "/v1/sessions/"+session+"/events", w.APIKey, map[string]any{"events": events})
}

// Events lists a session's log, all of it.
func (w *World) Events(session string) []map[string]any {
	w.t.Helper()
	var all []map[string]any
	page := ""
	for {
		a := w.Call("GET", "/v1/sessions/"+session+"/events?limit=1000"+page, w.APIKey, nil)
		if a.Status != http.StatusOK {
			return nil
		}
		for _, e := range a.Body["data"].([]any) {
			all = append(all, e.(map[string]any))
		}
		next := a.String("next_page")
		if next == "" {
			return all
		}
		page = "&page=" + next
	}
}

// Until waits until the session's log satisfies a condition and gives it.
func (w *World) Until(session, what string, ok func([]map[string]any) bool) []map[string]any {
	w.t.Helper()
	return w.UntilWithin(Patience, session, what, ok)
}

// UntilWithin is Until with a bound of its own.
func (w *World) UntilWithin(bound time.Duration, session, what string, ok func([]map[string]any) bool) []map[string]any {
	w.t.Helper()
	deadline := time.After(bound)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		events := w.Events(session)
		if ok(events) {
			return events
		}
		select {
		case <-deadline:
			w.t.Fatalf("session %s: waited in vain for %s; its log:\n%s", session, what, Dump(events))
		case <-tick.C:
		}
	}
}

// Ended waits until the session's last event is an idle with a stop reason
// other than requires_action, and gives the log.
func (w *World) Ended(session string) []map[string]any {
	w.t.Helper()
	return w.Until(session, "the end of its turn", func(events []map[string]any) bool {
		r := StopReason(events)
		return r != "" && r != "requires_action"
	})
}

// StopReason is the stop reason of the session's last event when that is a
// session.status_idle, else "".
func StopReason(events []map[string]any) string {
	if len(events) == 0 {
		return ""
	}
	last := events[len(events)-1]
	if last["type"] != "session.status_idle" {
		return ""
	}
	reason, _ := last["stop_reason"].(map[string]any)
	s, _ := reason["type"].(string)
	return s
}

// Of gives the events of a type.
func Of(events []map[string]any, kind string) []map[string]any {
	var some []map[string]any
	for _, e := range events {
		if e["type"] == kind {
			some = append(some, e)
		}
	}
	return some
}

// Text is the text of an event's first text block.
func Text(e map[string]any) string {
	blocks, _ := e["content"].([]any)
	for _, b := range blocks {
		if m, ok := b.(map[string]any); ok && m["type"] == "text" {
			s, _ := m["text"].(string)
			return s
		}
	}
	return ""
}

// Dump is a log for people.
func Dump(events []map[string]any) string {
	var b strings.Builder
	for _, e := range events {
		raw, _ := json.Marshal(e)
		fmt.Fprintf(&b, "  %s\n", raw)
	}
	return b.String()
}
