package toolset_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berthdev/berth/toolset"
)

func TestBashWords(t *testing.T) {
	b := func(s string) []byte { return []byte(s) }
	for name, c := range map[string]struct {
		result toolset.Result
		want   string
	}{
		"output":          {toolset.Result{End: toolset.Exited, Head: b("hi\n")}, "hi"},
		"two parts":       {toolset.Result{End: toolset.Exited, Head: b("one "), Tail: b("two\n")}, "one two"},
		"silent":          {toolset.Result{End: toolset.Exited}, "(no output)"},
		"exit code":       {toolset.Result{End: toolset.Exited, ExitCode: 7, Head: b("bad\n")}, "ERROR bad\nexit code: 7"},
		"silent failure":  {toolset.Result{End: toolset.Exited, ExitCode: 1}, "ERROR exit code: 1"},
		"blank lines":     {toolset.Result{End: toolset.Exited, Head: b("\n  x\n\n")}, "\n  x"},
		"carriage return": {toolset.Result{End: toolset.Exited, Head: b("10%\r20%\n")}, "10%\r20%"},
		"tabs":            {toolset.Result{End: toolset.Exited, Head: b("a:\n\tb\n")}, "a:\n\tb"},
		"colours":         {toolset.Result{End: toolset.Exited, Head: b("\x1b[1;31mred\x1b[0m \x1b]0;title\x07x\x1b[?25l")}, "red x"},
		"NUL":             {toolset.Result{End: toolset.Exited, Head: b("a\x00b")}, "a\uFFFDb"},
		"not UTF-8":       {toolset.Result{End: toolset.Exited, Head: b("a\xffb")}, "a\uFFFDb"},
		"timed out": {toolset.Result{End: toolset.TimedOut, Head: b("part\n")},
			"ERROR part\n[timed out]\nsession restarted after timeout"},
		"timed out, silent": {toolset.Result{End: toolset.TimedOut},
			"ERROR [timed out]\nsession restarted after timeout"},
		"shell ended": {toolset.Result{End: toolset.ShellExited, ExitCode: 7, Head: b("bye\n")},
			"ERROR bye\nexit code: 7\n[the command ended the shell; the next one gets a fresh shell in /workspace, without the variables and functions set so far]"},
		"shell ended well": {toolset.Result{End: toolset.ShellExited},
			"exit code: 0\n[the command ended the shell; the next one gets a fresh shell in /workspace, without the variables and functions set so far]"},
		"interrupted": {toolset.Result{End: toolset.Interrupted, Head: b("part")},
			"ERROR part\n[interrupted: the command was stopped before its end and may have done part of its work]"},
		"incomplete": {toolset.Result{End: toolset.Incomplete, Head: b("bash: unexpected EOF while looking for matching `\"'\n")},
			"ERROR bash: unexpected EOF while looking for matching `\"'\nbash: the command is not complete (look for an open quote, bracket, here-document or block); nothing was run"},
		"out of memory": {toolset.Result{End: toolset.Exited, ExitCode: 137, OOM: true, Head: b("Killed\n")},
			"ERROR Killed\n[out of memory: the memory limit was reached and a process was killed]\nexit code: 137"},
		"cut": {toolset.Result{End: toolset.Exited, Head: b("first\n"), Dropped: 1000, Tail: b("last\n")},
			"first\n[output truncated: 1000 bytes left out here]\nlast"},
		"cut in characters": {toolset.Result{End: toolset.Exited, Head: b("ab\xe2\x82"), Dropped: 1000, Tail: b("\xac€\n")},
			"ab\n[output truncated: 1003 bytes left out here]\n€"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, toolset.Options{})
			w.sh.answer = func(context.Context, toolset.Command) (toolset.Result, error) { return c.result, nil }
			if got := w.call("bash", args{"command": "x"}); got != c.want {
				t.Errorf(" got %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestBashAsks(t *testing.T) {
	w := newWorld(t, toolset.Options{})
	w.sh.answer = func(context.Context, toolset.Command) (toolset.Result, error) {
		return toolset.Result{End: toolset.Exited, Head: []byte("ran")}, nil
	}
	w.run("bash", []step{
		{args{}, "ERROR bash: command is required"},
		{args{"command": ""}, "ERROR bash: command is required"},
		{args{"command": nil, "restart": false}, "ERROR bash: command is required"},
		{args{"command": 5}, "ERROR invalid bash input: command must be a string"},
		{args{"command": "x", "restart": "yes"}, "ERROR invalid bash input: restart must be true or false"},
		{args{"command": "x", "timeout_ms": 1.5}, "ERROR invalid bash input: 1.5 is not a whole number"},
		{args{"command": "a\x00b"}, "ERROR bash: command holds a NUL byte, which no shell takes"},
	})
	for input, want := range map[string]string{
		`[]`: "ERROR invalid bash input: it must be a JSON object",
		`{`:  "ERROR invalid bash input: it is not valid JSON",
		``:   "ERROR bash: command is required",
	} {
		if got := w.raw("bash", input); got != want {
			t.Errorf("%q: %q, want %q", input, got, want)
		}
	}
	if len(w.sh.commands) != 0 || w.sh.restarts != 0 {
		t.Fatalf("refused calls reached the shell: %v", w.sh.commands)
	}
	w.run("bash", []step{
		{args{"restart": true}, "bash session restarted"},
		{args{"restart": true, "command": "a"}, "ran"},
		{args{"command": "b", "timeout_ms": 0}, "ran"},
		{args{"command": "c", "timeout_ms": -5}, "ran"},
		{args{"command": "d", "timeout_ms": 300_000, "unknown": 1}, "ran"},
		{args{"command": "e", "timeout_ms": 1e30}, "ran"},
		{args{"command": "f", "timeout_ms": 1}, "ran"},
	})
	if w.sh.restarts != 2 {
		t.Errorf("%d restarts, want 2", w.sh.restarts)
	}
	want := []time.Duration{120 * time.Second, 120 * time.Second, 120 * time.Second, 300 * time.Second, 2 * time.Hour, time.Millisecond}
	for i, c := range w.sh.commands {
		if c.ID != "sevt_1" || c.Text != string(rune('a'+i)) || c.Timeout != want[i] {
			t.Errorf("command %d is %+v, want a limit of %v", i, c, want[i])
		}
	}
}

// However long the limit a call asks for, and whatever the host does, a call
// ends soon after it.
func TestBashEndsThoughItsHostDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			in   args
			want time.Duration
		}{
			{args{"command": "x"}, 125 * time.Second},
			{args{"command": "x", "timeout_ms": 1000}, 125 * time.Second},
			{args{"command": "x", "timeout_ms": 600_000}, 605 * time.Second},
		} {
			w := newWorld(t, toolset.Options{})
			w.sh.answer = func(ctx context.Context, _ toolset.Command) (toolset.Result, error) {
				<-ctx.Done()
				return toolset.Result{}, errors.New("gone")
			}
			began := time.Now()
			got := w.call("bash", c.in)
			if took := time.Since(began); took != c.want || !strings.HasPrefix(got, "ERROR [interrupted") {
				t.Errorf("%v: %q after %v, want %v", c.in, got, took, c.want)
			}
		}
	})
}

