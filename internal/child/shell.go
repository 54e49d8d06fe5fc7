package child

import (
	"errors"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
)

// outputs is how many output FIFOs a shell has: one for the running command,
// the others for jobs of earlier ones that still write.
const outputs = 8

// shell is one bash. Only the loop touches it.
type shell struct {
	dir    string // holds the FIFOs and the files
	pid    int
	script int   // the script file
	end    int64 // of the script
	gone   int64 // up to where the script has been thrown away
	wake   int   // the FIFO at which bash waits when it has done all of the script
	report int   // the report FIFO
	text   int   // the file that a long text is put in
	out    [outputs]output
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
	fd   int  // -1 when nobody can be writing
	busy bool // it belongs to the running command
}

// quote makes one word of a path.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// startShell starts bash in a directory of its own. The FIFOs are made anew:
// what an earlier shell or its jobs hold is of no use to this one.
func startShell(boot agentwire.Boot) (s *shell, err error) {
	dir := boot.RunDir
	s = &shell{dir: dir, script: -1, wake: -1, report: -1, text: -1}
	for i := range s.out {
		s.out[i].fd = -1
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := unix.Mkdir(dir, 0o700); err != nil && err != unix.EEXIST {
		return nil, fail("mkdir "+dir, err)
	}
	for _, f := range []struct {
		name string
		fd   *int
	}{{"wake", &s.wake}, {"report", &s.report}} {
		if err := s.fifo(f.name); err != nil {
			return nil, err
		}
		if *f.fd, err = openFIFO(dir + "/" + f.name); err != nil {
			return nil, err
		}
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
	s.pid, err = syscall.ForkExec(boot.Bash, []string{"bash", "--noprofile", "--norc", "bash"}, &syscall.ProcAttr{
		Dir:   dir, // the script is called "bash", and so is the shell in its messages
		Env:   boot.Env,
		Files: []uintptr{uintptr(null), uintptr(null), uintptr(null)},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err == syscall.EAGAIN {
		return nil, errCrowded
	}
	if err != nil {
		return nil, fail("start "+boot.Bash, err)
	}
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
// long as a block, and ends with waiting. No command can change where. Before
// 4.0 there is no mapfile, which unlike read heeds no TMOUT.
func (s *shell) preamble(workdir string) string {
	await := "; [[ ${BASH_VERSINFO[0]} -gt 3 ]] && builtin readonly __w='builtin mapfile -tn 1 __berth' || builtin readonly __w='builtin read -r __berth'\n"
	return "#" + strings.Repeat(" ", blockSize) + "\nbuiltin cd -- " + quote(workdir) + " || builtin cd /; builtin unset OLDPWD; builtin export PS1= PS2=" + await + s.await()
}

// wakeWord is the line that wakes bash. At another, of whoever else writes to
// the FIFO, it waits on: at the script's end there is nothing but its own.
const wakeWord = "."

// await has bash wait for the next part of the script. It stands on the line
// that reports: all of the script has been read by then.
func (s *shell) await() string {
	return `while builtin eval "$__w" <` + quote(s.dir+"/wake") + ` && [[ ${__berth[0]-} != ` + wakeWord + " ]]; do builtin :; done\n"
}

// file makes a file anew: nobody can have put a link in its place.
func (s *shell) file(name string) (int, error) {
	path := s.dir + "/" + name
	if err := unix.Unlink(path); err != nil && err != unix.ENOENT {
		return -1, fail("unlink "+path, err)
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
	if err := unix.Unlink(path); err != nil && err != unix.ENOENT {
		return fail("unlink "+path, err)
	}
	return fail("mkfifo "+path, unix.Mkfifo(path, 0o600))
}

// openFIFO opens a FIFO so that neither this nor a later read or write of
// ours waits for the other side.
func openFIFO(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fail("open "+path, err)
	}
	return fd, nil
}

// write writes a file from a place on.
func write(fd int, text string, at int64) error {
	for b := []byte(text); len(b) > 0; {
		n, err := unix.Pwrite(fd, b, at)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fail("write for bash", err)
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

// append adds to the script.
func (s *shell) append(script string) error {
	if err := write(s.script, script, s.end); err != nil {
		return err
	}
	s.end += int64(len(script))
	return nil
}

// reportMark begins a report. A new line would have bash write it in two parts.
const reportMark = `\037`

// say has bash, which waits, do more script: lines, and then a report. That
// stands on a line of its own: some errors end the line they are on.
func (s *shell) say(lines, status, nonce string) error {
	if s.end-s.gone > maxScript {
		if err := unix.Ftruncate(s.script, 0); err != nil { // it goes on behind a hole
			return fail("write for bash", err)
		}
		s.gone = s.end
	}
	report := `builtin printf '` + reportMark + `%s %s\n' ` + status + " " + nonce + " >|" + quote(s.dir+"/report") + "; "
	if err := s.append(lines + report + s.await()); err != nil {
		return err
	}
	for {
		_, err := unix.Write(s.wake, []byte(wakeWord+"\n"))
		if err != unix.EINTR {
			return fail("wake bash", err)
		}
	}
}

// word gives a text as a word for bash, and what bash has to do before it is
// one: a long one goes through a file, up to a NUL.
func (s *shell) word(text string) (word, before string, err error) {
	if len(text) <= maxWord {
		return quote(text), "", nil
	}
	if err := unix.Ftruncate(s.text, 0); err != nil {
		return "", "", fail("write the command", err)
	}
	return `"$__berth"`, "builtin unset -v __berth; IFS= builtin read -rd '' __berth <" + quote(s.dir+"/text") + "\n", write(s.text, text+"\x00", 0)
}

// check asks bash whether a text is a whole command, without running it. What
// bash finds wrong comes before the report.
func (s *shell) check(text, nonce string) error {
	word, before, err := s.word(text)
	if err != nil {
		return err
	}
	return s.say(before+"(LC_ALL=C; builtin eval \"set -n\n\""+word+") </dev/null 2>"+quote(s.dir+"/report")+" || builtin :\n", "checked", nonce)
}

// run has bash evaluate a text, with its output to the FIFO of the output taken
// last. The redirection stands at the top level, where a trap at the shell's
// exit still has it.
func (s *shell) run(text, nonce string) error {
	word, before, err := s.word(text)
	if err != nil {
		return err
	}
	return s.say("exec </dev/null\n"+before+"eval "+word+">|"+quote(s.dir+"/out")+" 2>&1\n", "$?", nonce)
}

// takeOutput picks a FIFO for a command; the one of the oldest job is taken
// from it when all are in use.
func (s *shell) takeOutput(turn int) (int, error) {
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
	// Made anew each time: with gVisor a FIFO that has had a writer is at its end
	// until the next one comes.
	if err := s.fifo("out"); err != nil {
		return -1, err
	}
	fd, err := unix.Open(s.dir+"/out", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fail("open an output", err)
	}
	s.out[pick] = output{fd: fd, busy: true}
	return pick, nil
}

func (s *shell) dropOutput(i int) {
	if s.out[i].fd >= 0 {
		unix.Close(s.out[i].fd)
	}
	s.out[i] = output{fd: -1}
}

// close gives up the agent's ends. Jobs that still write get EPIPE.
func (s *shell) close() {
	for _, fd := range []int{s.script, s.wake, s.report, s.text} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
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
