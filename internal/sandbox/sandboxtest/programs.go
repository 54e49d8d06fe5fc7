package sandboxtest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

// program starts a program beside the shell.
func (w *World) program(env map[string]string, args ...string) toolset.Process {
	w.T.Helper()
	p, err := toolset.Start(w.T.Context(), w, toolset.Program{Args: args, Env: env})
	if err != nil {
		w.T.Fatalf("%q: %v", args, err)
	}
	return p
}

// Start hands on what the sandbox starts.
func (w *World) Start(ctx context.Context, p toolset.Program) (toolset.Process, error) {
	return toolset.Start(ctx, w.Sandbox, p)
}

// ended reads a program to its end.
func (w *World) ended(p toolset.Process) (out []byte, end *toolset.ProcessEnd) {
	w.T.Helper()
	out, err := io.ReadAll(p)
	if !errors.As(err, &end) {
		w.T.Fatalf("the end of a program: %v", err)
	}
	return out, end
}

// alive counts, as seen inside, the processes that have a word on their
// command line. The word's last letter is in brackets there.
func (w *World) alive(word string) string {
	w.T.Helper()
	at := len(word) - 1
	return strings.TrimSpace(Output(w.Do(fmt.Sprintf("grep -alxz '%s[%s]' /proc/[0-9]*/cmdline 2>/dev/null | wc -l", word[:at], word[at:]))))
}

func testPrograms(t *testing.T, d sandbox.Driver, driver func() sandbox.Driver) {
	w := Start(t, d, nil)
	mark := fmt.Sprintf("86400.%09d", rand.IntN(1e9)) // of processes, and a time to sleep

	cat := w.program(map[string]string{"LANG": "xx", "MINE": "it's", "MARK": mark + "cat"}, "bash", "-c", `echo "$PWD $MINE $LANG $HOME"; exec -a "$MARK" cat`)
	defer cat.Close()
	lines := bufio.NewReader(cat)
	line := func(want string) {
		t.Helper()
		if got, err := lines.ReadString('\n'); got != want+"\n" || err != nil {
			t.Fatalf("it said %q, %v; want %q", got, err, want)
		}
	}
	home := strings.TrimSpace(Output(w.Do("echo $HOME")))
	line(strings.TrimSpace(Output(w.Do("pwd"))) + " it's xx " + home)
	say := func(text string) {
		t.Helper()
		if _, err := io.WriteString(cat, text+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	say("one")
	line("one")

	// Neither the end of a command nor that of the shell is a program's.
	w.Call(toolset.Command{Text: "sleep 60", Timeout: 50 * time.Millisecond})
	if err := w.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Do("exit 3")
	long := strings.Repeat("x", 300<<10)
	go io.WriteString(cat, long+"\n")
	line(long)

	// More than is let through at once, and all of it before the end.
	out, end := w.ended(w.program(nil, "bash", "-c", "head -c 3000000 /dev/zero; seq 10000 >&2; exit 3"))
	if len(out) != 3000000 || end.Code != 3 || end.Reason != "" || !bytes.HasSuffix(end.Errors, []byte("9999\n10000\n")) || len(end.Errors) != 8<<10 {
		t.Errorf("%d bytes, %d, %q, %d of errors", len(out), end.Code, end.Reason, len(end.Errors))
	}
	if _, end = w.ended(w.program(nil, "/no/such/program")); end.Code != 127 || !strings.Contains(string(end.Errors), "/no/such/program") {
		t.Errorf("a program that is not there: %v, %s", end, end.Errors)
	}
	if _, end = w.ended(w.program(nil, "bash", "-c", "kill -9 $$")); end.Code != 137 {
		t.Errorf("a program that was killed: %v", end)
	}
	if _, end = w.ended(w.program(nil, "bash", "-c", `exec -a "$0" sleep 86400 & exit 0`, mark+"left")); end.Code != 0 {
		t.Errorf("a program that leaves a job: %v", end)
	}
	if n := w.alive(mark + "left"); n != "0" {
		t.Errorf("%s jobs of a program that has ended are there", n)
	}

	// One that reads nothing is not fed for ever.
	deaf := w.program(nil, "sleep", mark)
	for i := 0; i < 80; i++ {
		if _, err := deaf.Write(make([]byte, 64<<10)); err != nil {
			break
		}
	}
	if _, end = w.ended(deaf); !strings.Contains(end.Reason, "does not read") {
		t.Errorf("one that reads nothing: %v", end)
	}

	// One that nobody listens to waits, and goes with all that it started.
	loud := w.program(nil, "bash", "-c", "setsid sleep $0 & sleep $0 & (sleep $0 &); yes; :", mark)
	for w.alive(mark) != "4" {
		await(5 * time.Millisecond)
	}
	loud.Close()
	if n := w.alive(mark); n != "0" {
		t.Errorf("%s processes of programs that have ended are there", n)
	}
	if _, err := loud.Read(make([]byte, 1)); err == nil {
		t.Error("a program that was closed speaks")
	}

	// One that starts others without end.
	for range 5 {
		busy := w.program(nil, "bash", "-c", "while :; do sleep $0 & done", mark+"busy")
		for w.alive(mark+"busy") == "0" {
			await(5 * time.Millisecond)
		}
		began := time.Now()
		busy.Close()
		if n := w.alive(mark + "busy"); n != "0" {
			t.Errorf("%s processes of a program that started them without end are there", n)
		}
		if took := time.Since(began); took > patience/2 {
			t.Errorf("its end took %v", took)
		}
	}
	say("two")
	line("two")
	if !d.Capabilities().Recover {
		return
	}
	// A worker that comes later finds the shell, and no program.
	w.Sandbox.(interface{ Close() }).Close()
	if _, err := cat.Read(make([]byte, 1)); err == nil {
		t.Error("a program speaks to a worker that is gone")
	}
	sb, err := driver().Recover(t.Context(), w.Record())
	if err != nil {
		t.Fatal(err)
	}
	v := &World{Sandbox: sb, T: t, Spec: w.Spec, Kernel: w.Kernel}
	if n := v.alive(mark + "cat"); n != "0" {
		t.Errorf("%s processes of the program are there", n)
	}
	v.Want("echo there", "there\n", toolset.Exited, 0)
	if err := sb.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
