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
	dir    string // holds the FIFOs and the text file
	pid    int
	script int // write end of the script FIFO
	report int // the report FIFO
	text   int // the file that the command's text is put in
	out    [outputs]output
}

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
	s = &shell{dir: dir, script: -1, report: -1, text: -1}
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
	if err := s.fifo("bash"); err != nil {
		return nil, err
	}
	if err := s.fifo("report"); err != nil {
		return nil, err
	}
	if s.script, err = openFIFO(dir + "/bash"); err != nil {
		return nil, err
	}
	if s.report, err = openFIFO(dir + "/report"); err != nil {
		return nil, err
	}
	start, err := s.file("start")
	if err != nil {
		return nil, err
	}
	err = write(start, s.preamble(boot.Workdir))
	unix.Close(start)
	if err != nil {
		return nil, err
	}
	if s.text, err = s.file("text"); err != nil {
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
	// It waits for its script, so it starts nothing before it is bound.
	err = bindShell(s.pid, boot.OpenFiles)
	if err == nil {
		err = s.say("builtin . " + quote(dir+"/start") + "\n")
	}
	if err != nil {
		kill(s.pid)
		return nil, err
	}
	return s, nil
}

// errCrowded is a shell that could not be started for want of a place among
// the processes.
var errCrowded = errors.New("start bash: there are too many processes")

// preamble is what bash does first. Bash reads its script from a FIFO byte by
// byte, a system call each, so what it is told for each command is short: the
// rest is in variables that no command can change. A command's redirection
// stands at the top level, where a trap at the shell's exit still has it.
func (s *shell) preamble(workdir string) string {
	take := "exec </dev/null; IFS= builtin read -rd '' __berth <" + quote(s.dir+"/text")
	tell := `builtin printf '\n%s %s\n' $? >|` + quote(s.dir+"/report")
	return "builtin cd -- " + quote(workdir) + " || builtin cd /; builtin unset OLDPWD; builtin export PS1= PS2=\n" +
		"builtin readonly __b=" + quote(take) + " __e=" + quote(tell) + " __o=" + quote(s.dir+"/out") + "\n"
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
	err := unix.Mkfifo(path, 0o600)
	if err == unix.EEXIST {
		if err := unix.Unlink(path); err != nil {
			return fail("unlink "+path, err)
		}
		err = unix.Mkfifo(path, 0o600)
	}
	return fail("mkfifo "+path, err)
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

// put stores a command's text where bash reads it, up to a NUL.
func (s *shell) put(text string) error {
	if err := unix.Ftruncate(s.text, 0); err != nil {
		return fail("write the command", err)
	}
	return write(s.text, text+"\x00")
}

// write writes a file from its start.
func write(fd int, text string) error {
	for at := 0; at < len(text); {
		n, err := unix.Pwrite(fd, []byte(text[at:]), int64(at))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fail("write for bash", err)
		}
		at += n
	}
	return nil
}

// say gives bash script to read. It is short and bash has read what came
// before it, so it fits.
func (s *shell) say(script string) error {
	for b := []byte(script); len(b) > 0; {
		n, err := unix.Write(s.script, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fail("speak to bash", err)
		}
		b = b[n:]
	}
	return nil
}

// check asks bash whether the text that was put is a whole command, without
// running it. What bash finds wrong comes before the report.
func (s *shell) check(nonce string) error {
	return s.say("IFS= builtin read -rd '' __berth <" + quote(s.dir+"/text") + "\n" +
		"(LC_ALL=C; builtin eval \"set -n\n$__berth\") </dev/null 2>" + quote(s.dir+"/report") + " || builtin :\n" +
		"builtin printf '\\n%s %s\\n' checked " + nonce + " >|" + quote(s.dir+"/report") + "\n")
}

// run has bash evaluate the text that was put, with its output to the FIFO of
// the output taken last. The report stands on a line of its own: some errors
// end the line they are on.
func (s *shell) run(nonce string) error {
	return s.say("eval \"$__b\"\neval \"$__berth\">|\"$__o\" 2>&1\neval \"$__e\" " + nonce + "\n")
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
	for _, fd := range []int{s.script, s.report, s.text} {
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
