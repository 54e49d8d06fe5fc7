package tools

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/berthdev/berth/api"
	"github.com/berthdev/berth/internal/mcp"
	"github.com/berthdev/berth/toolset"
	"github.com/berthdev/berth/worker"
)

// What is kept of a command's output.
const (
	maxOutput = 100 << 10
	maxErrors = 8 << 10 // the end of stderr
)

// Over makes the tools of sessions: the agent toolset and these. The MCP
// servers of a session end with its sandbox.
func Over(f *File) func(toolset.Host) worker.Tools {
	return func(h toolset.Host) worker.Tools {
		s := set{agent: worker.AgentTools(h), host: h, file: f}
		for _, m := range f.Servers {
			s.servers = append(s.servers, m.In(h))
		}
		return s
	}
}

// set is the agent toolset and custom tools over one host.
type set struct {
	agent   worker.Tools
	host    toolset.Host
	file    *File
	servers []*mcp.Session // of file.Servers
}

func (s set) find(name string) *Tool {
	for i := range s.file.Tools {
		if s.file.Tools[i].Name == name {
			return &s.file.Tools[i]
		}
	}
	return nil
}

// server finds the MCP server that owns a name.
func (s set) server(name string) *mcp.Session {
	for i, m := range s.file.Servers {
		if m.Owns(name) {
			return s.servers[i]
		}
	}
	return nil
}

func (s set) Owns(name string, custom bool) bool {
	if custom {
		return s.find(name) != nil || s.server(name) != nil
	}
	return s.agent.Owns(name, false)
}

// Remembers is true of what the agent toolset remembers alone: a custom tool
// that was cut off may have acted elsewhere.
func (s set) Remembers(c worker.Call) bool {
	r, ok := s.agent.(worker.Rememberer)
	return ok && !c.Custom && r.Remembers(c)
}

func (s set) Run(ctx context.Context, c worker.Call) ([]api.Block, bool) {
	if !c.Custom {
		return s.agent.Run(ctx, c)
	}
	t := s.find(c.Name)
	if t == nil {
		if m := s.server(c.Name); m != nil {
			return m.Call(ctx, c.Name, c.Input)
		}
		return failed("there is no tool named %q", c.Name)
	}
	if wrong := t.check(c.Input); wrong != "" {
		return failed("%s was not run: %s", t.Name, wrong)
	}
	if t.OnHost {
		return t.onHost(ctx, c.Input)
	}
	return t.inSandbox(ctx, s.host, c)
}

func failed(format string, args ...any) ([]api.Block, bool) {
	return []api.Block{api.Text(fmt.Sprintf(format, args...))}, true
}

// inSandbox runs the command by the session's shell, apart from its state.
func (t *Tool) inSandbox(ctx context.Context, h toolset.Host, c worker.Call) ([]api.Block, bool) {
	var argv []string
	for _, a := range t.Command {
		argv = append(argv, quote(a))
	}
	text := fmt.Sprintf(`( cd -- %s || exit; e=$(mktemp) || exit; printf %%s %s | %s 2>"$e"; c=$?; [ $c = 0 ] || tail -c %d -- "$e"; rm -f -- "$e"; exit $c )`,
		quote(h.Workdir()), quote(string(c.Input)), strings.Join(argv, " "), maxErrors)
	r, err := h.Bash(ctx, toolset.Command{ID: c.ID, Text: text, Timeout: t.Timeout})
	if err != nil {
		return failed("%s could not be run: the sandbox is gone. The next call gets another.", t.Name)
	}
	out := string(r.Head)
	if r.Dropped > 0 {
		out += fmt.Sprintf("\n[%d bytes left out]\n", r.Dropped)
	}
	out = clean(out + string(r.Tail))
	switch {
	case r.End == toolset.TimedOut:
		return failed("%s did not end within %s and was stopped.\n%s", t.Name, t.Timeout, out)
	case r.End != toolset.Exited:
		return failed("%s was cut off (%s).\n%s", t.Name, r.End, out)
	case r.ExitCode != 0:
		return failed("%s failed with status %d.\n%s", t.Name, r.ExitCode, out)
	}
	return []api.Block{api.Text(out)}, false
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func clean(s string) string { return strings.TrimRight(strings.ToValidUTF8(s, "\uFFFD"), "\n") }

// environment is all that a command on the host finds in its own: nothing of
// the worker's, so no credential.
var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/"}

// onHost runs the command beside the worker, in a process group of its own.
func (t *Tool) onHost(ctx context.Context, input []byte) ([]api.Block, bool) {
	limited, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	var out, errs window
	out.head, errs.tail = maxOutput, maxErrors
	cmd := exec.CommandContext(limited, t.Command[0], t.Command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &out, &errs
	cmd.Env, cmd.Dir = environment, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // of what it left behind that holds its streams
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return []api.Block{api.Text(clean(out.String()))}, false
	case ctx.Err() != nil:
		return failed("%s was interrupted.", t.Name)
	case limited.Err() != nil:
		return failed("%s did not end within %s and was stopped.\n%s", t.Name, t.Timeout, clean(errs.String()))
	case errors.As(err, &exit):
		return failed("%s failed (%s).\n%s", t.Name, exit, clean(out.String()+errs.String()))
	}
	return failed("%s could not be started. The operator has to look at the worker's tools.", t.Name)
}

// window keeps the first bytes written to it, or the last.
type window struct {
	head, tail int
	kept       []byte
	dropped    int
}

func (w *window) Write(p []byte) (int, error) {
	n := len(p)
	if w.tail > 0 {
		w.kept = append(w.kept, p...)
		if over := len(w.kept) - w.tail; over > 0 {
			w.kept = append(w.kept[:0], w.kept[over:]...)
		}
		return n, nil
	}
	fits := min(n, w.head-len(w.kept))
	w.kept = append(w.kept, p[:fits]...)
	w.dropped += n - fits
	return n, nil
}

func (w *window) String() string {
	if w.dropped > 0 {
		return fmt.Sprintf("%s\n[%d bytes left out]", w.kept, w.dropped)
	}
	return string(w.kept)
}
