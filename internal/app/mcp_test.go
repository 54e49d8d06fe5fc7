package app

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/config"
	"github.com/berthdev/berth/internal/sandbox/gvisor"
	"github.com/berthdev/berth/internal/sandbox/namespaces"
	"github.com/berthdev/berth/internal/sandbox/process"
	"github.com/berthdev/berth/worker/workertest"
)

// TestMCPServersInASandbox: a real server and a hostile one, in a copy of the
// directory they lie in.
func TestMCPServersInASandbox(t *testing.T) {
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "server"), "../mcp/testdata/server")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	script, err := os.ReadFile("../mcp/testdata/hostile.sh")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "hostile.sh"), script, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := config.Sandbox{Runsc: builtRunsc(t)}
	for _, d := range drivers(c, "", t.TempDir(), slog.New(slog.DiscardHandler)) {
		if !slices.Contains([]string{process.Name, namespaces.Name, gvisor.Name}, d.Name()) {
			continue
		}
		t.Run(d.Name(), func(t *testing.T) {
			if p := d.Probe(t.Context()); !p.OK {
				t.Skipf("%s cannot run here: %s", d.Name(), p.Reason)
			}
			c.Sandbox = d.Name()
			mcpIn(t, c, dir)
		})
	}
}

const mcpFile = `
mcp_servers:
  - {name: s, command: [./server], env: {MINE: "x y"}}
  - {name: h, command: [bash, hostile.sh, noisy], prefix: h-, tools: [do], timeout: 2m}
`

func mcpIn(t *testing.T, way config.Sandbox, dir string) {
	plane := workertest.New(t)
	call := func(name, input string) workertest.Call {
		return workertest.Call{Name: name, Custom: true, Input: input}
	}
	bash := func(command string) workertest.Call {
		return workertest.Call{Name: "bash", Input: fmt.Sprintf(`{"command":%q}`, command)}
	}
	s := plane.Session(workertest.Turn{Calls: []workertest.Call{
		call("s_echo", `{"text":"hello"}`),
		bash("export CHANGED=1; cd /; exit 3"),
		{Name: "bash", Input: `{"command":"sleep 60","timeout_ms":200}`},
		call("s_echo", `{"text":"still there"}`),
		call("h-do", `{}`),
		call("s_around", `{}`),
		call("s_crash", `{}`),
		call("s_echo", `{"text":"another"}`),
		call("s_show", `{}`),
		bash("echo done"),
	}})
	t.Setenv("ANTHROPIC_ENVIRONMENT_KEY", "sk-not-for-servers")
	state := t.TempDir()
	declared := filepath.Join(state, "tools.yaml")
	if err := os.WriteFile(declared, []byte(mcpFile), 0o600); err != nil {
		t.Fatal(err)
	}
	taking, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- WorkerPoll(taking, t.Context(), WorkerConfig{
			Remote:  config.Remote{BaseURL: plane.URL, EnvironmentID: workertest.EnvironmentID, EnvironmentKey: config.Secret(workertest.EnvironmentKey)},
			Sandbox: way, Engine: config.Engine{MaxSessions: 2, MaxIdle: time.Second, Workdir: dir}, Pace: "eager",
			StateDir: state, Tools: declared, Log: slog.New(slog.DiscardHandler),
		})
	}()
	plane.Wait(t, "the session's end", 5*time.Minute, s.Done)
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	got := s.Answers()
	for i, want := range map[int]struct {
		isError bool
		text    string
	}{
		0: {false, "1 hello"}, 3: {false, "2 still there"}, 4: {true, "more than 16 MiB for one call"}, 5: {false, dir + "\n"},
		6: {true, "status 3\nall is lost"}, 7: {false, "1 another"}, 9: {false, "done"},
	} {
		if got[i].IsError != want.isError || !strings.Contains(got[i].Text, want.text) {
			t.Errorf("%d: %v %.300q, want %v %q", i, got[i].IsError, got[i].Text, want.isError, want.text)
		}
	}
	around := got[5].Text
	if !strings.Contains(around, "MINE=x y") || strings.Contains(around, "sk-") || strings.Contains(around, "CHANGED") || strings.Contains(around, "ANTHROPIC") {
		t.Errorf("the server finds around it:\n%s", around)
	}
}

// TestDefinitionsOfServers: what an agent is to be told is asked in a sandbox.
func TestDefinitionsOfServers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tools.yaml")
	script, err := os.ReadFile("../mcp/testdata/hostile.sh") // whose place may not be seen inside
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("tools: [{name: own, description: Mine., command: [x]}]\nmcp_servers: [{name: h, command: [bash, -c, %q, hostile, good]}]", script)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := SandboxConfig{Sandbox: config.Sandbox{Sandbox: process.Name}, StateDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	all, left, err := ToolDefinitions(t.Context(), c, path)
	if err != nil || len(all) != 2 || all[0].Name != "own" || all[1].Name != "h_do" || len(left) != 2 {
		t.Errorf("%v %+v %q", err, all, left)
	}
	if err := os.WriteFile(path, []byte("mcp_servers: [{name: h, command: [/no/such/server]}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err = ToolDefinitions(t.Context(), c, path); err == nil || !strings.Contains(err.Error(), "status 127") {
		t.Errorf("%v", err)
	}
}
