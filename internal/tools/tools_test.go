package tools_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/tools"
	"github.com/berthdev/berth/toolset"
	"github.com/berthdev/berth/worker"
)

// shell runs each command by a bash of its own and keeps stdout and stderr in
// one.
type shell struct {
	dir   string
	calls []toolset.Command
}

func (s *shell) Bash(ctx context.Context, c toolset.Command) (toolset.Result, error) {
	s.calls = append(s.calls, c)
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", c.Text)
	cmd.WaitDelay = 100 * time.Millisecond
	out, _ := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return toolset.Result{Head: out, End: toolset.TimedOut}, nil
	}
	return toolset.Result{Head: out, End: toolset.Exited, ExitCode: cmd.ProcessState.ExitCode()}, nil
}
func (s *shell) Restart(context.Context) error { return nil }
func (s *shell) Files() toolset.Files          { return nil }
func (s *shell) Workdir() string               { return s.dir }

func parse(t *testing.T, text string) *tools.File {
	t.Helper()
	all, err := tools.Parse("tools.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

const file = `
tools:
  - name: order
    description: Looks an order up.
    input_schema: {type: object, required: [id], properties: {id: {type: string}, n: {type: [integer, "null"]}}}
    command: [bash, -c, 'pwd; cat; echo " $1"; echo noise >&2', order, "it's"]
  - {name: fails, command: [bash, -c, 'echo out; for i in {1..3000}; do echo "line $i" >&2; done; exit 3']}
  - {name: slow, command: [sleep, "60"], timeout: 1s}
  - {name: there, on: host, command: [bash, -c, 'env; cat; echo noise >&2']}
  - {name: host_fails, on: host, command: [bash, -c, 'echo out; for i in {1..3000}; do echo "line $i" >&2; done; exit 3']}
  - {name: host_slow, on: host, command: [bash, -c, 'sleep 60 & echo child >&2; wait'], timeout: 5s}
  - {name: host_big, on: host, command: [bash, -c, 'head -c 1000000 /dev/zero | tr "\\0" x']}
  - {name: host_none, on: host, command: [/nowhere/at/all]}
`

func TestTools(t *testing.T) {
	t.Setenv("ANTHROPIC_ENVIRONMENT_KEY", "sk-secret")
	sh := &shell{dir: filepath.Join(t.TempDir(), "it's here")}
	if err := os.Mkdir(sh.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	set := tools.Over(parse(t, file))(sh)
	run := func(name, input string) (string, bool) {
		content, isError := set.Run(t.Context(), worker.Call{ID: "sevt_1", Name: name, Custom: true, Input: []byte(input)})
		return content[0].Text, isError
	}
	input := `{"id":"it's $(touch bad) \\n ü"}`
	for _, c := range []struct {
		name, input string
		isError     bool
		want        string // all of it, or with … what it begins and ends with
	}{
		{"order", input, false, sh.dir + "\n" + input + " it's"},
		{"order", `{"id":7}`, true, `order was not run: "id" is not of type string`},
		{"order", `{"n":1}`, true, `order was not run: the input lacks "id"`},
		{"order", `{"id":"","n":1.5}`, true, `order was not run: "n" is not of type integer or null`},
		{"order", `[]`, true, `order was not run: the input is not a JSON object`},
		{"fails", `{}`, true, "fails failed with status 3.\nout\n…\nline 3000"},
		{"slow", `{}`, true, "slow did not end within 1s and was stopped.\n"},
		{"host_fails", `{}`, true, "host_fails failed (exit status 3).\nout\n…\nline 3000"},
		{"host_slow", `{}`, true, "host_slow did not end within 5s and was stopped.\nchild"},
		{"host_big", `{}`, false, "xxx…x\n[897600 bytes left out]"},
		{"host_none", `{}`, true, "host_none could not be started. The operator has to look at the worker's tools."},
		{"else", `{}`, true, `there is no tool named "else"`},
	} {
		began := time.Now()
		got, isError := run(c.name, c.input)
		head, tail, part := strings.Cut(c.want, "…")
		fits := got == c.want || part && strings.HasPrefix(got, head) && strings.HasSuffix(got, tail) && len(got) < 110<<10
		if !fits || isError != c.isError {
			t.Errorf("%s %s: %v %.300q, want %.300q", c.name, c.input, isError, got, c.want)
		}
		if time.Since(began) > 40*time.Second {
			t.Errorf("%s took %v", c.name, time.Since(began))
		}
	}
	got, isError := run("there", input)
	if isError || strings.Contains(got, "sk-secret") || strings.Contains(got, "noise") || !strings.Contains(got, "PATH=") || !strings.HasSuffix(got, input) {
		t.Errorf("there: %v %q", isError, got)
	}
	if entries, _ := os.ReadDir(sh.dir); len(entries) > 0 {
		t.Errorf("the input was run: %v", entries)
	}
}

func TestOwns(t *testing.T) {
	set := tools.Over(parse(t, `{"tools":[{"name":"bash","command":["true"]}]}`))(&shell{dir: "/"})
	for _, c := range []struct {
		name   string
		custom bool
		owns   bool
	}{{"bash", true, true}, {"bash", false, true}, {"read", false, false}, {"order", true, false}} { // no files here
		if set.Owns(c.name, c.custom) != c.owns {
			t.Errorf("%s, custom %v", c.name, c.custom)
		}
	}
	r := set.(worker.Rememberer)
	if !r.Remembers(worker.Call{Name: "bash"}) || r.Remembers(worker.Call{Name: "bash", Custom: true}) {
		t.Error("the bash of the toolset is remembered, and nothing else")
	}
}

func TestParseRefuses(t *testing.T) {
	for text, says := range map[string]string{
		``:                                   "no list of tools",
		`tools: []`:                          "has 0 tools and MCP servers",
		`tools: [{name: a b, command: [x]}]`: `name is "a b"`,
		`tools: [{name: a}]`:                 "command is missing",
		`tools: [{name: a, command: []}]`:    "command is missing",
		`tools: [{name: a, command: [x], on: x}]`:                                                   `on is "x"`,
		`tools: [{name: a, command: [x], timeout: 5}]`:                                              `timeout is "5"`,
		`tools: [{name: a, command: [x], timeout: 3h}]`:                                             `timeout is "3h"`,
		`tools: [{name: a, command: [x], comand: [y]}]`:                                             "comand",
		`tools: [{name: a, command: [x], input_schema: {type: string}}]`:                            "type object",
		`tools: [{name: a, command: [x]}, {name: a, command: [x]}]`:                                 "tools[1]: its name is there twice",
		"tools: [{name: a, command: [x]}]\n---\ntools: []":                                          "second document",
		`mcp_servers: [{name: a, command: []}]`:                                                     "mcp_servers[0]: command is missing",
		`mcp_servers: [{name: a b, command: [x]}]`:                                                  `name is "a b"`,
		`mcp_servers: [{name: a, command: [x], prefix: ""}]`:                                        "without a prefix",
		`mcp_servers: [{name: a, command: [x], prefix: "é"}]`:                                       "prefix is",
		`mcp_servers: [{name: a, command: [x], tools: []}]`:                                         "tools is empty",
		`mcp_servers: [{name: a, command: [x], tools: [b.c]}]`:                                      `tools has "b.c"`,
		`mcp_servers: [{name: a, command: [x], env: {"A=": b}}]`:                                    `env has "A="`,
		`mcp_servers: [{name: a, command: [x], timeout: 0s}]`:                                       `timeout is "0s"`,
		`mcp_servers: [{name: a, command: [x], url: x}]`:                                            "url",
		`mcp_servers: [{name: a, command: [x]}, {name: a, command: [x]}]`:                           "there twice",
		`mcp_servers: [{name: a, command: [x]}, {name: b, command: [x], prefix: a_b}]`:              "same names",
		`mcp_servers: [{name: b, command: [x], prefix: a_b}, {name: a, command: [x]}]`:              "same names",
		`mcp_servers: [{name: b, command: [x], prefix: "", tools: [a_c]}, {name: a, command: [x]}]`: "same names",
		`{tools: [{name: a_x, command: [x]}], mcp_servers: [{name: a, command: [x]}]}`:              `the tool "a_x"`,
		`tools: {`:                   "no list of tools",
		strings.Repeat("#", 300<<10): "larger than 256 KiB",
	} {
		_, err := tools.Parse("t.yaml", []byte(text))
		e, ok := errors.AsType[*tools.Error](err)
		if !ok || !strings.Contains(e.Error(), says) || strings.Contains(e.Error(), "\n") || !strings.HasPrefix(e.Error(), "t.yaml") {
			t.Errorf("%.60q: %v, want %q", text, err, says)
		}
	}
	if _, err := tools.Read("/nowhere/tools.yaml"); err == nil {
		t.Error("read what is not there")
	}
}
