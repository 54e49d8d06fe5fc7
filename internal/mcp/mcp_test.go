package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/berthdev/berth/toolset"
)

// machine is a host that starts programs on this machine.
type machine struct {
	toolset.Host
	t       *testing.T
	dir     string
	started int
}

func (m *machine) Start(_ context.Context, p toolset.Program) (toolset.Process, error) {
	m.started++
	cmd := exec.Command(p.Args[0], p.Args[1:]...)
	cmd.Dir, cmd.Env = m.dir, []string{"PATH=/usr/bin:/bin"}
	for k, v := range p.Env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	r := &ran{cmd: cmd}
	cmd.Stderr = &r.errs
	var err error
	if r.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if r.out, err = cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	m.t.Cleanup(func() { r.Close() })
	return r, nil
}

type ran struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  io.ReadCloser
	errs strings.Builder
	once sync.Once
}

func (r *ran) Read(p []byte) (int, error) {
	n, err := r.out.Read(p)
	if err == nil || n > 0 {
		return n, nil
	}
	r.once.Do(func() { _ = r.cmd.Wait() })
	return 0, &toolset.ProcessEnd{Code: r.cmd.ProcessState.ExitCode(), Errors: []byte(r.errs.String())}
}
func (r *ran) Write(p []byte) (int, error) { return r.in.Write(p) }
func (r *ran) Close() error                { return syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL) }

// program builds the test server, once.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "mcp")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "server")
	out, err := exec.Command("go", "build", "-o", path, "./testdata/server").CombinedOutput()
	if err != nil {
		err = errors.New(string(out))
	}
	return path, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := program(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

func real(t *testing.T) (*Session, *machine) {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, dir: t.TempDir()}
	s := (&Server{Name: "s", Command: []string{path}, Env: map[string]string{"MINE": "x y"}, Prefix: "s_", Timeout: 2 * time.Minute}).In(m)
	t.Cleanup(s.Close)
	return s, m
}

func want(t *testing.T, s *Session, name, input string, isError bool, text string) {
	t.Helper()
	got, gotError := s.Call(t.Context(), name, []byte(input))
	if len(got) != 1 || gotError != isError || !strings.Contains(got[0].Text, text) {
		t.Errorf("%s %s: %v %.400v, want %v %q", name, input, gotError, got, isError, text)
	}
}

func TestCalls(t *testing.T) {
	s, m := real(t)
	want(t, s, "s_echo", `{"text":"it's \" \\ ü"}`, false, `1 it's " \ ü`)
	want(t, s, "s_echo", `{"text":"again"}`, false, "2 again") // of the same server
	want(t, s, "s_echo", `{"text":7}`, true, "text")
	want(t, s, "s_echo", `[]`, true, "not a JSON object")
	want(t, s, "s_echo", `{"text":"`+strings.Repeat("x", 2<<20)+`"}`, true, "larger than 1024 KiB")
	want(t, s, "s_number", `{}`, false, `{"n":7}`)
	want(t, s, "s_refuse", `{}`, true, "not today")
	want(t, s, "s_none", `{}`, true, `has no tool "none". It has: around, crash, echo`)
	want(t, s, "s_around", `{}`, false, "MINE=x y")
	want(t, s, "s_crash", `{}`, true, "status 3\nall is lost\nThe next call starts it again.")
	want(t, s, "s_echo", `{"text":"back"}`, false, "1 back") // of another server
	want(t, s, "s_grown", `{}`, true, "no tool")
	want(t, s, "s_grow", `{}`, false, "grown")
	for end := time.Now().Add(time.Minute); ; { // the news comes when it comes
		got, isError := s.Call(t.Context(), "s_grown", []byte(`{}`))
		if !isError && got[0].Text == "here" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("a new tool is not seen: %v", got)
		}
		runtime.Gosched()
	}
	if m.started != 2 {
		t.Errorf("%d servers were started", m.started)
	}
}

func TestWhatIsShown(t *testing.T) {
	s, _ := real(t)
	got, isError := s.Call(t.Context(), "s_show", []byte(`{}`))
	if isError || len(got) != 6 {
		t.Fatalf("%v %v", isError, got)
	}
	if got[0].Type != "image" || got[0].Source.MediaType != "image/png" || got[0].Source.Data == "" {
		t.Errorf("image: %+v", got[0])
	}
	if got[4].Type != "document" || got[4].Source.MediaType != "application/pdf" {
		t.Errorf("document: %+v", got[4])
	}
	for i, part := range map[int]string{1: "said to be image/png, 10 bytes", 2: "audio/wav", 3: "[resource file:///a]\ncontent", 5: "[resource file:///c] c a link"} {
		if got[i].Type != "text" || !strings.Contains(got[i].Text, part) {
			t.Errorf("%d: %+v, want %q", i, got[i], part)
		}
	}
}

