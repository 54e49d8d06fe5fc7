package test

// corpusCase is a session of its own: set-up commands, whose answer is not
// compared, then calls. The corpus is what the official worker and ours must
// answer alike.
type corpusCase struct {
	name  string
	setup string // bash; neither tabs nor "!" come through the official shell
	calls []corpusCall
}

// corpusCall is one call and, where ours is to answer otherwise, the
// improvement by which it does. {{workdir}} is the working directory.
type corpusCall struct {
	tool, input string
	differs     string // name of an improvement; "" for the same answer
	differsRG   string // the same where the official worker's grep is rg
}

// but marks a call whose answer is better than the official one.
func (c corpusCall) but(improvement string) corpusCall {
	c.differs = improvement
	return c
}

func call(tool string, input map[string]any) corpusCall {
	return corpusCall{tool: tool, input: mustJSON(input)}
}

func bash(command string) corpusCall { return call("bash", map[string]any{"command": command}) }

// bashFor has a limit in milliseconds, for commands that may hang.
func bashFor(ms int, command string) corpusCall {
	return call("bash", map[string]any{"command": command, "timeout_ms": ms})
}

func read(path string, lines ...int) corpusCall {
	in := map[string]any{"file_path": path}
	if len(lines) > 0 {
		in["view_range"] = lines
	}
	return call("read", in)
}

func write(path, content string) corpusCall {
	return call("write", map[string]any{"file_path": path, "content": content})
}

func edit(path, old, new string) corpusCall {
	return call("edit", map[string]any{"file_path": path, "old_string": old, "new_string": new})
}

func editAll(path, old, new string) corpusCall {
	return call("edit", map[string]any{"file_path": path, "old_string": old, "new_string": new, "replace_all": true})
}

func glob(pattern string, path ...string) corpusCall { return search("glob", pattern, path) }
func grep(pattern string, path ...string) corpusCall { return search("grep", pattern, path) }

func search(tool, pattern string, path []string) corpusCall {
	in := map[string]any{"pattern": pattern}
	if len(path) > 0 {
		in["path"] = path[0]
	}
	return call(tool, in)
}

