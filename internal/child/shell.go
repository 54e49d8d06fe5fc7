package child

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
)

// outputs is how many output FIFOs a shell has: one for the running command,
// the others for jobs of earlier ones that still write.
const outputs = 8

// shell is one bash. Only the loop touches it.
type shell struct {
	dir    string // holds the FIFOs and the files
	bare   bool   // nothing can be in dir that we have not made
	pid    int
	script int    // the script file
	end    int64  // of the script
	gone   int64  // up to where the script has been thrown away
	waits  int    // at which of its two FIFOs bash waits, having done all of the script
	awake  int    // that one, open to let bash go on, or -1
	nonce  string // of the last report
	report int    // the report FIFO; where bash keeps its output, a file for what is wrong with a text
	text   int    // the file that a long text is put in
	out    [outputs]output
	spare  int    // the output that the last command had and nobody writes to any more, or -1
	keeps  *keeps // nil where bash gets its outputs anew for each command
}

const (
	// blockSize is bash's for files of at least that size, and one byte for
	// FIFOs: each byte would be a system call.
	blockSize = 8192
	// maxScript is how much of the script is kept, at least.
	maxScript = 256 << 10
	// maxWord is the longest text that is put in the script itself.
	maxWord = 32 << 10
)

// output is the read end of an output FIFO.
type output struct {
	fd    int  // -1 when nobody can be writing
	busy  bool // it belongs to the running command
	guard int  // a write end of ours while a second command has it, else 0
	id    [2]uint64
}

