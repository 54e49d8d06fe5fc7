package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/berthdev/berth/internal/child"
	"github.com/berthdev/berth/internal/images/imagetest"
	"github.com/berthdev/berth/internal/sandbox/namespaces"
)

func TestMain(m *testing.M) {
	child.Main()
	testscript.Main(m, map[string]func(){"berth": main})
}

// TestScripts drives the real binary: a script for each verb and each of its
// errors.
func TestScripts(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image.tar")
	tag, err := name.NewTag("test.example/image:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(image, tag, imagetest.Bash(t)); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			examples, err := filepath.Abs("../../examples")
			if err != nil {
				return err
			}
			e.Vars = append(e.Vars, "EXAMPLES="+examples, "IMAGE="+image, "XDG_DATA_HOME="+e.WorkDir+"/data", "XDG_STATE_HOME="+e.WorkDir+"/state", "TERM=dumb")
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond != "namespaces" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			return isolates(), nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"server": server,
			"field":  field,
			"fails":  fails,
		},
	})
}

// isolates says whether namespaces work here.
var isolates = sync.OnceValue(func() bool {
	return namespaces.New(namespaces.Config{}).Probe(context.Background()).OK
})

// server starts `berth dev --json` with more flags, waits until it is ready
// and sets BASE_URL, API_KEY, ENV_ID and ENV_KEY, and the client verbs'
// variables. `server stop` ends it with SIGTERM and wants status 0.
func server(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("unsupported: ! server")
	}
	if len(args) == 1 && args[0] == "stop" {
		p, ok := servers.Load(ts)
		if !ok {
			ts.Fatalf("no server is running")
		}
		ts.Check(p.(*process).stop())
		return
	}
	path, err := exec.LookPath("berth")
	ts.Check(err)
	p := &process{cmd: exec.Command(path, append([]string{"dev", "--json", "--addr", "127.0.0.1:0", "--data-dir", ts.MkAbs("plane")}, args...)...)}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "TERM", "XDG_DATA_HOME", "XDG_STATE_HOME"} {
		p.cmd.Env = append(p.cmd.Env, name+"="+ts.Getenv(name))
	}
	p.cmd.Stderr = &p.log
	out, err := p.cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(p.cmd.Start())
	ts.Defer(func() { p.stop() })
	var ready struct {
		BaseURL        string `json:"base_url"`
		APIKey         string `json:"api_key"`
		EnvironmentID  string `json:"environment_id"`
		EnvironmentKey string `json:"environment_key"`
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || json.Unmarshal([]byte(line), &ready) != nil {
		p.cmd.Process.Kill()
		p.cmd.Wait()
		ts.Fatalf("berth dev was not ready: %v, %q\n%s", err, line, p.log.String())
	}
	for name, value := range map[string]string{
		"BASE_URL": ready.BaseURL, "API_KEY": ready.APIKey, "ENV_ID": ready.EnvironmentID, "ENV_KEY": ready.EnvironmentKey,
		"BERTH_BASE_URL": ready.BaseURL, "BERTH_API_KEY": ready.APIKey,
		"ADDR": strings.TrimPrefix(ready.BaseURL, "http://"), "PID": fmt.Sprint(p.cmd.Process.Pid),
	} {
		ts.Setenv(name, value)
	}
	servers.Store(ts, p)
}

// fails runs a command that must end with a status and say why on one line of
// standard error, and nothing else: fails STATUS REGEXP COMMAND...
func fails(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: fails STATUS REGEXP COMMAND...")
	}
	status, err := strconv.Atoi(args[0])
	ts.Check(err)
	says, err := regexp.Compile(args[1])
	ts.Check(err)
	err = ts.Exec(args[2], args[3:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != status {
		ts.Fatalf("ended with %v, want status %d", err, status)
	}
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("wrote %q", out)
	}
	said, more := ts.ReadFile("stderr"), ""
	if said, more, _ = strings.Cut(said, "\n"); more != "" || !says.MatchString(said) {
		ts.Fatalf("said %q, then %q; want one line like %s", said, more, args[1])
	}
}

// field sets a variable from a member of the JSON object on the last
// command's standard output: field NAME MEMBER[.MEMBER].
func field(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: field NAME MEMBER")
	}
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	for member := range strings.SplitSeq(args[1], ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[member]
		case []any:
			i, err := strconv.Atoi(member)
			if v = nil; err == nil && i < len(at) {
				v = at[i]
			}
		}
		if v == nil {
			ts.Fatalf("the output has no member %s", args[1])
		}
	}
	ts.Setenv(args[0], fmt.Sprint(v))
}

// process is a berth that a script started.
type process struct {
	cmd     *exec.Cmd
	log     strings.Builder
	stopped bool
}

func (p *process) stop() error {
	if p.stopped {
		return nil
	}
	p.stopped = true
	p.cmd.Process.Signal(syscall.SIGTERM)
	late := time.AfterFunc(30*time.Second, func() { p.cmd.Process.Kill() })
	defer late.Stop()
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("berth dev ended with %w\n%s", err, p.log.String())
	}
	return nil
}

// servers holds each script's *process.
var servers sync.Map
