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
	better      *improvement // nil for the same answer
	betterRG    *improvement // the same where the official worker's grep is rg
}

// but marks a call whose answer is better than the official one, whatever its
// grep is.
func (c corpusCall) but(i *improvement) corpusCall {
	c.better, c.betterRG = i, i
	return c
}

// rg says by what the answer differs where the official worker's grep is rg.
func (c corpusCall) rg(i *improvement) corpusCall {
	c.betterRG = i
	return c
}

// raw is a call with arguments as they stand.
func raw(tool, input string) corpusCall { return corpusCall{tool: tool, input: input} }

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

// improvement is a way in which our answers are meant to differ. docs/migrating.md
// lists them.
type improvement struct {
	title    string
	official string // what the official worker does
	ours     string
}

var (
	noExtraLine = &improvement{"No extra line", "adds a line end to every output of bash",
		"line ends at the end of an output are left out, nothing is added"}
	asTyped = &improvement{"A command arrives as it was written",
		"types it into a terminal: tabs vanish, also out of here-documents (a Makefile is broken), `!` in double quotes is replaced or refused, control characters act",
		"bash reads the text itself, byte for byte"}
	asWritten = &improvement{"Output comes as it was written", "drops each CR and the blank lines before the first text; titles that programs set are left in",
		"CR and blank lines stay; all terminal sequences are taken out"}
	noTerminal = &improvement{"No terminal", "bash and its programs believe that somebody types: columns, job notices, prompts",
		"a script's shell: one name a line from `ls`, no job notices. Messages of bash itself carry a line number (`bash: line 6: …`), and it names the signal that ended a program"}
	whole = &improvement{"A command that is no whole one is answered at once", "an open quote, bracket or here-document, a syntax error, a comment alone and `exec 1>&-` hang until the time limit and cost the shell with all its state",
		"what is wrong is said at once, in bash's words, and the shell goes on"}
	shellEnd = &improvement{"The end of the shell has a status and its output", "`exit 7`, `set -e` and a kill give `bash session terminated` and nothing of the output",
		"the output, the exit code, and that the next command gets a fresh shell. `exit 0` is no error"}
	bothEnds   = &improvement{"Long output keeps its beginning", "keeps the last 100 KiB", "keeps both ends, 100 KiB in all, with a line that says how much is left out between them"}
	nul        = &improvement{"No NUL on the wire", "passes NUL on in results; a NUL in a command disappears", "U+FFFD stands for a NUL of a result; a command with a NUL is refused"}
	wrongTypes = &improvement{"Arguments of a wrong type are refused", "guesses: a number is a path, a list is the text of a list, a range that is no range is the whole file",
		"the error names the argument and the type it must have; nothing is run or written"}
	cutOff = &improvement{"A call that lost an argument changes nothing", "`write` without `content` empties the file, `edit` without `new_string` deletes the text",
		"both are refused; an empty text has to be said"}
	roots = &improvement{"File tools reach the session's other directories", "only the working directory",
		"also `/mnt/session/outputs`, `/mnt/memory` and `/tmp` of the session, and the refusal says so"}
	reasons = &improvement{"A refused write says what is in its way", "`file exists` for a directory of that name; `mkdir: not a directory`", "`is a directory`; `not a directory`"}
	binary  = &improvement{"`read` shows pictures and PDFs, and no binary mud", "gives the bytes as text",
		"PNG, JPEG, GIF, WebP and PDF come as blocks; other binary files are refused with what they are"}
	keeps = &improvement{"`write` and `edit` keep what the file is", "mode 644 for every file (a script loses its x), hard links are broken, a pipe is replaced by a file",
		"mode, owner and hard links stay; pipes, sockets and devices are refused"}
	largeEdits = &improvement{"`edit` takes large files", "up to 256 KiB", "up to 16 MiB"}
	lineEnds   = &improvement{"`edit` fits line ends", "text with LF does not match a file with CR LF", "it matches, and the file keeps CR LF"}
	missing    = &improvement{"A search of what is not there says so", "`no matches` (or an error of `rg`)", "the reason: no such directory, not a regular file"}
	patterns   = &improvement{"`glob` takes more patterns, and refuses broken ones", "no braces; `./` and `//` match nothing; a broken pattern matches nothing",
		"`{a,b}`; `./`, `//` and a `/` at the end mean what they mean to a shell; a broken pattern is an error"}
	leftOut = &improvement{"A search says what it left out", "stops after 200 paths, 100 KiB or 50,000 entries, and skips files of more than 8 MiB, without a word or with `[output truncated]`",
		"up to 1,000,000 entries, files of any size, long lines cut around the match; the last line says what is missing and how to get it"}
	grepLines = &improvement{"`grep` finds lines as an editor shows them", "a CR belongs to the line, so `x$` misses it; an empty line is found after the last line end", "a CR at the end is not part of the line; only lines that are there are found"}
	oneGrep   = &improvement{"`grep` is the same everywhere", "depends on the machine: with `rg` on the path hidden and ignored files are left out, a single file's lines have no path, and the syntax is another",
		"one engine (RE2 syntax): hidden and ignored files count, `.git` and `node_modules` do not, every line is `path:line:text`"}
)