// quote makes one word of a path.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// startShell starts bash in a directory of its own. The FIFOs are made anew:
// what an earlier shell or its jobs hold is of no use to this one.
func startShell(boot agentwire.Boot) (_ *shell, err error) {
	dir := boot.RunDir
	s := &shell{dir: dir, script: -1, awake: -1, report: -1, text: -1, spare: -1}
	for i := range s.out {
		s.out[i].fd = -1
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	err = unix.Mkdir(dir, 0o700)
	if s.bare = err == nil; err != nil && err != unix.EEXIST {
		return nil, fail("mkdir "+dir, err)
	}
	for _, name := range []string{"wake0", "wake1"} {
		if err := s.fifo(name); err != nil {
			return nil, err
		}
	}
	if boot.OwnKernel { // nobody would empty a FIFO while bash writes to it
		s.report, err = s.file("report")
	} else if err = s.fifo("report"); err == nil {
		s.report, err = openFIFO(dir + "/report")
	}
	if err != nil {
		return nil, err
	}
	if s.script, err = s.file("bash"); err != nil {
		return nil, err
	}
	if s.text, err = s.file("text"); err != nil {
		return nil, err
	}
	if err := s.append(s.preamble(boot.Workdir)); err != nil {
		return nil, err
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fail("open /dev/null", err)
	}
	defer unix.Close(null)
	out := null
	if boot.OwnKernel {
		if out, err = s.keep(); err != nil {
			return nil, err
		}
		defer unix.Close(out)
	}
	s.pid, err = syscall.ForkExec(boot.Bash, []string{boot.Bash, "--noprofile", "--norc", "bash"}, &syscall.ProcAttr{
		Dir:   dir, // the script is called "bash", and so is the shell in its messages; a program with a path is not looked for
		Env:   boot.Env,
		Files: []uintptr{uintptr(null), uintptr(out), uintptr(out)},
		Sys:   shellTies(),
	})
	if err == syscall.EAGAIN {
		return nil, errCrowded
	}
	if err != nil {
		return nil, fail("start "+boot.Bash, err)
	}
	s.bare = false
	// It starts nothing before it is woken.
	if err = bindShell(s.pid, boot.OpenFiles); err != nil {
		kill(s.pid)
		return nil, err
	}
	return s, nil
}

// errCrowded is a shell that could not be started for want of a place among
// the processes.
var errCrowded = errors.New("start bash: there are too many processes")

// preamble is what bash does first: it begins with what makes the script as
// long as a block, and ends with waiting. No command can change where.
func (s *shell) preamble(workdir string) string {
	return "#" + strings.Repeat(" ", blockSize) + "\nbuiltin cd -- " + quote(workdir) + " || builtin cd /; builtin unset OLDPWD; builtin export PS1= PS2=; " + s.await(s.waits) + " || " + again(s.await(s.waits), "") + "\n"
}

// await has bash wait for the next part of the script. It stands on the line
// that reports: all of the script has been read by then. To open a FIFO takes
// until somebody has its other end, and is two calls. There are two FIFOs, in
// turns, so that the one waited at is never still open from the last time.
func (s *shell) await(at int) string { return "4<" + quote(s.wakePath(at)) }

// again waits once more: a job that ends tears some bash out of it. One that
// cannot wait ends, by asking for what nobody can have set, and does nothing
// unbidden.
func again(wait, nonce string) string {
	return wait + " || " + wait + ` || 4<"${b` + nonce + `?}"`
}

func (s *shell) wakePath(at int) string { return s.dir + "/wake" + strconv.Itoa(at) }

// wake lets bash go on, now or when it comes to wait.
func (s *shell) wake() (err error) {
	s.awake, err = openFIFO(s.wakePath(s.waits))
	s.waits = 1 - s.waits
	return err
}

// tidy clears away what the last report has left.
func (s *shell) tidy() {
	if s.awake >= 0 {
		quickClose(s.awake)
		s.awake = -1
	}
	if s.keeps != nil {
		s.keeps.tidy()
	}
}

// clear makes room for what is to have a path.
func (s *shell) clear(path string) error {
	if s.bare {
		return nil
	}
	err := unix.Unlink(path)
	if err == unix.ENOENT {
		return nil
	}
	return fail("unlink "+path, err)
}

// file makes a file anew: nobody can have put a link in its place.
func (s *shell) file(name string) (int, error) {
	path := s.dir + "/" + name
	if err := s.clear(path); err != nil {
		return -1, err
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, fail("open "+path, err)
	}
	return fd, nil
}

// fifo makes a FIFO in the place of whatever has its name.
func (s *shell) fifo(name string) error {
	path := s.dir + "/" + name
	if err := s.clear(path); err != nil {
		return err
	}
	return fail("mkfifo "+path, unix.Mkfifo(path, 0o600))
}

// openFIFO opens a FIFO so that neither this nor a later read or write of
// ours waits for the other side.
func openFIFO(path string) (int, error) {
	fd, err := quickOpen(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC)
	return fd, fail("open "+path, err)
}

// write goes on writing a file.
func write(fd int, text string) error {
	for b := []byte(text); len(b) > 0; {
		n, err := quickWrite(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fail("write for bash", err)
		}
		b = b[n:]
	}
	return nil
}

// append adds to the script.
func (s *shell) append(script string) error {
	if err := write(s.script, script); err != nil {
		return err
	}
	s.end += int64(len(script))
	return nil
}

const (
	// reportByte begins a report. A new line would have bash write it in two
	// parts.
	reportByte = "\037"
	// warmTime is how long bash has to do something for the first time. One
	// that does not is found out by its first command.
	warmTime = 5 * time.Second
	// checked is in the place of a status in a report on a check.
	checked = "checked"
)

// say has bash, which waits, do more script: lines, and then a report. That
// stands on a line of its own: some errors end the line they are on.
//
// A session can make a function or an alias of every name, so the lines use but
// one, eval, quoted as no alias is found, and that reports and waits, too: a bash
// whose eval is something else, or that may not write where it reports, reads on
// to the script's end and has ended.
func (s *shell) say(lines, status, nonce string) error {
	if s.end-s.gone > maxScript {
		if err := unix.Ftruncate(s.script, 0); err != nil { // it goes on behind a hole
			return fail("write for bash", err)
		}
		s.gone = s.end
	}
	s.nonce = nonce
	if err := s.append(lines + `\eval ` + s.reportOf(status, nonce, s.await(1-s.waits)) + "\n"); err != nil {
		return err
	}
	s.tidy() // a bash torn out of waiting finds more to do where the last report is gone
	return s.wake()
}

// unechoed is output without the line that reports, which bash shows at its end
// where a command has told it to show what it reads or does.
func (s *shell) unechoed(out []byte) []byte {
	if s.keeps == nil || !s.keeps.loud() {
		return out
	}
	at := bytes.Index(out, []byte(s.nonce))
	if at < 0 {
		return out
	}
	return out[:bytes.LastIndexByte(out[:at], '\n')+1]
}

// reportOf is what reports and then waits: bash says of an expression that is
// none what it is.
func (s *shell) reportOf(status, nonce, wait string) string {
	if s.keeps != nil {
		return s.keeps.reportOf(status, nonce, wait)
	}
	return quote("(("+reportByte+status+" "+nonce+")) || "+wait+" || "+again(wait, nonce)) + " 2>|" + quote(s.dir+"/report")
}

// lineNumber has bash count the line after the next line end as so many, in a
// redirection of nothing: an assignment is undone where it stands.
func lineNumber(n int) string { return `((1)) <&"$((LINENO=` + strconv.Itoa(n-1) + `,0))"` + "\n" }

// warm has a bash to which calls are dear do once what each command asks of it:
// that a session's first command finds done.
func (s *shell) warm(number func() (string, error)) error {
	if s.keeps == nil {
		return nil
	}
	nonce, err := number()
	if err == nil {
		err = s.say(`\eval '((1))' </dev/null`+"\n", "$?", nonce)
	}
	if err == nil && wait(s.bell(), warmTime) == nil {
		s.reports(make([]byte, 4<<10), nonce)
		s.tidy()
	}
	return err
}

// bell is readable when there is a report.
func (s *shell) bell() int {
	if s.keeps != nil {
		return s.keeps.seen
	}
	return s.report
}

// reports reads what has been reported, among it the report with a nonce; what
// bash found wrong comes before the report on a check.
func (s *shell) reports(buf []byte, nonce string) []byte {
	if s.keeps == nil {
		n, _ := unix.Read(s.report, buf)
		return buf[:max(n, 0)]
	}
	made := s.keeps.reports(buf, nonce)
	if !bytes.HasPrefix(made, []byte(reportByte+checked)) {
		return made
	}
	n, _ := unix.Pread(s.report, buf, 0)
	return append(buf[:max(n, 0):max(n, 0)], made...)
}

// word gives a text as a word for bash, and how many lines the word has more
// than one: a long one goes through a file.
func (s *shell) word(text string) (word string, more int, err error) {
	if len(text) <= maxWord {
		return quote(text), strings.Count(text, "\n"), nil
	}
	if err := unix.Ftruncate(s.text, 0); err != nil {
		return "", 0, fail("write the command", err)
	}
	if _, err := unix.Seek(s.text, 0, io.SeekStart); err != nil {
		return "", 0, fail("write the command", err)
	}
	return `"$(<` + quote(s.dir+"/text") + `)"`, 0, write(s.text, text)
}

// check asks bash whether a text is a whole command, without running it. What
// bash finds wrong comes before the report. It must not run what it reads, so a
// process of its own first forgets functions by the names that it uses, as it can
// by POSIX's rules, and goes back to its own, with the options it had.
func (s *shell) check(text, nonce string) error {
	word, more, err := s.word(text)
	if err != nil {
		return err
	}
	return s.say(lineNumber(-1-more)+`(LC_ALL=C IFS=: __=$BASHOPTS POSIXLY_CORRECT=; \unset -f unset eval set shopt exit || \exit; \unset -v POSIXLY_CORRECT; \shopt -s $__; \eval "\set -n`+"\n"+`"`+word+
		`) </dev/null 2>|`+quote(s.dir+"/report")+" || ((1))\n", checked, nonce)
}

// run has bash evaluate a text, with its output to the FIFO of the output taken
// last. The redirection stands at the top level, where a trap at the shell's
// exit still has it.
func (s *shell) run(text, nonce string) error {
	word, more, err := s.word(text)
	if err != nil {
		return err
	}
	to := " </dev/null >|" + quote(s.dir+"/out") + " 2>&1\n"
	keep := ""
	switch {
	case s.keeps == nil || !s.keeps.has && s.keeps.out < 0:
	case s.keeps.has:
		to = "\n"
	default:
		keep = `\exec` + to
	}
	return s.say(keep+lineNumber(1-more)+`\eval `+word+to, "$?", nonce)
}

// takeOutput gives the FIFO for a command's output: the one that bash has
// already, where it keeps that, or a new one. lonely says that no job runs; what
// jobs have written until then goes into buf and nowhere else.
func (s *shell) takeOutput(turn int, lonely bool, buf []byte) (out int, err error) {
	k := s.keeps
	if k == nil {
		if out = s.reuse(buf); out >= 0 {
			return out, nil
		}
		return s.newOutput(turn)
	}
	empty := k.alone
	k.alone = false
	if k.has = k.still(s, lonely); k.has {
		for i := 0; i < maxRest && !empty; i++ {
			n, err := unix.Read(s.out[k.out].fd, buf)
			empty = n < len(buf) && err != unix.EINTR
		}
		s.out[k.out].busy = true
		return k.out, nil
	}
	out, err = s.newOutput(turn)
	if k.out = out; k.loud() || !lonely {
		k.out = -1
	}
	return out, err
}

// reuse gives the spare output to a command, unless it is not spare any more or
// what has its name is another file by now. A FIFO that has had a writer is at its
// end until the next one comes: that bash does not have it yet would look as if
// nobody had it any more.
func (s *shell) reuse(buf []byte) int {
	i := s.spare
	if s.spare = -1; i < 0 {
		return -1
	}
	o := &s.out[i]
	if n, err := quickRead(o.fd, buf); n != 0 || err != nil {
		return -1
	}
	guard, err := quickOpen(s.dir+"/out", unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC)
	if err != nil {
		return -1
	}
	if id, err := identity(guard); err != nil || id != o.id {
		quickClose(guard)
		return -1
	}
	o.busy, o.guard = true, guard
	return i
}

// leave takes the output from the command that has ended. What comes there from
// now on is a job's, and nobody's.
func (s *shell) leave(i int, buf []byte) {
	o := &s.out[i]
	o.busy = false
	if s.keeps != nil {
		return
	}
	if o.guard > 0 {
		quickClose(o.guard)
		o.guard = 0
	}
	if n, err := quickRead(o.fd, buf); n == 0 && err == nil {
		s.spare = i
	}
}

// deserted says of an output that nothing comes there until the next command.
func (s *shell) deserted(i int) bool {
	return s.spare == i || s.keeps != nil && s.keeps.alone && s.keeps.out == i && !s.out[i].busy
}

// newOutput makes a FIFO for a command; the place of the oldest job is taken
// from it when all are in use.
func (s *shell) newOutput(turn int) (int, error) {
	pick := -1
	for i := range s.out {
		if s.out[i].fd < 0 {
			pick = i
			break
		}
	}
	if pick < 0 {
		pick = turn % outputs
		unix.Close(s.out[pick].fd)
		s.out[pick].fd = -1
	}
	if err := s.fifo("out"); err != nil {
		return -1, err
	}
	fd, err := unix.Open(s.dir+"/out", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fail("open an output", err)
	}
	o := output{fd: fd, busy: true}
	if s.keeps == nil {
		if o.id, err = identity(fd); err != nil {
			unix.Close(fd)
			return -1, fail("look at an output", err)
		}
	}
	s.out[pick] = o
	return pick, nil
}

// identity tells a file from all others.
func identity(fd int) (id [2]uint64, err error) {
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	return [2]uint64{uint64(st.Dev), st.Ino}, err
}

func (s *shell) dropOutput(i int) {
	if s.out[i].fd >= 0 {
		unix.Close(s.out[i].fd)
	}
	if s.out[i].guard > 0 {
		unix.Close(s.out[i].guard)
	}
	s.out[i] = output{fd: -1}
}

// close gives up the agent's ends. Jobs that still write get EPIPE.
func (s *shell) close() {
	for _, fd := range []int{s.script, s.report, s.text} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	if s.awake >= 0 {
		unix.Close(s.awake)
	}
	s.keeps.close()
	for i := range s.out {
		s.dropOutput(i)
	}
}

func kill(pid int) { _ = unix.Kill(pid, unix.SIGKILL) }

// fail names what failed. The agent has no fmt.
func fail(what string, err error) error {
	if err == nil {
		return nil
	}
	return errors.New(what + ": " + err.Error())
}
