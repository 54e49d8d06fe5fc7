package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/lib/environments"
	"github.com/anthropics/anthropic-sdk-go/option"
)

// server is a control plane in a process of its own.
type server struct {
	cmd *exec.Cmd
	dir string
	BaseURL,
	APIKey,
	EnvID,
	EnvKey string
	agent string
	http  *http.Client
}

func startServer(ctx context.Context, args ...string) (*server, error) {
	dir, err := os.MkdirTemp("", "berth-bench-")
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DialContext: (&net.Dialer{}).DialContext}}}
	s.cmd = exec.CommandContext(ctx, "bin/berth", append([]string{"dev", "--json", "--addr", "127.0.0.1:0", "--data-dir", dir}, args...)...)
	s.cmd.Stderr = logFile(dir, "server")
	out, err := s.cmd.StdoutPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start bin/berth (make build): %w", err)
	}
	var ready map[string]string
	if err := json.NewDecoder(bufio.NewReader(out)).Decode(&ready); err != nil {
		s.stop()
		return nil, fmt.Errorf("berth dev: %w", err)
	}
	s.BaseURL, s.APIKey, s.EnvID, s.EnvKey = ready["base_url"], ready["api_key"], ready["environment_id"], ready["environment_key"]
	var agent struct{ ID string }
	err = s.call(ctx, "POST", "/v1/agents", map[string]any{
		"name": "bench", "model": "scripted", "tools": []any{map[string]any{"type": "agent_toolset_20260401"}},
	}, &agent)
	s.agent = agent.ID
	return s, err
}

func logFile(dir, name string) io.Writer {
	f, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return io.Discard
	}
	return f
}

func (s *server) stop() {
	end(s.cmd)
	os.RemoveAll(s.dir)
}

func end(cmd *exec.Cmd) {
	if cmd == nil || cmd.Process == nil || cmd.ProcessState != nil {
		return
	}
	cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		cmd.Process.Kill()
		<-done
	}
}

// call makes one call with the API key and decodes its answer.
func (s *server) call(ctx context.Context, method, path string, body, into any) error {
	var in io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return err
		}
		in = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.BaseURL+path, in)
	if err != nil {
		return err
	}
	req.Header.Set("x-api-key", s.APIKey)
	req.Header.Set("content-type", "application/json")
	res, err := s.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %d %s", method, path, res.StatusCode, raw)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(raw, into)
}

// environment makes another queue and a key to it.
func (s *server) environment(ctx context.Context, name string) (id, key string, err error) {
	var env struct{ ID string }
	if err := s.call(ctx, "POST", "/v1/environments", map[string]any{"name": name, "config": map[string]any{"type": "self_hosted"}}, &env); err != nil {
		return "", "", err
	}
	cmd := exec.CommandContext(ctx, "bin/berth", "keys", "create", "--environment", env.ID, "--quiet", "--base-url", s.BaseURL, "--api-key", s.APIKey)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return env.ID, strings.TrimSpace(string(out)), err
}

// ours starts `berth worker poll` on a queue.
func (s *server) ours(ctx context.Context, env, key string, args ...string) (*exec.Cmd, error) {
	state, err := os.MkdirTemp(s.dir, "worker-")
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "bin/berth", append([]string{"worker", "poll", "--state-dir", state}, args...)...)
	cmd.Env = append(os.Environ(), "ANTHROPIC_BASE_URL="+s.BaseURL, "ANTHROPIC_ENVIRONMENT_ID="+env, "ANTHROPIC_ENVIRONMENT_KEY="+key)
	cmd.Stderr = logFile(state, "worker")
	return cmd, cmd.Start()
}

// official starts the official Go SDK's EnvironmentWorker on a queue, with
// its defaults.
func (s *server) official(ctx context.Context, env, key string) (*exec.Cmd, error) {
	dir, err := os.MkdirTemp(s.dir, "official-")
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "official-worker")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "ANTHROPIC_BASE_URL="+s.BaseURL, "ANTHROPIC_ENVIRONMENT_ID="+env, "ANTHROPIC_ENVIRONMENT_KEY="+key)
	cmd.Stderr = os.Stderr
	return cmd, cmd.Start()
}

// deaf is the longest that an idle official worker does not poll after an empty
// one: a fair arrival comes at a random time of its cycle.
const deaf = 4 * time.Second

// manyOfficial starts official workers with a queue each, seen through front.
// One is found polling or deaf by chance, so that few answers say little of the
// median: ask has all of them take one, at random times.
func (s *server) manyOfficial(ctx context.Context, n int, front func() (*server, error)) (ask func(once func(i int, env string) error) error, stop func(), err error) {
	envs := make([]string, n)
	workers := make([]*exec.Cmd, n)
	stop = func() {
		for _, w := range workers {
			end(w)
		}
	}
	for i := range n {
		at, err := front()
		var key string
		if err == nil {
			envs[i], key, err = s.environment(ctx, fmt.Sprintf("official %d", i))
		}
		if err == nil {
			workers[i], err = at.official(ctx, envs[i], key)
		}
		if err != nil {
			stop()
			return nil, nil, err
		}
	}
	return func(once func(i int, env string) error) error {
		return each(n, func(i int) error {
			if err := wait(ctx, rand.N(deaf)); err != nil {
				return err
			}
			return once(i, envs[i])
		})
	}, stop, nil
}

