package sandboxtest

import (
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

// testShell checks what a command's text means and what comes out of it: the
// cases that break the official workers' shells, and those around them.
func testShell(t *testing.T, d sandbox.Driver) {
	w := Start(t, d, nil)
	for _, c := range []struct {
		name, text, out string
		code            int
	}{
		{"tabs in a heredoc", "cat <<EOF\n\ta\tb\nEOF", "\ta\tb\n", 0},
		{"an exclamation mark in double quotes", `echo "wow!x !!"`, "wow!x !!\n", 0},
		{"a carriage return", `printf 'a\rb\r\n'`, "a\rb\r\n", 0},
		{"a carriage return in the text", "echo a\r", "a\r\n", 0},
		{"no newline is added", "printf x", "x", 0},
		{"leading newlines stay", `printf '\n\nx\n\n'`, "\n\nx\n\n", 0},
		{"silence", "true", "", 0},
		{"an empty text", "", "", 0},
		{"blanks and a comment", "  \n# nothing\n", "", 0},
		{"NUL and other bytes", `printf 'a\0\1\377b'`, "a\x00\x01\xffb", 0},
		{"bytes that are no UTF-8 in the text", "printf %s '\xff\xfe\xc3'", "\xff\xfe\xc3", 0},
		{"both streams in order", "echo a; echo b >&2; echo c; echo d >&2", "a\nb\nc\nd\n", 0},
		{"stdin is empty", "cat; read x; echo $?", "1\n", 0},
		{"the command's status", "(exit 3)", "", 3},
		{"not found", "no-such-command-here 2>/dev/null", "", 127},
		{"several lines", "if true\nthen\n  echo yes\nfi", "yes\n", 0},
		{"a function that is made and used", "f() {\n echo \"f $1\"\n}\nf x", "f x\n", 0},
		{"a quote in quotes", `echo "it's" 'a "b"'`, "it's a \"b\"\n", 0},
		{"a substitution", "echo $(echo a; echo $((1+2)))", "a 3\n", 0},
		{"an array", `a=(1 "2 3"); echo ${#a[@]} "${a[1]}"`, "2 2 3\n", 0},
		{"process substitution", "cat <(echo a) <(echo b)", "a\nb\n", 0},
		{"an option that changes what parses", "shopt -s extglob\necho !(zz*|*) x", "!(zz*|*) x\n", 0},
		{"a heredoc with a quoted word and dollars", "cat <<'E'\n$x `y` \\\nE", "$x `y` \\\n", 0},
		{"a heredoc that ends at the text's end", "cat <<-E\n\tx\n\tE", "x\n", 0},
		{"a backslash at the end", "echo a \\", "a \\\n", 0},
		{"break outside of a loop", "break 2>/dev/null; continue 2>/dev/null; echo on", "on\n", 0},
		{"a division by zero ends its line only", "echo $((1/0)) 2>/dev/null; echo not\n", "", 1},
		{"no job control noise", "sleep 0 & wait; echo ok", "ok\n", 0},
		{"the name and the flags", "echo $0", "bash\n", 0},
		{"its lines", "no-such-a\n\n no-such-b\necho $LINENO", "bash: line 1: no-such-a: command not found\nbash: line 3: no-such-b: command not found\n4\n", 0},
		{"its lines, looked at before", "(no-such-a)\necho '\n' $LINENO", "bash: line 1: no-such-a: command not found\n\n 3\n", 0},
		{"its lines, where it is long", ": " + strings.Repeat("x", 40<<10) + "\n: '\n'\nno-such-a", "bash: line 4: no-such-a: command not found\n", 127},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := w.with(t)
			r := w.Do(c.text)
			out := Output(r)
			if c.name == "a division by zero ends its line only" {
				out = ""
			}
			if out != c.out || r.End != toolset.Exited || r.ExitCode != c.code {
				t.Errorf("%q\n got %q %s %d\nwant %q exited %d", c.text, out, r.End, r.ExitCode, c.out, c.code)
			}
		})
	}
	t.Run("a syntax error is an answer", func(t *testing.T) {
		w := w.with(t)
		r := w.Do("echo one\nls )")
		if r.End != toolset.Exited || r.ExitCode == 0 || !strings.Contains(Output(r), "syntax error") {
			t.Errorf("got %q %s %d", Output(r), r.End, r.ExitCode)
		}
		w.Want("echo still here", "still here\n", toolset.Exited, 0)
	})
	t.Run("a syntax error in a long line is an answer", func(t *testing.T) {
		w := w.with(t)
		r := w.Call(toolset.Command{Text: "echo " + strings.Repeat("a", 300_000) + " )", Timeout: 20 * time.Second})
		if r.End != toolset.Exited || r.ExitCode == 0 || !strings.Contains(Output(r), "syntax error") {
			t.Errorf("got %d bytes, %s %d", len(Output(r)), r.End, r.ExitCode)
		}
		w.Want("echo still here", "still here\n", toolset.Exited, 0)
	})
	t.Run("unfinished texts do not run", func(t *testing.T) {
		w := w.with(t)
		for _, text := range []string{
			`echo "a`, `echo 'a`, "cat <<EOF\nx", "if true; then", "echo $(ls", "for i in 1 2; do echo $i", "echo a |", "echo a &&",
			"f() {", "case x in", "a=(1 2", "echo ${a", "while true", "((1+", "[[ a == b", "echo `ls", "time {",
		} {
			r := w.Do("touch ran\n" + text)
			if r.End != toolset.Incomplete {
				t.Errorf("%q: %s %q", text, r.End, Output(r))
			}
			if !strings.Contains(string(r.Head), "line 2: ") && !strings.Contains(string(r.Head), "line 3: ") || strings.Contains(string(r.Head), "berth") {
				t.Errorf("%q: said %q", text, r.Head)
			}
		}
		if r := w.Do("echo a\x00b"); r.End != toolset.Incomplete {
			t.Errorf("a NUL in the text: %s", r.End)
		}
		w.Want("ls ran 2>&-; echo fine", "fine\n", toolset.Exited, 0)
	})
	t.Run("a long text", func(t *testing.T) {
		w := w.with(t)
		long := strings.Repeat("\t0123456789 'x' \"y\" $z\n", 50000) // over a megabyte
		w.Want("cat >big <<'EOF'\n"+long+"EOF\nwc -c <big", "1150000\n", toolset.Exited, 0)
	})
	t.Run("many texts that are not short", func(t *testing.T) {
		w := w.with(t)
		w.Want("n=0", "", toolset.Exited, 0)
		pad := strings.Repeat("'", 30000) // quoted, 120 KB
		for range 12 {
			w.Want(": \""+pad+"\"; (true); n=$((n+1))", "", toolset.Exited, 0)
		}
		w.Want("echo $n", "12\n", toolset.Exited, 0)
	})
	t.Run("a time out for input is not the shell's", func(t *testing.T) {
		w := w.with(t)
		g := w.gate("later")
		w.Want("TMOUT=1; x=kept; (sleep 1.2; "+g.knock+") & true", "", toolset.Exited, 0)
		g.reached()
		w.Want("echo $x; unset TMOUT", "kept\n", toolset.Exited, 0)
	})
}