var corpus = []corpusCase{
	// bash: output
	{"bash output", "", []corpusCall{bash("echo hello"), bash("printf 'no line end'"), bash("echo one; echo; echo; echo two")}},
	{"bash streams", "", []corpusCall{bash("echo out; echo err >&2; echo out again")}},
	{"bash silence", "", []corpusCall{bash("true"), bash(": nothing"), bashFor(1000, "# a comment")}},
	{"bash unicode", "", []corpusCall{bash("echo 'grüße, 世界 🌍'"), bash("x='日本'; echo ${#x}")}},
	{"bash invalid UTF-8", "", []corpusCall{bash(`printf 'a\xff\xfeb\n'`)}},
	{"bash NUL output", "", []corpusCall{bash(`printf 'a\0b\n'`)}},
	{"bash colours", "", []corpusCall{bash(`printf '\033[31mred\033[0m plain\n'`), bash(`printf '\033]0;title\007text\n'`)}},
	{"bash CR LF", "", []corpusCall{bash(`printf 'a\r\nb\r\n'`)}},
	{"bash progress", "", []corpusCall{bash(`printf '10%%\r20%%\r30%%\n'`)}},
	{"bash blank lines", "", []corpusCall{bash(`printf '\n\nfirst\n'`), bash(`printf 'last\n\n\n'`)}},
	{"bash tabs in output", "", []corpusCall{bash(`printf 'a\tb\n'`)}},
	{"bash big output", "", []corpusCall{bash("seq 1 40000"), bash("head -c 300000 /dev/zero | tr '\\0' x")}},
	{"bash output near the limit", "", []corpusCall{bash("head -c 100000 /dev/zero | tr '\\0' y")}},

	// bash: the end of a command
	{"bash exit codes", "", []corpusCall{bash("false"), bash("(exit 3)"), bash("echo some; (exit 42)"), bash("printf abc; false"), bash("true; echo after")}},
	{"bash command not found", "", []corpusCall{bash("no-such-program"), bash("/no/such/program"), bash("cat missing.txt")}},
	{"bash exit", "", []corpusCall{bash("echo before; exit 7"), bash("echo alive")}},
	{"bash exit 0", "", []corpusCall{bash("x=1; exit 0"), bash(`echo "[$x]"`)}},
	{"bash errexit", "", []corpusCall{bash("set -e; false; echo not here"), bash("echo alive")}},
	{"bash killed", "", []corpusCall{bash("kill -9 $$"), bash("echo alive")}},
	{"bash signal", "", []corpusCall{bash("bash -c 'kill -TERM $$'")}},
	{"bash timeout", "", []corpusCall{bashFor(700, "x=1; echo partial; sleep 30"), bash(`echo "[$x] $PWD"`)}},
	{"bash timeout without output", "", []corpusCall{bashFor(500, "sleep 30")}},
	{"bash default timeouts", "", []corpusCall{bashFor(0, "echo zero"), bashFor(-5, "echo negative")}},
	{"bash fractional timeout", "", []corpusCall{{tool: "bash", input: `{"command":"echo ok","timeout_ms":5e3}`}}},

	// bash: state
	{"bash state", "mkdir -p sub", []corpusCall{bash("cd sub; x=5; f() { echo \"f $1\"; }; export Y=6"), bash(`pwd; echo $x; f z; bash -c 'echo $Y'`)}},
	{"bash restart", "", []corpusCall{
		bash("cd /tmp; x=5"), {tool: "bash", input: `{"restart":true}`}, bash(`pwd; echo "[$x]"`),
		bash("x=6"), {tool: "bash", input: `{"restart":true,"command":"echo \"[$x]\""}`}}},
	{"bash restart first", "", []corpusCall{{tool: "bash", input: `{"restart":true}`}}},
	{"bash background job", "", []corpusCall{bash("(sleep 0.2; echo made > job.txt) & echo started"), bash("wait; cat job.txt")}},
	{"bash options", "", []corpusCall{bash("set -u; set -o pipefail"), bash("false | true"), bash("set +o pipefail; false | true")}},
	{"bash redirections kept", "", []corpusCall{bashFor(1500, "exec 1>&-"), bash("echo back")}},

	// bash: input
	{"bash empty stdin", "", []corpusCall{bash("cat; echo end"), bash("read x; echo $?")}},
	{"bash heredoc", "", []corpusCall{bash("cat <<'EOF'\nline $x\n  indented \\ back\nEOF"), bash("cat > f.txt <<EOF\nsum $((1+2))\nEOF\ncat f.txt")}},
	{"bash tabs in a heredoc", "", []corpusCall{bash("cat > Makefile <<'EOF'\nall:\n\techo made\nEOF\nod -c Makefile | head -2")}},
	{"bash tabs in a command", "", []corpusCall{bash("echo 'a\tb' | od -c")}},
	{"bash exclamation mark", "", []corpusCall{bashFor(1500, `echo "hello!world"`), bash("echo 'quoted!too'"), bash(`echo "end!"`)}},
	{"bash control characters", "", []corpusCall{bashFor(1500, "echo 'a\x04b' | od -c"), bashFor(1500, "echo 'a\x03b' | od -c"), bashFor(1500, "echo 'a\x1bb' | od -c")}},
	{"bash CR LF in a command", "", []corpusCall{bashFor(1500, "printf '%s\\n' 'a\r\nb' | od -c")}},
	{"bash NUL in a command", "", []corpusCall{bashFor(1500, "echo a\x00b")}},
	{"bash unclosed quote", "", []corpusCall{bashFor(1000, "echo 'open"), bash("echo alive")}},
	{"bash unclosed block", "", []corpusCall{bashFor(1000, "if true; then echo x"), bashFor(1000, "cat <<EOF\nnever ended"), bash("echo alive")}},
	{"bash syntax error", "", []corpusCall{bashFor(1000, "if then fi"), bash("echo alive")}},
	{"bash stray brace", "", []corpusCall{bashFor(1000, "echo a; }"), bash("echo alive")}},
	{"bash backslash at the end", "", []corpusCall{bashFor(1000, `echo a \`)}},
	{"bash several lines", "", []corpusCall{bash("for i in 1 2 3\ndo\n  echo $i\ndone"), bash("a() {\n  echo in a\n}\na")}},
	{"bash long command", "", []corpusCall{bash("x='" + repeat("0123456789", 2000) + "'; echo ${#x}")}},
	{"bash no terminal", "", []corpusCall{bash("test -t 1 && echo terminal || echo none"), bash("echo $TERM"), bash("tty")}},
	{"bash columns", "touch a b c", []corpusCall{bash("ls")}},
	{"bash interactive", "", []corpusCall{bash("case $- in *i*) echo interactive;; *) echo plain;; esac")}},
	{"bash no credentials", "", []corpusCall{bash("env | grep -c ANTHROPIC"), bash(`echo "[$PS1$PS2]"`)}},
	{"bash marker", "", []corpusCall{bash("echo __ANT_CMD_0000000000000000_DONE__0; (exit 3)")}},
	{"bash no command", "", []corpusCall{{tool: "bash", input: `{}`}, {tool: "bash", input: `{"command":""}`}, bashFor(1000, " ")}},
	{"bash wrong types", "", []corpusCall{{tool: "bash", input: `{"command":7}`}, {tool: "bash", input: `{"command":"echo x","restart":"yes"}`}, {tool: "bash", input: `{"command":"echo x","timeout_ms":"5000"}`}, {tool: "bash", input: `{"command":["echo"]}`}}},
	{"bash unknown arguments", "", []corpusCall{{tool: "bash", input: `{"command":"echo ok","description":"say ok","x":{"y":1}}`}}},

	// read
	{"read text", `printf 'alpha\nbeta\n' > f.txt`, []corpusCall{read("f.txt"), read("./f.txt"), read("{{workdir}}/f.txt"), read("x/../f.txt")}},
	{"read without a line end", "printf 'alpha\\nbeta' > f.txt", []corpusCall{read("f.txt")}},
	{"read empty", "touch f.txt", []corpusCall{read("f.txt"), read("f.txt", 1, 5)}},
	{"read blank lines", `printf '\n\n\n' > f.txt`, []corpusCall{read("f.txt"), read("f.txt", 2, 2)}},
	{"read missing", "", []corpusCall{read("nothing.txt"), read("no/such/dir.txt"), read("{{workdir}}/nothing.txt")}},
	{"read directory", "mkdir d", []corpusCall{read("d"), read(".")}},
	{"read below a file", "echo x > f", []corpusCall{read("f/g")}},
	{"read outside", "", []corpusCall{read("/etc/passwd"), read("../outside.txt"), read("/etc/nothing"), read("/proc/self/environ")}},
	{"read links", "echo text > f; ln -s f link; ln -s /etc/passwd escape; ln -s nowhere dangling; ln -s loop loop; ln -s /etc outdir; mkdir d; ln -s ../f d/up", []corpusCall{
		read("link"), read("escape"), read("dangling"), read("loop"), read("outdir/passwd"), read("d/up")}},
	{"read special files", "mkfifo pipe", []corpusCall{read("pipe")}},
	{"read range", "seq 1 10 > f.txt", []corpusCall{read("f.txt", 2, 4), read("f.txt", 9, -1), read("f.txt", 9, 0), read("f.txt", 0, 2), read("f.txt", -3, 2), read("f.txt", 8, 99), read("f.txt", 3, 3)}},
	{"read range beyond", "seq 1 3 > f.txt", []corpusCall{read("f.txt", 50, 60), read("f.txt", 3, 2), read("f.txt", 4, 9), read("f.txt", 10, 3)}},
	{"read range of wrong length", "echo x > f.txt", []corpusCall{read("f.txt", 1), read("f.txt", 1, 2, 3), {tool: "read", input: `{"file_path":"f.txt","view_range":[]}`}, {tool: "read", input: `{"file_path":"f.txt","view_range":null}`}}},
	{"read range of wrong type", "echo x > f.txt", []corpusCall{{tool: "read", input: `{"file_path":"f.txt","view_range":"1-2"}`}, {tool: "read", input: `{"file_path":"f.txt","view_range":["a","b"]}`}, {tool: "read", input: `{"file_path":"f.txt","view_range":[1.5,2]}`}}},
	{"read CR LF", `printf 'a\r\nb\r\n' > f.txt`, []corpusCall{read("f.txt"), read("f.txt", 1, 1)}},
	{"read unicode", `printf 'grüße\n世界\n' > 'schöne datei.txt'`, []corpusCall{read("schöne datei.txt"), read("schöne datei.txt", 2, 2)}},
	{"read byte order mark", `printf '\xef\xbb\xbftext\n' > f.txt`, []corpusCall{read("f.txt")}},
	{"read latin-1", `printf 'gr\xfc\xdfe aus K\xf6ln, ein ganzer Satz\n' > f.txt`, []corpusCall{read("f.txt")}},
	{"read binary", `printf '\x7fELF\x02\x01\x01\x00\x00' > f.bin; printf 'a\x00b\x00' > nul.bin; printf 'PK\x03\x04\x14\x00\x00' > f.zip`, []corpusCall{read("f.bin"), read("nul.bin"), read("f.zip")}},
	{"read pictures", `printf '\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR' > f.png; printf 'GIF89a\x01\x00\x01\x00' > f.gif; printf '%%PDF-1.4\n' > f.pdf; printf 'text\n' > not.png`, []corpusCall{read("f.png"), read("f.gif"), read("f.pdf"), read("not.png")}},
	{"read too large", "seq 1 100000 > f.txt", []corpusCall{read("f.txt"), read("f.txt", 99999, 100000), read("f.txt", 1, 90000), read("f.txt", 1, -1)}},
	{"read one long line", "head -c 300000 /dev/zero | tr '\\0' z > f.txt", []corpusCall{read("f.txt"), read("f.txt", 1, 1), read("f.txt", 2, 2)}},
	{"read just within the limit", "head -c 262144 /dev/zero | tr '\\0' z > f.txt", []corpusCall{read("f.txt", 2, 2)}},
	{"read no path", "", []corpusCall{{tool: "read", input: `{}`}, {tool: "read", input: `{"file_path":""}`}, {tool: "read", input: `{"file_path":5}`}, {tool: "read", input: `{"path":"f.txt"}`}}},
	{"read odd names", `printf 'x\n' > ' lead'; printf 'y\n' > '*.txt'; printf 'z\n' > '~'`, []corpusCall{read(" lead"), read("*.txt"), read("~"), read("a\x00b")}},
	{"read long name", "", []corpusCall{read(repeat("n", 300))}},

	// write
	{"write new", "", []corpusCall{write("f.txt", "alpha\nbeta\n"), bash("cat f.txt; stat -c %a f.txt"), write("{{workdir}}/g.txt", "x")}},
	{"write over", "echo old > f.txt", []corpusCall{write("f.txt", "new"), read("f.txt")}},
	{"write empty", "echo old > f.txt", []corpusCall{write("f.txt", ""), bash("wc -c < f.txt")}},
	{"write parents", "", []corpusCall{write("a/b/c.txt", "deep"), bash("cat a/b/c.txt; stat -c %a a a/b")}},
	{"write unicode", "", []corpusCall{write("grüße.txt", "äöü 🌍"), bash("wc -c < grüße.txt")}},
	{"write odd content", "", []corpusCall{write("f", "a\x00b\r\nc\td"), bash("od -c f")}},
	{"write large", "", []corpusCall{write("f.txt", repeat("0123456789abcdef", 40000)), bash("wc -c < f.txt")}},
	{"write at a directory", "mkdir d", []corpusCall{write("d", "x"), write("d/", "x"), write(".", "x")}},
	{"write below a file", "echo x > f", []corpusCall{write("f/g", "y"), bash("cat f")}},
	{"write outside", "ln -s /etc/escape escape; ln -s /tmp outdir", []corpusCall{write("/etc/berth-corpus", "x"), write("../up", "x"), write("escape", "x"), write("outdir/x", "x")}},
	{"write links", "echo old > f; ln -s f link; ln -s target dangling; ln -s loop loop", []corpusCall{
		write("link", "new"), bash("cat f; readlink link"), write("dangling", "made"), bash("cat target; readlink dangling"), write("loop", "x")}},
	{"write keeps the mode", "printf 'x' > run.sh; chmod 755 run.sh; printf 'x' > secret; chmod 600 secret", []corpusCall{write("run.sh", "y"), write("secret", "y"), bash("stat -c %a run.sh secret")}},
	{"write keeps hard links", "echo old > one; ln one two", []corpusCall{write("one", "new"), bash("cat two; stat -c %h one")}},
	{"write to a pipe", "mkfifo pipe", []corpusCall{write("pipe", "x"), bash("stat -c %F pipe")}},
	{"write without arguments", "echo old > f.txt", []corpusCall{{tool: "write", input: `{}`}, {tool: "write", input: `{"content":"x"}`}, {tool: "write", input: `{"file_path":"f.txt"}`}, {tool: "write", input: `{"file_path":"f.txt","content":7}`}, bash("wc -c < f.txt")}},
	{"write long name", "", []corpusCall{write(repeat("n", 300), "x")}},

	// edit
	{"edit", `printf 'alpha\nbeta\ngamma\n' > f.txt`, []corpusCall{edit("f.txt", "beta", "BETA"), read("f.txt"), edit("f.txt", "alpha\nBETA", "one"), read("f.txt")}},
	{"edit all", "echo 'a b a b a' > f.txt", []corpusCall{editAll("f.txt", "a", "c"), read("f.txt"), editAll("f.txt", "zzz", "c")}},
	{"edit not found", "echo text > f.txt", []corpusCall{edit("f.txt", "nothing", "x"), edit("f.txt", "TEXT", "x")}},
	{"edit not unique", "echo 'a a a' > f.txt", []corpusCall{edit("f.txt", "a", "b"), read("f.txt")}},
	{"edit to nothing", "echo 'keep drop' > f.txt", []corpusCall{edit("f.txt", " drop", ""), read("f.txt")}},
	{"edit to the same", "echo same > f.txt", []corpusCall{edit("f.txt", "same", "same")}},
	{"edit unicode", "printf 'grüße 世界\n' > f.txt", []corpusCall{edit("f.txt", "世界", "🌍"), read("f.txt")}},
	{"edit missing", "mkdir d", []corpusCall{edit("nothing.txt", "a", "b"), edit("d", "a", "b"), edit("/etc/passwd", "root", "x"), edit("d/f/g", "a", "b")}},
	{"edit links", "echo old > f; ln -s f link; ln -s /etc/passwd escape", []corpusCall{edit("link", "old", "new"), bash("cat f; readlink link"), edit("escape", "root", "x")}},
	{"edit special files", "mkfifo pipe", []corpusCall{edit("pipe", "a", "b")}},
	{"edit large", "seq 1 60000 > f.txt", []corpusCall{edit("f.txt", "59999\n60000", "end"), bash("tail -1 f.txt")}},
	{"edit CR LF", `printf 'a\r\nb\r\nc\r\n' > f.txt`, []corpusCall{edit("f.txt", "a\nb", "x\ny"), bash("od -c f.txt"), edit("f.txt", "c\r\n", "z\r\n"), bash("od -c f.txt")}},
	{"edit one line of CR LF", `printf 'a\r\nb\r\n' > f.txt`, []corpusCall{edit("f.txt", "b", "c"), bash("od -c f.txt")}},
	{"edit keeps the mode", "printf 'x' > run.sh; chmod 755 run.sh", []corpusCall{edit("run.sh", "x", "y"), bash("stat -c %a run.sh")}},
	{"edit keeps hard links", "echo old > one; ln one two", []corpusCall{edit("one", "old", "new"), bash("cat two; stat -c %h one")}},
	{"edit binary", `printf 'a\x00b\xffc' > f.bin`, []corpusCall{edit("f.bin", "c", "d"), bash("od -c f.bin")}},
	{"edit without arguments", "echo old > f.txt", []corpusCall{{tool: "edit", input: `{}`}, {tool: "edit", input: `{"file_path":"f.txt"}`}, {tool: "edit", input: `{"file_path":"f.txt","old_string":"","new_string":"x"}`}, {tool: "edit", input: `{"file_path":"f.txt","old_string":"old"}`}, bash("cat f.txt")}},
	{"edit wrong types", "echo old > f.txt", []corpusCall{{tool: "edit", input: `{"file_path":"f.txt","old_string":1,"new_string":"x"}`}, {tool: "edit", input: `{"file_path":"f.txt","old_string":"old","new_string":"x","replace_all":"yes"}`}}},

	// glob
	{"glob", globTree, []corpusCall{glob("*.txt"), glob("**/*.txt"), glob("sub/*.txt"), glob("s*/d*/*"), glob("**"), glob("*"), glob("?.txt"), glob("[ab].txt"), glob("**/deep/**")}},
	{"glob path", globTree, []corpusCall{glob("*.txt", "sub"), glob("*.txt", "{{workdir}}/sub"), glob("*", "."), glob("*.txt", "sub/../sub")}},
	{"glob no matches", "touch f", []corpusCall{glob("*.none"), glob("F")}},
	{"glob missing directory", "touch f", []corpusCall{glob("*", "nothing"), glob("*", "f")}},
	{"glob outside", "", []corpusCall{glob("/etc/*"), glob("../*"), glob("a/../../*"), glob("*", "/etc"), glob("*", "..")}},
	{"glob hidden", "mkdir -p .git node_modules .h; touch -d @3 .git/x; touch -d @2 node_modules/x; touch -d @1 .h/x", []corpusCall{glob("**/x")}},
	{"glob links", "mkdir d; touch d/f; ln -s d link; ln -s /etc etc; ln -s nowhere broken; touch -h -d @1 link; touch -h -d @2 etc; touch -h -d @3 broken", []corpusCall{glob("link/*"), glob("*n*"), glob("etc")}},
	{"glob braces", "touch -d @2 a.js; touch -d @1 a.ts; touch -d @3 '{a,b}'", []corpusCall{glob("*.{js,ts}")}},
	{"glob invalid", "touch f", []corpusCall{glob("["), glob("[z-a]"), glob("a[")}},
	{"glob many", "for i in $(seq 1000 1249); do touch -d @$i f$i; done", []corpusCall{glob("f*")}},
	{"glob exactly 200", "for i in $(seq 1000 1199); do touch -d @$i f$i; done", []corpusCall{glob("f*")}},
	{"glob dot and slash", "mkdir d; touch d/f", []corpusCall{glob("./d/*"), glob("d/"), glob("d//f")}},
	{"glob unicode", "touch -d @2 grüße.txt; touch -d @1 'a b.txt'", []corpusCall{glob("gr*"), glob("*.txt")}},
	{"glob without arguments", "", []corpusCall{{tool: "glob", input: `{}`}, {tool: "glob", input: `{"pattern":""}`}, {tool: "glob", input: `{"pattern":3}`}}},

	// grep
	{"grep", grepTree, []corpusCall{grep("needle"), grep("^needle"), grep("nee.le$"), grep("(?i)NEEDLE"), grep("NEEDLE"), grep("needle", "b"), grep("needle", "{{workdir}}/b")}},
	{"grep a file", grepTree, []corpusCall{grep("needle", "a.txt"), grep("needle", "{{workdir}}/a.txt"), grep("needle", "./a.txt")}},
	{"grep no matches", grepTree, []corpusCall{grep("nowhere"), grep("nowhere", "a.txt")}},
	{"grep missing path", "", []corpusCall{grep("x", "nothing"), grep("x", "nothing/below")}},
	{"grep outside", "ln -s /etc/passwd escape", []corpusCall{grep("root", "/etc/passwd"), grep("root", "../.."), grep("root", "escape"), grep("root")}},
	{"grep invalid", "echo x > f", []corpusCall{grep("("), grep("[z-a]"), grep("*"), grep(`\`)}},
	{"grep left out", "mkdir .git node_modules; echo needle > .git/f; echo needle > node_modules/f; echo needle > .hidden; echo needle > ignored; echo ignored > .gitignore; echo needle > f", []corpusCall{grep("needle")}},
	{"grep binary", `printf 'needle\x00\n' > f.bin; echo needle > f.txt`, []corpusCall{grep("needle"), grep("needle", "f.bin")}},
	{"grep CR LF", `printf 'needle\r\nhay\r\n' > f.txt`, []corpusCall{grep("needle"), grep("needle$")}},
	{"grep unicode", `printf 'grüße\n世界\n' > f.txt`, []corpusCall{grep("世"), grep("gr..e"), grep(`\p{Han}`)}},
	{"grep invalid UTF-8", `printf 'gr\xfc\xdfe\n' > f.txt`, []corpusCall{grep("gr")}},
	{"grep classes", `printf 'a1\nb22\nc333\n' > f.txt`, []corpusCall{grep(`\d{2}`), grep(`\bc\d+\b`), grep("^[ab]"), grep("a1|c3"), grep(`^$`), grep("")}},
	{"grep long line", "{ printf needle; head -c 3000 /dev/zero | tr '\\0' x; echo; } > f.txt", []corpusCall{grep("needle")}},
	{"grep much", "for i in $(seq 1 3000); do printf 'needle %0100d\\n' $i; done > f.txt", []corpusCall{grep("needle")}},
	{"grep a large file", "{ head -c 9000000 /dev/zero | tr '\\0' '\\n'; echo needle; } > f.txt", []corpusCall{grep("needle")}},
	{"grep dashes", "echo '-e text' > f.txt; echo x > ./-f", []corpusCall{grep("-e"), grep("x", "-f")}},
	{"grep without arguments", "", []corpusCall{{tool: "grep", input: `{}`}, {tool: "grep", input: `{"pattern":["x"]}`}}},
	{"grep special files", "mkfifo pipe; echo needle > f", []corpusCall{grep("needle"), grep("needle", "pipe")}},
}

// globTree has files of different ages.
const globTree = "mkdir -p sub/deep; i=0; for f in a.txt b.txt c.md sub/d.txt sub/deep/e.txt; do i=$((i+1)); touch -d @$((i*100)) $f; done; touch -d @5000 sub; touch -d @6000 sub/deep"

const grepTree = "mkdir -p b; printf 'one\\nneedle here\\n' > a.txt; printf 'needle\\nhay\\nneedle\\n' > b/c.txt; echo hay > d.txt"

func repeat(s string, n int) string {
	var b []byte
	for range n {
		b = append(b, s...)
	}
	return string(b)
}