func TestHostsFailureIsLoggedAndNotTold(t *testing.T) {
	var log bytes.Buffer
	w := newWorld(t, toolset.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	w.sh.answer = func(context.Context, toolset.Command) (toolset.Result, error) {
		return toolset.Result{}, errors.New("dial /var/lib/berth/agent.sock: refused")
	}
	got := w.call("bash", args{"command": "x"})
	if got != "ERROR bash: the sandbox failed while the command ran; it may have run in part" {
		t.Errorf("the model is told %q", got)
	}
	if !strings.Contains(log.String(), "agent.sock: refused") {
		t.Errorf("the log says %q", log.String())
	}
}

func TestOutputIsBounded(t *testing.T) {
	w := newWorld(t, toolset.Options{})
	big := bytes.Repeat([]byte("0123456789"), 1<<20)
	for name, r := range map[string]toolset.Result{
		"head": {End: toolset.Exited, Head: big}, "tail": {End: toolset.Exited, Tail: big},
		"both": {End: toolset.Exited, Head: big, Dropped: 5, Tail: big},
	} {
		w.sh.answer = func(context.Context, toolset.Command) (toolset.Result, error) { return r, nil }
		got := w.call("bash", args{"command": "x"})
		if len(got) > 1<<20+100 || !strings.Contains(got, "bytes left out here]") {
			t.Errorf("%s: %d bytes", name, len(got))
		}
	}
}

func TestWithoutFilesThereIsBashAlone(t *testing.T) {
	sh := &shell{answer: func(context.Context, toolset.Command) (toolset.Result, error) {
		return toolset.Result{End: toolset.Exited}, nil
	}}
	s := toolset.New(host{shell: sh}, toolset.Options{})
	if got := s.Names(); len(got) != 1 || got[0] != "bash" || s.Has("read") || !s.Has("bash") {
		t.Errorf("the set has %v", got)
	}
	for _, name := range []string{"read", "web_fetch", ""} {
		if blocks, isError := s.Run(t.Context(), "", name, nil); !isError || !strings.HasPrefix(blocks[0].Text, "there is no tool named") {
			t.Errorf("%q: %v", name, blocks)
		}
	}
}