func TestAnInterruptedCallEndsTheServer(t *testing.T) {
	s, m := real(t)
	waiting := filepath.Join(m.dir, "waiting")
	if err := syscall.Mkfifo(waiting, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		_, _ = os.ReadFile(waiting) // ends when the server has written it
	}()
	got, isError := s.Call(ctx, "s_wait", []byte(`{}`))
	if !isError || !strings.Contains(got[0].Text, "interrupted") {
		t.Errorf("%v %v", isError, got)
	}
	want(t, s, "s_echo", `{"text":"back"}`, false, "1 back")
	s.server.Timeout = 100 * time.Millisecond
	want(t, s, "s_wait", `{}`, true, "did not end within 100ms")
	s.server.Timeout = 2 * time.Minute
	want(t, s, "s_echo", `{"text":"back"}`, false, "1 back")
	if m.started != 3 {
		t.Errorf("%d servers were started", m.started)
	}
}

func hostile(t *testing.T, how string) (*Session, *machine) {
	t.Helper()
	script, err := filepath.Abs("testdata/hostile.sh")
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, dir: t.TempDir()}
	s := (&Server{Name: "h", Command: []string{"bash", script, how}, Prefix: "h_", Timeout: 2 * time.Minute}).In(m)
	t.Cleanup(s.Close)
	return s, m
}

// TestHostileServers: whatever a server does, the call is answered soon, with
// an error that says what it was, and the next call is served by another.
func TestHostileServers(t *testing.T) {
	for how, text := range map[string]string{
		"gone":    "could not be started: status 4\nno such place",
		"pages":   "more than 64 pages",
		"many":    "more than 256 tools",
		"line":    "a line of more than 8 MiB",
		"deep":    "no JSON",
		"broken":  "no JSON",
		"flood":   "more than 10000 notifications",
		"noisy":   "more than 16 MiB for one call",
		"ask":     "requests of its own",
		"other":   "status 9",
		"strange": "cut off",
		"error":   "h_do failed: sorry (-32000)",
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			s, _ := hostile(t, how)
			want(t, s, "h_do", `{}`, true, text)
			want(t, s, "h_do", `{}`, true, text)
		})
	}
}

func TestServersThatTakeTheirTime(t *testing.T) {
	s, _ := hostile(t, "mute")
	s.patience = 200 * time.Millisecond
	want(t, s, "h_do", `{}`, true, "did not answer within 200ms")
	s, _ = hostile(t, "deaf")
	s.server.Timeout = 200 * time.Millisecond
	want(t, s, "h_do", `{}`, true, "did not end within 200ms")
}

func TestOddServersAreServed(t *testing.T) {
	s, _ := hostile(t, "noise")
	want(t, s, "h_do", `{}`, false, "done")
	s, _ = hostile(t, "nul")
	want(t, s, "h_do", `{}`, false, "a\uFFFDb")
	s, _ = hostile(t, "big")
	got, isError := s.Call(t.Context(), "h_do", []byte(`{}`))
	if isError || len(got) != 1 || len(got[0].Text) > maxText+100 || !strings.HasSuffix(got[0].Text, "[897600 bytes are left out]") {
		t.Errorf("%v, %d blocks of %d", isError, len(got), len(got[0].Text))
	}
}

// TestAServerThatKeepsFailing is started a few times and then left alone.
func TestAServerThatKeepsFailing(t *testing.T) {
	s, m := hostile(t, "gone")
	for range 8 {
		s.Call(t.Context(), "h_do", []byte(`{}`))
	}
	if m.started != maxFailed {
		t.Errorf("it was started %d times", m.started)
	}
	want(t, s, "h_do", `{}`, true, "failed 5 times in a row")
	s.last = s.last.Add(-failedRest)
	want(t, s, "h_do", `{}`, true, "could not be started")
}

// TestInterruptedStarts are not the server's failures.
func TestInterruptedStarts(t *testing.T) {
	s, m := hostile(t, "good")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range maxFailed {
		s.Call(ctx, "h_do", []byte(`{}`))
	}
	if m.started == 0 || s.failed != 0 {
		t.Errorf("of %d starts %d failed", m.started, s.failed)
	}
}

func TestList(t *testing.T) {
	s, _ := hostile(t, "good")
	all, left, err := s.List(t.Context())
	if err != nil || len(all) != 1 || all[0].Name != "h_do" || all[0].Description == "" || string(all[0].InputSchema) != `{"type":"object"}` {
		t.Errorf("%v %v", err, all)
	}
	if len(left) != 2 || !strings.Contains(left[0], `"a b"`) || !strings.Contains(left[1], "type object") {
		t.Errorf("left %q", left)
	}
	s, _ = real(t)
	s.server.Tools = []string{"echo", "nothing"}
	all, left, err = s.List(t.Context())
	if err != nil || len(all) != 1 || all[0].Name != "s_echo" || all[0].Description != "Says what it is told." || len(left) != 1 {
		t.Errorf("%v %v %q", err, all, left)
	}
	var schema struct{ Required []string }
	if json.Unmarshal(all[0].InputSchema, &schema) != nil || len(schema.Required) != 1 || schema.Required[0] != "text" {
		t.Errorf("schema %s", all[0].InputSchema)
	}
}

func TestOwns(t *testing.T) {
	s := &Server{Prefix: "a_"}
	for name, owns := range map[string]bool{"a_x": true, "a_": false, "b_x": false, "": false} {
		if s.Owns(name) != owns {
			t.Errorf("%q: %v", name, !owns)
		}
	}
	s.Tools = []string{"x"}
	if !s.Owns("a_x") || s.Owns("a_y") {
		t.Error("the list of tools does not count")
	}
}
