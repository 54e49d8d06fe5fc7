package sandboxtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/toolset"
)

// turns are what a session may do to its shell.
func turns() []string {
	lines := []string{
		"set -eu -o pipefail -f -v -x", "set -n", "set -v", "set -x", "set -xv", "set -e; false", "set -u; $nothing", "set -o posix", "POSIXLY_CORRECT=1", "set -o posix; readonly POSIXLY_CORRECT",
		"readonly POSIXLY_CORRECT", "set -r", "set -k", "set -t", "set -m", "set -m; sleep 0 &", "set -a", "set -b", "set -h", "set -C", "set -E -T", "set -o history -o histexpand", "set -P", "set +B",
		"set -p", "set -- a b c; set -u", "set -o vi", "set -o ignoreeof", "set -o nolog", "set -o privileged",
		"trap 'false' DEBUG; shopt -s extdebug", "trap 'return 2' DEBUG; shopt -s extdebug", "trap 'exit 3' DEBUG", "trap 'exit 3' ERR; false", "trap : RETURN", "trap 'false' ERR",
		"trap 'echo bye' EXIT", "trap 'eval() { :; }' EXIT; exit", "trap '' HUP INT QUIT TERM CHLD PIPE USR1", "trap 'exit 9' CHLD; true & wait", "trap 'kill -STOP $$' DEBUG", "trap 'echo dbg' DEBUG; trap - DEBUG",
		"kill -STOP $$", "kill -TSTP $$; kill -TTIN $$", "suspend -f", "kill -INT $$", "kill -TERM $$", "kill -CHLD $$", "(kill -STOP $$)", "kill -9 $$", "kill -HUP $$; true", "kill -USR1 $$",
		"exec 1>&-", "exec 2>&-", "exec 0<&-", "exec 0<&- 1>&- 2>&-", "exec 3>&- 4>&- 10>&- 255>&-", "exec 255</dev/null", "exec 10>&1 11>&1 12>&1", "exec 3</dev/zero 4</dev/zero", "exec >/dev/full", "exec >/dev/null 2>&1",
		"exec >kept; echo x; exec 2>&1", "exec </dev/zero", "for i in {0..254}; do eval \"exec $i>&-\"; done", "exec {n}>kept", "echo mine & exec sleep 0", "exec true",
		"ulimit -n 0", "ulimit -n 3", "ulimit -n 4", "ulimit -n 5", "ulimit -n 11", "ulimit -n 20", "ulimit -Sn 5", "ulimit -f 0", "ulimit -c 0; ulimit -s 128", "ulimit -v 1000", "ulimit -i 0", "ulimit -q 0", "umask 777", "umask 0",
		"IFS=0", "IFS=$'0123456789abcdef \\n\\'eval'", "IFS=; readonly IFS", "PS4='$(echo x >&2)'; set -x", "PS4='${nothing?}'; set -xu", "PS4=$'\\n\\037' PS1=x; set -x", "BASH_ENV=/dev/zero ENV=/dev/zero; export BASH_ENV ENV",
		"PROMPT_COMMAND='exit 3'", "PATH=; CDPATH=/; HOME=/nowhere", "TMOUT=1", "LC_ALL=C.UTF-8 LANG=xx LANGUAGE=de", "export LC_ALL=nowhere", "BASH_COMPAT=3.1", "FUNCNEST=1", "EXECIGNORE=* GLOBIGNORE=*", "GLOBIGNORE=*; shopt -s failglob",
		"readonly PS1 PS2 PS4 IFS LINENO OLDPWD PWD REPLY OPTIND LC_ALL BASHOPTS", "readonly __ LINENO; set -o posix", "unset LINENO; LINENO=x", "unset BASH_ALIASES FUNCNAME PS1 PS2", "declare -i LINENO PS1; declare -n __=x", "declare -r __=1 IFS",
		"f() { return 3; }; readonly -f f; f", "unset -f f; unset -v PATH", "cd /tmp; mkdir gone; cd gone; rmdir ../gone", "cd /; umask 222", "x=$(head -c 3000000 /dev/zero | tr '\\0' x); export x", "export y=$'a\\nb' 2>&1", "hash -p /nowhere eval",
		"enable -n eval", "enable -n exec builtin printf", "enable -n set unset", "alias eval='echo no' exec='echo no'; shopt -s expand_aliases", "BASH_ALIASES[eval]=exit; shopt -s expand_aliases", "alias set=true unset=true exit=true shopt=true; shopt -s expand_aliases",
		"command_not_found_handle() { sleep 100; }", "eval() { builtin eval \"$@\"; }", "eval() { return 1; }", "eval() { exit 5; }", "eval() { echo \"$@\" >/dev/null; }; readonly -f eval", "function exec { return 1; }; sleep 0.2 & true",
		"exec() { :; }; builtin exec >kept", "set() { :; }; readonly -f set", "unset() { :; }; readonly -f unset", "set() { :; }; unset() { :; }; eval() { command eval \"$@\"; }", "exit() { :; }; readonly -f exit set eval", "export -f eval 2>&1; eval() { :; }; export -f eval",
		"return 5", "break; continue 2", "exit", "exit 300", "logout", "bash -c 'exit 3'", "fc -l; history -c; true", "disown -a; wait", "shopt -s execfail; exec /nowhere", "exec /nowhere", "cd() { :; }; pushd() { :; }; cd /nowhere",
		"echo $((1/0))", "${x!}", "${nothing?gone}", "echo ${!}; x[-1]=3", "readonly r; r=1", "readonly r; r=1 eval :", "declare -r r; r=2; echo never", "let 1/0; ((08))", "a=(; ", "case", "`", "cat <<X\nx", ")", "}; exit 3; {", "fi", "'\n)",
	}
	for _, option := range strings.Fields("autocd assoc_expand_once cdable_vars cdspell checkhash checkjobs checkwinsize cmdhist compat31 compat32 compat44 direxpand dotglob execfail expand_aliases extdebug extglob extquote " +
		"failglob force_fignore globasciiranges globskipdots globstar gnu_errfmt histappend huponexit inherit_errexit interactive_comments lastpipe localvar_inherit localvar_unset nocaseglob nocasematch noexpand_translation " +
		"nullglob patsub_replacement shift_verbose sourcepath varredir_close xpg_echo") {
		lines = append(lines, "shopt -s "+option, "shopt -u "+option)
	}
	for _, name := range strings.Fields("builtin command exec eval exit trap read printf unset set return test [ cd source . shopt true false : export declare local typeset readonly alias unalias enable " +
		"break continue shift times wait kill jobs ulimit umask type hash mapfile getopts let bash /bin/bash LINENO __ 1 4 'a b' LC_ALL=C") {
		lines = append(lines, name+"() { :; }", name+"() { return 1; }; readonly -f "+name)
	}
	return lines
}