// officialWorker is the far side of official.
func officialWorker() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	worker := environments.NewEnvironmentWorker(
		anthropic.NewClient(option.WithAPIKey(""), option.WithAuthToken("")),
		environments.EnvironmentWorkerOptions{
			EnvironmentID:  os.Getenv("ANTHROPIC_ENVIRONMENT_ID"),
			EnvironmentKey: os.Getenv("ANTHROPIC_ENVIRONMENT_KEY"),
			Logger:         slog.New(slog.DiscardHandler),
		})
	if err := worker.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "official worker:", err)
		return 1
	}
	return 0
}

// session makes a session that plays a script.
func (s *server) session(ctx context.Context, env string, turns ...any) (string, error) {
	raw, err := json.Marshal(map[string]any{"turns": turns})
	if err != nil {
		return "", err
	}
	var made struct{ ID string }
	err = s.call(ctx, "POST", "/v1/sessions", map[string]any{
		"agent": s.agent, "environment_id": env,
		"initial_events": []any{map[string]any{"type": "user.message", "content": []any{
			map[string]any{"type": "text", "text": "```script\n" + string(raw) + "\n```"},
		}}},
	}, &made)
	return made.ID, err
}

// bash is a turn that runs a command; say is one that ends.
func bash(command string) any {
	return map[string]any{"text": "I run it.", "tools": []any{map[string]any{"name": "bash", "input": map[string]any{"command": command}}}}
}

func say(text string) any { return map[string]any{"text": text} }

type event struct {
	ID          string
	Type        string
	ProcessedAt time.Time `json:"processed_at"`
	ToolUseID   string    `json:"tool_use_id"`
	StopReason  struct{ Type string }
	Content     []struct{ Text string }
}

func (e *event) UnmarshalJSON(b []byte) error {
	type plain event
	var v struct {
		plain
		StopReason struct{ Type string } `json:"stop_reason"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	*e = event(v.plain)
	e.StopReason = v.StopReason
	return nil
}

func (e event) ended() bool {
	return e.Type == "session.status_idle" && e.StopReason.Type != "requires_action"
}

func (s *server) events(ctx context.Context, session, query string) ([]event, error) {
	var page struct{ Data []event }
	err := s.call(ctx, "GET", "/v1/sessions/"+session+"/events"+query, nil, &page)
	return page.Data, err
}

// ended waits until the session's turn has ended and gives its log.
func (s *server) ended(ctx context.Context, session string) ([]event, error) {
	if err := s.rests(ctx, session); err != nil {
		return nil, err
	}
	return s.events(ctx, session, "?limit=1000")
}

// rests waits until the session's turn has ended.
func (s *server) rests(ctx context.Context, session string) error {
	rest, err := s.watch(ctx, session)
	if err != nil {
		return err
	}
	return rest()
}

// watch gives a function, to be called once, that waits until the session's turn
// has ended. It opens the stream first and looks at the last event then, so that
// no end is missed.
func (s *server) watch(ctx context.Context, session string) (rest func() error, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer func() {
		if err != nil {
			cancel()
		}
	}()
	req, err := http.NewRequestWithContext(ctx, "GET", s.BaseURL+"/v1/sessions/"+session+"/events/stream", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("x-api-key", s.APIKey)
	res, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	last, err := s.events(ctx, session, "?limit=1&order=desc")
	if err != nil {
		return nil, errors.Join(err, res.Body.Close())
	}
	return func() error {
		defer cancel()
		defer res.Body.Close()
		if len(last) > 0 && last[0].ended() {
			return nil
		}
		in := bufio.NewReader(res.Body)
		for {
			line, err := in.ReadBytes('\n')
			if err != nil {
				return fmt.Errorf("stream of %s: %w", session, err)
			}
			data, ok := bytes.CutPrefix(line, []byte("data: "))
			if !ok || !bytes.Contains(data, []byte(`"session.status_idle"`)) {
				continue
			}
			var e event
			if json.Unmarshal(data, &e) == nil && e.ended() {
				return nil
			}
		}
	}, nil
}

func (s *server) archive(ctx context.Context, session string) error {
	var err error
	for range 50 { // the idle event slightly precedes the status
		if err = s.call(ctx, "POST", "/v1/sessions/"+session+"/archive", map[string]any{}, nil); err == nil {
			return nil
		}
	}
	return err
}

// rss is a process's resident memory in bytes.
func rss(pid int) int64 {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(raw)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			return n << 10
		}
	}
	return 0
}

// cpu is what a process has used so far.
func cpu(pid int) time.Duration {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(raw), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond
}