// improvements are all of them, in the order of the page.
var improvements = []*improvement{
	noExtraLine, asTyped, asWritten, noTerminal, whole, shellEnd, bothEnds, nul, wrongTypes, cutOff, roots,
	reasons, binary, keeps, largeEdits, lineEnds, missing, patterns, leftOut, grepLines, oneGrep,
}

var corpus = []corpusCase{
	// bash: output
	{"bash output", "", []corpusCall{bash("echo hello"), bash("printf 'no line end'"), bash("echo one; echo; echo; echo two")}},
	{"bash streams", "", []corpusCall{bash("echo out; echo err >&2; echo out again")}},
	{"bash silence", "", []corpusCall{bash("true"), bash(": nothing"), bashFor(1000, "# a comment").but(whole)}},
	{"bash unicode", "", []corpusCall{bash("echo 'grüße, 世界 🌍'"), bash("x='日本'; echo ${#x}")}},
	{"bash invalid UTF-8", "", []corpusCall{bash(`printf 'a\xff\xfeb\n'`)}},
	{"bash NUL output", "", []corpusCall{bash(`printf 'a\0b\n'`).but(nul)}},
	{"bash colours", "", []corpusCall{bash(`printf '\033[31mred\033[0m plain\n'`), bash(`printf '\033]0;title\007text\n'`).but(asWritten)}},
	{"bash CR LF", "", []corpusCall{bash(`printf 'a\r\nb\r\n'`).but(asWritten)}},
	{"bash progress", "", []corpusCall{bash(`printf '10%%\r20%%\r30%%\n'`).but(asWritten)}},
	{"bash blank lines", "", []corpusCall{bash(`printf '\n\nfirst\n'`).but(asWritten), bash(`printf 'last\n\n\n'`)}},
	{"bash tabs in output", "", []corpusCall{bash(`printf 'a\tb\n'`)}},
	{"bash big output", "", []corpusCall{bash("seq 1 40000").but(bothEnds), bash("head -c 300000 /dev/zero | tr '\\0' x").but(bothEnds)}},
	{"bash output near the limit", "", []corpusCall{bash("head -c 100000 /dev/zero | tr '\\0' y")}},

	// bash: the end of a command
	{"bash exit codes", "", []corpusCall{bash("false"), bash("(exit 3)"), bash("echo some; (exit 42)"), bash("printf abc; false"), bash("true; echo after")}},
	{"bash command not found", "", []corpusCall{bash("no-such-program").but(noTerminal), bash("/no/such/program").but(noTerminal), bash("cat missing.txt")}},
	{"bash exit", "", []corpusCall{bash("echo before; exit 7").but(shellEnd), bash("echo alive")}},
	{"bash exit 0", "", []corpusCall{bash("x=1; exit 0").but(shellEnd), bash(`echo "[$x]"`)}},
	{"bash errexit", "", []corpusCall{bash("set -e; false; echo not here").but(shellEnd), bash("echo alive")}},
	{"bash killed", "", []corpusCall{bash("kill -9 $$").but(shellEnd), bash("echo alive")}},
	{"bash signal", "", []corpusCall{bash("bash -c 'kill -TERM $$'").but(noTerminal)}},
	{"bash timeout", "", []corpusCall{bashFor(3000, "x=1; echo partial; sleep 30"), bash(`echo "[$x] $PWD"`)}},
	{"bash timeout without output", "", []corpusCall{bashFor(500, "sleep 30")}},
	{"bash default timeouts", "", []corpusCall{bashFor(0, "echo zero"), bashFor(-5, "echo negative")}},
	{"bash fractional timeout", "", []corpusCall{raw("bash", `{"command":"echo ok","timeout_ms":5e3}`)}},

	// bash: state
	{"bash state", "mkdir -p sub", []corpusCall{bash("cd sub; x=5; f() { echo \"f $1\"; }; export Y=6"), bash(`pwd; echo $x; f z; bash -c 'echo $Y'`)}},
	{"bash restart", "", []corpusCall{
		bash("cd /tmp; x=5"), raw("bash", `{"restart":true}`), bash(`pwd; echo "[$x]"`),
		bash("x=6"), raw("bash", `{"restart":true,"command":"echo \"[$x]\""}`)}},
	{"bash restart first", "", []corpusCall{raw("bash", `{"restart":true}`)}},
	{"bash background job", "", []corpusCall{bash("(sleep 0.2; echo made > job.txt) & echo started").but(noTerminal), bash("wait; cat job.txt")}},
	{"bash options", "", []corpusCall{bash("set -u; set -o pipefail"), bash("false | true"), bash("set +o pipefail; false | true")}},
	{"bash redirections kept", "", []corpusCall{bashFor(1500, "exec 1>&-").but(whole), bash("echo back")}},

	// bash: input
	{"bash empty stdin", "", []corpusCall{bash("cat; echo end"), bash("read x; echo $?")}},
	{"bash heredoc", "", []corpusCall{bash("cat <<'EOF'\nline $x\n  indented \\ back\nEOF"), bash("cat > f.txt <<EOF\nsum $((1+2))\nEOF\ncat f.txt")}},
	{"bash tabs in a heredoc", "", []corpusCall{bash("cat > Makefile <<'EOF'\nall:\n\techo made\nEOF\nod -c Makefile | head -2").but(asTyped)}},
	{"bash tabs in a command", "", []corpusCall{bash("echo 'a\tb' | od -c").but(asTyped)}},
	{"bash exclamation mark", "", []corpusCall{bashFor(1500, `echo "hello!world"`).but(asTyped), bash("echo 'quoted!too'"), bash(`echo "end!"`)}},
	{"bash control characters", "", []corpusCall{bashFor(1500, "echo 'a\x04b' | od -c").but(asTyped), bashFor(1500, "echo 'a\x03b' | od -c").but(asTyped), bashFor(1500, "echo 'a\x1bb' | od -c").but(asTyped)}},
	{"bash CR LF in a command", "", []corpusCall{bashFor(1500, "printf '%s\\n' 'a\r\nb' | od -c").but(asTyped)}},
	{"bash NUL in a command", "", []corpusCall{bashFor(1500, "echo a\x00b").but(nul)}},
	{"bash unclosed quote", "", []corpusCall{bashFor(1000, "echo 'open").but(whole), bash("echo alive")}},
	{"bash unclosed block", "", []corpusCall{bashFor(1000, "if true; then echo x").but(whole), bashFor(1000, "cat <<EOF\nnever ended").but(whole), bash("echo alive")}},
	{"bash syntax error", "", []corpusCall{bashFor(1000, "if then fi").but(whole), bash("echo alive")}},
	{"bash stray brace", "", []corpusCall{bashFor(1000, "echo a; }").but(whole), bash("echo alive")}},
	{"bash backslash at the end", "", []corpusCall{bashFor(1000, `echo a \`).but(whole)}},
	{"bash several lines", "", []corpusCall{bash("for i in 1 2 3\ndo\n  echo $i\ndone"), bash("a() {\n  echo in a\n}\na")}},
	{"bash long command", "", []corpusCall{bash("x='" + repeat("0123456789", 300) + "'; echo ${#x}")}},
	{"bash no terminal", "", []corpusCall{bash("test -t 1 && echo terminal || echo none").but(noTerminal), bash("echo $TERM"), bash("tty")}},
	{"bash columns", "touch a b c", []corpusCall{bash("ls").but(noTerminal)}},
	{"bash interactive", "", []corpusCall{bash("case $- in *i*) echo interactive;; *) echo plain;; esac").but(noTerminal)}},
	{"bash no credentials", "", []corpusCall{bash("env | grep -c ANTHROPIC"), bash(`echo "[$PS1$PS2]"`)}},
	{"bash marker", "", []corpusCall{bash("echo __ANT_CMD_0000000000000000_DONE__0; (exit 3)")}},
	{"bash no command", "", []corpusCall{raw("bash", `{}`), raw("bash", `{"command":""}`), bashFor(1000, " ").but(whole)}},
	{"bash wrong types", "", []corpusCall{raw("bash", `{"command":7}`).but(wrongTypes), raw("bash", `{"command":"echo x","restart":"yes"}`).but(wrongTypes), raw("bash", `{"command":"echo x","timeout_ms":"5000"}`).but(wrongTypes), raw("bash", `{"command":["echo"]}`).but(wrongTypes)}},
	{"bash unknown arguments", "", []corpusCall{raw("bash", `{"command":"echo ok","description":"say ok","x":{"y":1}}`)}},

	// read
	{"read text", `printf 'alpha\nbeta\n' > f.txt`, []corpusCall{read("f.txt"), read("./f.txt"), read("{{workdir}}/f.txt"), read("x/../f.txt")}},
	{"read without a line end", "printf 'alpha\\nbeta' > f.txt", []corpusCall{read("f.txt")}},
	{"read empty", "touch f.txt", []corpusCall{read("f.txt"), read("f.txt", 1, 5)}},
	{"read blank lines", `printf '\n\n\n' > f.txt`, []corpusCall{read("f.txt"), read("f.txt", 2, 2)}},
	{"read missing", "", []corpusCall{read("nothing.txt"), read("no/such/dir.txt"), read("{{workdir}}/nothing.txt")}},
	{"read directory", "mkdir d", []corpusCall{read("d"), read(".")}},
	{"read below a file", "echo x > f", []corpusCall{read("f/g")}},
	{"read outside", "", []corpusCall{read("/etc/passwd").but(roots), read("../outside.txt").but(roots), read("/etc/nothing").but(roots), read("/proc/self/environ").but(roots)}},
	{"read links", "echo text > f; ln -s f link; ln -s /etc/passwd escape; ln -s nowhere dangling; ln -s loop loop; ln -s /etc outdir; mkdir d; ln -s ../f d/up", []corpusCall{
		read("link"), read("escape").but(roots), read("dangling"), read("loop"), read("outdir/passwd").but(roots), read("d/up")}},
	{"read special files", "mkfifo pipe", []corpusCall{read("pipe")}},
	{"read range", "seq 1 10 > f.txt", []corpusCall{read("f.txt", 2, 4), read("f.txt", 9, -1), read("f.txt", 9, 0), read("f.txt", 0, 2), read("f.txt", -3, 2), read("f.txt", 8, 99), read("f.txt", 3, 3)}},
	{"read range beyond", "seq 1 3 > f.txt", []corpusCall{read("f.txt", 50, 60), read("f.txt", 3, 2), read("f.txt", 4, 9), read("f.txt", 10, 3)}},
	{"read range of wrong length", "echo x > f.txt", []corpusCall{read("f.txt", 1), read("f.txt", 1, 2, 3), raw("read", `{"file_path":"f.txt","view_range":[]}`), raw("read", `{"file_path":"f.txt","view_range":null}`)}},
	{"read range of wrong type", "echo x > f.txt", []corpusCall{raw("read", `{"file_path":"f.txt","view_range":"1-2"}`).but(wrongTypes), raw("read", `{"file_path":"f.txt","view_range":["a","b"]}`).but(wrongTypes), raw("read", `{"file_path":"f.txt","view_range":[1.5,2]}`).but(wrongTypes)}},
	{"read CR LF", `printf 'a\r\nb\r\n' > f.txt`, []corpusCall{read("f.txt"), read("f.txt", 1, 1)}},
	{"read unicode", `printf 'grüße\n世界\n' > 'schöne datei.txt'`, []corpusCall{read("schöne datei.txt"), read("schöne datei.txt", 2, 2)}},
	{"read byte order mark", `printf '\xef\xbb\xbftext\n' > f.txt`, []corpusCall{read("f.txt")}},
	{"read latin-1", `printf 'gr\xfc\xdfe aus K\xf6ln, ein ganzer Satz\n' > f.txt`, []corpusCall{read("f.txt")}},
	{"read binary", `printf '\x7fELF\x02\x01\x01\x00\x00' > f.bin; printf 'a\x00b\x00' > nul.bin; printf 'PK\x03\x04\x14\x00\x00' > f.zip`, []corpusCall{read("f.bin").but(binary), read("nul.bin").but(binary), read("f.zip").but(binary)}},
	{"read pictures", `printf '\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR' > f.png; printf 'GIF89a\x01\x00\x01\x00' > f.gif; printf '%%PDF-1.4\n' > f.pdf; printf 'text\n' > not.png`, []corpusCall{read("f.png").but(binary), read("f.gif").but(binary), read("f.pdf").but(binary), read("not.png")}},
	{"read too large", "seq 1 100000 > f.txt", []corpusCall{read("f.txt"), read("f.txt", 99999, 100000), read("f.txt", 1, 90000), read("f.txt", 1, -1)}},
	{"read one long line", "head -c 300000 /dev/zero | tr '\\0' z > f.txt", []corpusCall{read("f.txt"), read("f.txt", 1, 1), read("f.txt", 2, 2)}},
	{"read just within the limit", "head -c 262144 /dev/zero | tr '\\0' z > f.txt", []corpusCall{read("f.txt", 2, 2)}},
	{"read no path", "", []corpusCall{raw("read", `{}`), raw("read", `{"file_path":""}`), raw("read", `{"file_path":5}`).but(wrongTypes), raw("read", `{"path":"f.txt"}`)}},
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
	{"write at a directory", "mkdir d", []corpusCall{write("d", "x").but(reasons), write("d/", "x").but(reasons), write(".", "x").but(reasons)}},
	{"write below a file", "echo x > f", []corpusCall{write("f/g", "y").but(reasons), bash("cat f")}},
	{"write outside", "ln -s /etc/escape escape; ln -s /tmp outdir", []corpusCall{write("/etc/berth-corpus", "x").but(roots), write("../up", "x").but(roots), write("escape", "x").but(roots), write("outdir/x", "x").but(roots)}},
	{"write links", "echo old > f; ln -s f link; ln -s target dangling; ln -s loop loop", []corpusCall{
		write("link", "new"), bash("cat f; readlink link"), write("dangling", "made"), bash("cat target; readlink dangling"), write("loop", "x")}},
	{"write keeps the mode", "printf 'x' > run.sh; chmod 755 run.sh; printf 'x' > secret; chmod 600 secret", []corpusCall{write("run.sh", "y"), write("secret", "y"), bash("stat -c %a run.sh secret").but(keeps)}},
	{"write keeps hard links", "echo old > one; ln one two", []corpusCall{write("one", "new"), bash("cat two; stat -c %h one").but(keeps)}},
	{"write to a pipe", "mkfifo pipe", []corpusCall{write("pipe", "x").but(keeps), bash("stat -c %F pipe").but(keeps)}},
	{"write without arguments", "echo old > f.txt", []corpusCall{raw("write", `{}`), raw("write", `{"content":"x"}`), raw("write", `{"file_path":"f.txt"}`).but(cutOff), raw("write", `{"file_path":"f.txt","content":7}`).but(wrongTypes), bash("wc -c < f.txt").but(cutOff)}},
	{"write long name", "", []corpusCall{write(repeat("n", 300), "x")}},

	// edit
	{"edit", `printf 'alpha\nbeta\ngamma\n' > f.txt`, []corpusCall{edit("f.txt", "beta", "BETA"), read("f.txt"), edit("f.txt", "alpha\nBETA", "one"), read("f.txt")}},
	{"edit all", "echo 'a b a b a' > f.txt", []corpusCall{editAll("f.txt", "a", "c"), read("f.txt"), editAll("f.txt", "zzz", "c")}},
	{"edit not found", "echo text > f.txt", []corpusCall{edit("f.txt", "nothing", "x"), edit("f.txt", "TEXT", "x")}},
	{"edit not unique", "echo 'a a a' > f.txt", []corpusCall{edit("f.txt", "a", "b"), read("f.txt")}},
	{"edit to nothing", "echo 'keep drop' > f.txt", []corpusCall{edit("f.txt", " drop", ""), read("f.txt")}},
	{"edit to the same", "echo same > f.txt", []corpusCall{edit("f.txt", "same", "same")}},
	{"edit unicode", "printf 'grüße 世界\n' > f.txt", []corpusCall{edit("f.txt", "世界", "🌍"), read("f.txt")}},
	{"edit missing", "mkdir d", []corpusCall{edit("nothing.txt", "a", "b"), edit("d", "a", "b"), edit("/etc/passwd", "root", "x").but(roots), edit("d/f/g", "a", "b")}},
	{"edit links", "echo old > f; ln -s f link; ln -s /etc/passwd escape", []corpusCall{edit("link", "old", "new"), bash("cat f; readlink link"), edit("escape", "root", "x").but(roots)}},
	{"edit special files", "mkfifo pipe", []corpusCall{edit("pipe", "a", "b")}},
	{"edit large", "seq 1 60000 > f.txt", []corpusCall{edit("f.txt", "59999\n60000", "end").but(largeEdits), bash("tail -1 f.txt").but(largeEdits)}},
	{"edit CR LF", `printf 'a\r\nb\r\nc\r\n' > f.txt`, []corpusCall{edit("f.txt", "a\nb", "x\ny").but(lineEnds), bash("od -c f.txt").but(lineEnds), edit("f.txt", "c\r\n", "z\r\n"), bash("od -c f.txt").but(lineEnds)}},
	{"edit one line of CR LF", `printf 'a\r\nb\r\n' > f.txt`, []corpusCall{edit("f.txt", "b", "c"), bash("od -c f.txt")}},
	{"edit keeps the mode", "printf 'x' > run.sh; chmod 755 run.sh", []corpusCall{edit("run.sh", "x", "y"), bash("stat -c %a run.sh").but(keeps)}},
	{"edit keeps hard links", "echo old > one; ln one two", []corpusCall{edit("one", "old", "new"), bash("cat two; stat -c %h one").but(keeps)}},
	{"edit binary", `printf 'a\x00b\xffc' > f.bin`, []corpusCall{edit("f.bin", "c", "d"), bash("od -c f.bin")}},
	{"edit without arguments", "echo old > f.txt", []corpusCall{raw("edit", `{}`), raw("edit", `{"file_path":"f.txt"}`), raw("edit", `{"file_path":"f.txt","old_string":"","new_string":"x"}`), raw("edit", `{"file_path":"f.txt","old_string":"old"}`).but(cutOff), bash("cat f.txt").but(cutOff)}},
	{"edit wrong types", "echo old > f.txt", []corpusCall{raw("edit", `{"file_path":"f.txt","old_string":1,"new_string":"x"}`).but(wrongTypes), raw("edit", `{"file_path":"f.txt","old_string":"old","new_string":"x","replace_all":"yes"}`).but(wrongTypes)}},

	// glob
	{"glob", globTree, []corpusCall{glob("*.txt"), glob("**/*.txt"), glob("sub/*.txt"), glob("s*/d*/*"), glob("**"), glob("*"), glob("?.txt"), glob("[ab].txt"), glob("**/deep/**")}},
	{"glob path", globTree, []corpusCall{glob("*.txt", "sub"), glob("*.txt", "{{workdir}}/sub"), glob("*", "."), glob("*.txt", "sub/../sub")}},
	{"glob no matches", "touch f", []corpusCall{glob("*.none"), glob("F")}},
	{"glob missing directory", "touch f", []corpusCall{glob("*", "nothing").but(missing), glob("*", "f").but(missing)}},
	{"glob outside", "", []corpusCall{glob("/etc/*"), glob("../*"), glob("a/../../*"), glob("*", "/etc").but(roots), glob("*", "..").but(roots)}},
	{"glob hidden", "mkdir -p .git node_modules .h; touch -d @3 .git/x; touch -d @2 node_modules/x; touch -d @1 .h/x", []corpusCall{glob("**/x")}},
	{"glob links", "mkdir d; touch d/f; ln -s d link; ln -s /etc etc; ln -s nowhere broken; touch -h -d @1 link; touch -h -d @2 etc; touch -h -d @3 broken", []corpusCall{glob("link/*"), glob("*n*"), glob("etc")}},
	{"glob braces", "touch -d @2 a.js; touch -d @1 a.ts; touch -d @3 '{a,b}'", []corpusCall{glob("*.{js,ts}").but(patterns)}},
	{"glob invalid", "touch f", []corpusCall{glob("[").but(patterns), glob("[z-a]"), glob("a[").but(patterns)}},
	{"glob many", "for i in $(seq 1000 1249); do touch -d @$i f$i; done", []corpusCall{glob("f*").but(leftOut)}},
	{"glob exactly 200", "for i in $(seq 1000 1199); do touch -d @$i f$i; done", []corpusCall{glob("f*")}},
	{"glob dot and slash", "mkdir d; touch d/f", []corpusCall{glob("./d/*").but(patterns), glob("d/").but(patterns), glob("d//f").but(patterns)}},
	{"glob unicode", "touch -d @2 grüße.txt; touch -d @1 'a b.txt'", []corpusCall{glob("gr*"), glob("*.txt")}},
	{"glob without arguments", "", []corpusCall{raw("glob", `{}`), raw("glob", `{"pattern":""}`), raw("glob", `{"pattern":3}`).but(wrongTypes)}},

	// grep
	{"grep", grepTree, []corpusCall{grep("needle"), grep("^needle"), grep("nee.le$"), grep("(?i)NEEDLE"), grep("NEEDLE"), grep("needle", "b"), grep("needle", "{{workdir}}/b")}},
	{"grep a file", grepTree, []corpusCall{grep("needle", "a.txt").rg(oneGrep), grep("needle", "{{workdir}}/a.txt").rg(oneGrep), grep("needle", "./a.txt").rg(oneGrep)}},
	{"grep no matches", grepTree, []corpusCall{grep("nowhere"), grep("nowhere", "a.txt")}},
	{"grep missing path", "", []corpusCall{grep("x", "nothing").but(missing), grep("x", "nothing/below").but(missing)}},
	{"grep outside", "ln -s /etc/passwd escape", []corpusCall{grep("root", "/etc/passwd").but(roots), grep("root", "../..").but(roots), grep("root", "escape").but(roots), grep("root")}},
	{"grep invalid", "echo x > f", []corpusCall{grep("(").rg(oneGrep), grep("[z-a]").rg(oneGrep), grep("*").rg(oneGrep), grep(`\`).rg(oneGrep)}},
	{"grep left out", "mkdir .git node_modules; echo needle > .git/f; echo needle > node_modules/f; echo needle > .hidden; echo needle > ignored; echo ignored > .gitignore; echo needle > f", []corpusCall{grep("needle").rg(oneGrep)}},
	{"grep binary", `printf 'needle\x00\n' > f.bin; echo needle > f.txt`, []corpusCall{grep("needle"), grep("needle", "f.bin").but(leftOut)}},
	{"grep CR LF", `printf 'needle\r\nhay\r\n' > f.txt`, []corpusCall{grep("needle").but(grepLines), grep("needle$").but(grepLines)}},
	{"grep unicode", `printf 'grüße\n世界\n' > f.txt`, []corpusCall{grep("世"), grep("gr..e"), grep(`\p{Han}`)}},
	{"grep invalid UTF-8", `printf 'gr\xfc\xdfe\n' > f.txt`, []corpusCall{grep("gr")}},
	{"grep classes", `printf 'a1\nb22\nc333\n' > f.txt`, []corpusCall{grep(`\d{2}`), grep(`\bc\d+\b`), grep("^[ab]"), grep("a1|c3"), grep(`^$`).but(grepLines).rg(nil), grep("")}},
	{"grep long line", "{ printf needle; head -c 3000 /dev/zero | tr '\\0' x; echo; } > f.txt", []corpusCall{grep("needle").but(leftOut)}},
	{"grep much", "for i in $(seq 1 3000); do printf 'needle %0100d\\n' $i; done > f.txt", []corpusCall{grep("needle").but(leftOut)}},
	{"grep a large file", "{ head -c 9000000 /dev/zero | tr '\\0' '\\n'; echo needle; } > f.txt", []corpusCall{grep("needle").but(leftOut)}},
	{"grep dashes", "echo '-e text' > f.txt; echo x > ./-f", []corpusCall{grep("-e"), grep("x", "-f").rg(oneGrep)}},
	{"grep without arguments", "", []corpusCall{raw("grep", `{}`), raw("grep", `{"pattern":["x"]}`).but(wrongTypes)}},
	{"grep special files", "mkfifo pipe; echo needle > f", []corpusCall{grep("needle")}},
	{grepPipe, "mkfifo pipe", []corpusCall{grep("needle", "pipe").but(missing)}},
}

// grepPipe is a case in which rg waits for a writer.
const grepPipe = "grep a pipe"

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
