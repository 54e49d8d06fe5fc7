package child

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// keeps is what a shell does without in a sandbox that has a kernel of its own,
// as gVisor, where a system call costs ten microseconds and more: bash keeps
// its output from one command to the next, as long as nobody else can have it,
// and reports by making a file, whose name is all that is said. That is four
// calls in place of some forty, and no option of bash shows it.
type keeps struct {
	dir   string // of the shell
	seen  int    // says which files are made in the directory of the reports
	links int    // /proc/PID/fd of bash, -1 until it is needed
	out   int    // the place of the output that bash has to have, -1 for none
	has   bool   // and it has it
	ran   bool   // bash has run a command
	alone bool   // no job runs, and none can come before the next command
	more  bool   // there may be more reports than were read
	flags string // $- after the last command
	traps bool   // a command may have set a trap that runs with each of bash's commands, ours too
	made  string // the last report, "" when it is removed
}

const endedDir = "/ended"

// keep makes an output for bash to begin with, and gives the end for writing.
func (s *shell) keep() (fd int, err error) {
	dir := s.dir + endedDir
	err = unix.Mkdir(dir, 0o700)
	if err == unix.EEXIST { // of an earlier shell, unless a session has put something in its place
		var st unix.Stat_t
		if unix.Lstat(dir, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = unix.Chmod(dir, 0o700)
		} else if err = unix.Unlink(dir); err == nil {
			err = unix.Mkdir(dir, 0o700)
		}
	}
	if err != nil {
		return -1, fail("mkdir "+dir, err)
	}
	k := &keeps{dir: s.dir, seen: -1, links: -1}
	s.keeps = k
	if k.seen, err = unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC); err != nil {
		return -1, fail("inotify", err)
	}
	if _, err := unix.InotifyAddWatch(k.seen, dir, unix.IN_CREATE); err != nil {
		return -1, fail("watch "+dir, err)
	}
	if k.out, err = s.newOutput(0); err != nil {
		return -1, err
	}
	s.out[k.out].busy = false
	fd, err = unix.Open(s.dir+"/out", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	return fd, fail("open an output", err)
}

func (k *keeps) close() {
	if k == nil {
		return
	}
	for _, fd := range []int{k.seen, k.links} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// reportOf makes a file, by a redirection of nothing. What follows is a
// redirection, too: between the two no trap can start anything. Without the file
// nobody would end the waiting.
func (k *keeps) reportOf(status, nonce, wait string) string {
	path := quote(quote(k.dir+endedDir+"/")) + `'"'"` + status + ` $-"` + quote(" "+nonce+`"`)
	return "'3>|'" + path + quote(" "+wait+" || [[ ! -e ") + path + quote(" ]] || "+again(wait, nonce))
}

// reports looks for the report with a nonce and gives it as a report FIFO would.
func (k *keeps) reports(buf []byte, nonce string) (report []byte) {
	const room = 4096
	n, _ := quickRead(k.seen, buf[:room])
	k.more = n > room/2
	for b := buf[:max(n, 0)]; len(b) >= unix.SizeofInotifyEvent; {
		size := min(int(binary.NativeEndian.Uint32(b[12:])), len(b)-unix.SizeofInotifyEvent)
		name := string(bytes.TrimRight(b[unix.SizeofInotifyEvent:][:size], "\x00"))
		b = b[unix.SizeofInotifyEvent+size:]
		said, ok := strings.CutSuffix(name, " "+nonce)
		word, flags, whole := strings.Cut(said, " ")
		if ok && whole {
			k.made, k.flags = name, flags
			report = []byte(reportByte + word + " " + nonce + "\n")
		}
	}
	return report
}

// tidy removes the last report.
func (k *keeps) tidy() {
	if k.made != "" {
		quickUnlink(k.dir + endedDir + "/" + k.made)
		k.made = ""
	}
}

// loud says that bash shows what it reads or does: then its script is not to
// be seen among the output.
func (k *keeps) loud() bool { return k.traps || strings.ContainsAny(k.flags, "vx") }

// heed notes what a command may make of bash.
func (k *keeps) heed(text string) {
	if k == nil || k.traps || !strings.Contains(text, "trap") {
		return
	}
	text = strings.ToUpper(text)
	k.traps = strings.Contains(text, "DEBUG") || strings.Contains(text, "ERR")
}

// still says that bash has its outputs as it got them, and nobody else: a
// command may have put something else in their places, or left a job that has
// them too.
func (k *keeps) still(s *shell, lonely bool) bool {
	if !k.ran {
		k.ran = true
		return !k.traps
	}
	if !lonely || k.out < 0 || k.loud() || s.out[k.out].fd < 0 {
		return false
	}
	if k.links < 0 {
		var err error
		if k.links, err = unix.Open("/proc/"+strconv.Itoa(s.pid)+"/fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return false
		}
	}
	return linkIs(k.links, 0, "/dev/null") && linkIs(k.links, 1, s.dir+"/out") && linkIs(k.links, 2, s.dir+"/out")
}

// lonely says that no job runs. The kernel counts as many tasks then as before
// the first command. Programs beside the shell come and go with theirs.
func (a *agent) lonely() bool {
	now := tasks()
	if a.idle == 0 {
		a.idle = now
		if len(a.programs) > 0 {
			a.idle = -1
		}
	}
	return now == a.idle && len(a.programs) == 0
}

// settle notes whether the command that has ended left a job.
func (a *agent) settle() {
	if k := a.shell.keeps; k != nil {
		k.alone = a.lonely()
	}
}

// tasks is how many processes and threads the kernel has.
func tasks() int {
	var si unix.Sysinfo_t
	if quickSysinfo(&si) != nil {
		return 0
	}
	return int(si.Procs)
}

func linkIs(dir, fd int, path string) bool {
	var b [256]byte
	n, err := quickReadlinkat(dir, strconv.Itoa(fd), b[:])
	return err == nil && string(b[:n]) == path
}