// testEnds checks what a shell keeps, and the ways in which a command ends.
func testEnds(t *testing.T, d sandbox.Driver) {
	t.Run("state is kept", func(t *testing.T) {
		w := Start(t, d, func(s *sandbox.Spec) { s.Env = map[string]string{"GREETING": "hello you"} })
		w.Want(`cd /tmp; v=1; export e=2; f() { echo f$1; }; umask 077; set -u; alias x=y; sleep 300 &`, "", toolset.Exited, 0)
		w.Want(`pwd; echo $v $e; f 3; umask; jobs | grep -c sleep; kill %1; echo "$GREETING"`, "/tmp\n1 2\nf3\n0077\n1\nhello you\n", toolset.Exited, 0)
		w.Want(`cd -- /workspace; echo $OLDPWD; pwd`, "/tmp\n/workspace\n", toolset.Exited, 0)
	})
	t.Run("closed and moved outputs", func(t *testing.T) {
		w := Start(t, d, nil)
		w.Want("exec 1>&-", "", toolset.Exited, 0)
		w.Want("echo here", "here\n", toolset.Exited, 0)
		w.Want("exec 2>&1 >/dev/null 0</dev/zero; echo nowhere", "", toolset.Exited, 0)
		w.Want("cat; echo here", "here\n", toolset.Exited, 0)
		w.Want("exec 7>kept; echo a >&7", "", toolset.Exited, 0)
		w.Want("echo b >&7; cat kept", "a\nb\n", toolset.Exited, 0)
		w.Want("exec 2>errors", "", toolset.Exited, 0)
		w.Want("echo c >&2; ls -s errors", "c\n0 errors\n", toolset.Exited, 0)
		w.Want("exec 0<kept; cat", "a\nb\n", toolset.Exited, 0)
		w.Want("exec 0<kept", "", toolset.Exited, 0)
		w.Want("cat", "", toolset.Exited, 0)
	})
	t.Run("options that change everything", func(t *testing.T) {
		w := Start(t, d, nil)
		w.Want("trap 'echo dbg' DEBUG", "", toolset.Exited, 0)
		w.Want("trap - DEBUG", "dbg\n", toolset.Exited, 0)
		if r := w.Do("set -xv; true"); strings.Contains(Output(r), "berth") {
			t.Errorf("the shell shows what is not its user's: %q", Output(r))
		}
		if r := w.Do("echo x"); r.End != toolset.Exited || !strings.HasSuffix(Output(r), "x\n") {
			t.Errorf("after set -xv: %q %s", Output(r), r.End)
		}
		w.Do("set +xv")
		w.Want("trap 'echo dbg' DEBUG\n: x", "dbg\n", toolset.Exited, 0)
		w.Want("echo y", "dbg\ny\n", toolset.Exited, 0)
		w.Want("trap - DEBUG; trap 'echo err' err", "dbg\n", toolset.Exited, 0)
		w.Want("false", "err\n", toolset.Exited, 1)
		w.Want("trap - ERR", "", toolset.Exited, 0)
		w.Want("set -uCa; IFS=x; PS4=; shopt -s nullglob", "", toolset.Exited, 0)
		w.Want("echo 'b  c'", "b  c\n", toolset.Exited, 0)
		w.Want("trap 'echo trapped' EXIT; exit 4", "trapped\n", toolset.ShellExited, 4)
	})
	t.Run("exit", func(t *testing.T) {
		w := Start(t, d, nil)
		w.Want("x=1; cd /tmp; echo bye; exit 7", "bye\n", toolset.ShellExited, 7)
		w.Want("echo ${x-fresh}; pwd", "fresh\n/workspace\n", toolset.Exited, 0)
		w.Want("set -e; echo a; false; echo b", "a\n", toolset.ShellExited, 1)
		w.Want("echo ok", "ok\n", toolset.Exited, 0)
		w.Want("exec bash -c 'echo other; exit 9'", "other\n", toolset.ShellExited, 9)
		w.Want("kill -9 $$", "", toolset.ShellExited, 137)
		w.Want("echo ok", "ok\n", toolset.Exited, 0)
	})
	t.Run("jobs go on", func(t *testing.T) {
		w := Start(t, d, nil)
		stay := Nap()
		g, back := w.gate("late"), w.gate("back")
		w.Want("sleep "+stay+" & ("+g.wait+"; echo late; "+back.knock+") & echo started", "started\n", toolset.Exited, 0)
		g.open()
		back.reached()
		w.Want("echo mine", "mine\n", toolset.Exited, 0)
		g, back = w.gate("late2"), w.gate("back2")
		begun, end := w.gate("begun"), w.gate("end")
		w.Want("("+g.wait+"; echo late; "+back.knock+") &", "", toolset.Exited, 0)
		next := make(chan toolset.Result, 1)
		go func() { next <- w.Do(begun.knock + "; " + end.wait + "; echo mine") }()
		begun.reached()
		g.open()
		back.reached()
		end.open()
		if r := <-next; Output(r) != "mine\n" {
			t.Errorf("while a job of an earlier command writes: %q", Output(r))
		}
		w.Want("(setsid sleep "+stay+" &) ; exit 2", "", toolset.ShellExited, 2)
		w.Want("echo again", "again\n", toolset.Exited, 0)
		w.reach(stay, 2)
		for range 12 { // more jobs that hold their output than there are outputs
			w.Want("sleep "+stay+" & echo x", "x\n", toolset.Exited, 0)
		}
		if err := w.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		gone(t, stay)
	})
	t.Run("a limit", func(t *testing.T) {
		w := Start(t, d, nil)
		before, during := Nap(), Nap()
		w.Want("sleep "+before+" &", "", toolset.Exited, 0)
		await(30 * 1e6)               // start times are in hundredths of a second
		const limit = 2 * time.Second // a busy machine needs a while for the first words
		r := w.Call(toolset.Command{Text: "x=1; echo partly; setsid sleep " + during + " & (sleep " + during + " &) ; sleep " + during, Timeout: limit})
		if r.End != toolset.TimedOut || Output(r) != "partly\n" || r.Elapsed < limit || r.Elapsed > patience {
			t.Errorf("got %q %s after %v", Output(r), r.End, r.Elapsed)
		}
		w.reach(during, 0)
		w.reach(before, 1)
		w.Want("echo ${x-fresh}; pwd", "fresh\n/workspace\n", toolset.Exited, 0)
	})
	t.Run("an interruption", func(t *testing.T) {
		w := Start(t, d, nil)
		during := Nap()
		g := w.gate("gate")
		ctx, cancel := contextOf(t)
		go func() { g.reached(); cancel() }()
		r, err := w.Bash(ctx, toolset.Command{Text: "echo partly; sleep " + during + " & " + g.knock + "; wait"})
		if err != nil || r.End != toolset.Interrupted || Output(r) != "partly\n" {
			t.Errorf("got %q %s %v", Output(r), r.End, err)
		}
		w.reach(during, 0)
		if r, err := w.Bash(ctx, toolset.Command{Text: "touch ran"}); err != nil || r.End != toolset.Interrupted {
			t.Errorf("with an ended context: %s %v", r.End, err)
		}
		w.Want("ls ran 2>&-", "", toolset.Exited, 2)
	})
	t.Run("a restart", func(t *testing.T) {
		w := Start(t, d, nil)
		job := Nap()
		g := w.gate("gate")
		w.Want("x=1; cd /tmp; setsid sleep "+job+" &", "", toolset.Exited, 0)
		done := make(chan toolset.Result, 1)
		go func() { done <- w.Do("echo partly; " + g.knock + "; sleep " + job) }()
		g.reached()
		if err := w.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r := <-done; r.End != toolset.Interrupted || Output(r) != "partly\n" {
			t.Errorf("got %q %s", Output(r), r.End)
		}
		w.reach(job, 0)
		w.Want("echo ${x-fresh}; pwd", "fresh\n/workspace\n", toolset.Exited, 0)
	})
	t.Run("one at a time, in order", func(t *testing.T) {
		w := Start(t, d, nil)
		g := w.gate("gate")
		first := make(chan toolset.Result, 1)
		go func() { first <- w.Do(g.knock + "; " + g.wait + "; echo 1 >>order") }()
		g.reached()
		second := make(chan toolset.Result, 1)
		go func() { second <- w.Do("echo 2 >>order") }()
		g.open()
		<-first
		<-second
		w.Want("cat order", "1\n2\n", toolset.Exited, 0)
	})
	t.Run("an id runs once", func(t *testing.T) {
		w := Start(t, d, nil)
		for range 3 {
			if r := w.Call(toolset.Command{ID: "toolu_1", Text: "echo x | tee -a ids"}); Output(r) != "x\n" {
				t.Errorf("got %q", Output(r))
			}
		}
		w.Want("cat ids", "x\n", toolset.Exited, 0)
		if r := w.Call(toolset.Command{ID: "toolu_1", Text: "echo x | tee -a ids"}); r.End != toolset.Interrupted {
			t.Errorf("an id whose result was given up: %s", r.End)
		}
		w.Want("cat ids", "x\n", toolset.Exited, 0)
	})
	t.Run("a shell that cannot report is replaced", func(t *testing.T) {
		w := Start(t, d, nil)
		w.Call(toolset.Command{Text: "d=/run/berth; [ -e $d/report ] || d=/.berth; [ -e $d/report ] && rm -rf $d/ended $d/report && : >$d/ended >$d/report", Timeout: time.Second})
		w.Want("echo ok", "ok\n", toolset.Exited, 0)
	})
	t.Run("what runs cannot speak for the shell", func(t *testing.T) {
		w := Start(t, d, nil)
		r := w.Do("d=/run/berth; [ -e $d/report ] || d=/.berth; [ -e $d/report ] && { echo '0 0000000000000000' >$d/report; echo junk >$d/report; }; [ -e $d/ended ] && : >\"$d/ended/0 hB 0000000000000000\"; echo real; (exit 3)")
		if Output(r) != "real\n" || r.ExitCode != 3 {
			t.Errorf("got %q %d", Output(r), r.ExitCode)
		}
		w.Want("echo ok", "ok\n", toolset.Exited, 0)
	})
}