// testTurned: whatever a session has made of its shell, the call that did ends,
// and the next ones are right, in that shell or a fresh one.
func testTurned(t *testing.T, d sandbox.Driver) {
	w := Start(t, d, nil)
	long := "echo ok #" + strings.Repeat("x", 40<<10)
	for _, line := range turns() {
		if err := w.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.Want("umask 022; rm -f ran", "", toolset.Exited, 0)
		r := w.Call(toolset.Command{Text: line, Timeout: patience})
		switch r.End {
		case toolset.Exited, toolset.ShellExited, toolset.Incomplete:
		default:
			t.Errorf("%q: %s after %v", line, r.End, r.Elapsed)
		}
		if r.End == toolset.Exited && !strings.HasPrefix(line, "ulimit -n") && strings.Contains(Output(r), "berth") {
			t.Errorf("%q: said %q", line, Output(r))
		}
		for _, next := range []string{"echo ok", "{ echo ok; }", long, "cd /workspace; if echo ran >>ran; then echo ok; fi", "sleep 0.01 & echo ok", "wait; echo ok"} {
			r := w.Call(toolset.Command{Text: next, Timeout: patience})
			if r.End == toolset.ShellExited { // then by what was made of it
				r = w.Call(toolset.Command{Text: next, Timeout: patience})
			}
			ours := strings.Contains(Output(r), "berth") || strings.Contains(Output(r), "LINENO=") // of the script around the text
			if !strings.Contains(Output(r), "ok\n") || r.End != toolset.Exited || ours {
				t.Errorf("%q, then %.40q: %q %s %d", line, next, Output(r), r.End, r.ExitCode)
			}
		}
		_ = os.Chmod(filepath.Join(w.Spec.Tree, "workspace/ran"), 0o644) // an ordinary user reads what the umask lets it
		if b := readFile(t, w, "/workspace/ran"); b != "ran\n" {
			t.Errorf("%q: the text that was looked at has run %q", line, b)
		}
	}
}
