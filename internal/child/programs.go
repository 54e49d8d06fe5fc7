package child

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
)

// program is a process with pipes beside the shell. It lives no longer than
// the connection that asked for it: whoever comes after knows nothing of what
// was said.
type program struct {
	num           uint64
	pid           int // 0 once it has been collected
	in, out, errs int // -1 when closed
	unread        []byte
	last          bool // in is closed when all of unread is written
	granted       int  // how much of out may still be read
	tail          []byte
	code          int
	reason        string
	gone          bool
}

// programScript waits to be bound, and becomes the program.
const programScript = `read -r <&3; cd -- "$1" 2>/dev/null || cd /; unset OLDPWD; shift; exec "$@" 3<&-`

// programFrame serves a frame about a program. One about a program that has
// ended is passed over.
func (a *agent) programFrame(f agentwire.Frame) error {
	switch f.Kind {
	case agentwire.KindStart:
		m, err := agentwire.DecodeStart(f.Body)
		if err == nil {
			a.startProgram(m)
		}
		return err
	case agentwire.KindInput:
		m, err := agentwire.DecodeInput(f.Body)
		if err == nil {
			a.feed(m)
		}
		return err
	case agentwire.KindGrant:
		m, err := agentwire.DecodeGrant(f.Body)
		if p := a.program(m.Num); err == nil && p != nil {
			p.granted = min(p.granted+m.Bytes, maxBehind)
		}
		return err
	}
	num, err := agentwire.DecodeNum(f.Body)
	if p := a.program(num); err == nil && p != nil {
		a.quit(p, "it was told to end")
	}
	return err
}

// startProgram serves a Start.
func (a *agent) startProgram(m agentwire.Start) {
	refuse := func(why string) {
		a.send(agentwire.KindEnded, agentwire.Ended{Num: m.Num, Code: -1, Reason: why}.Encode())
	}
	if len(m.Args) == 0 || m.Args[0] == "" {
		refuse("there is no program to start")
		return
	}
	if len(a.programs) >= agentwire.MaxPrograms {
		refuse("too many programs run already")
		return
	}
	p, err := a.spawnProgram(m)
	if err != nil {
		refuse(err.Error())
		return
	}
	a.programs = append(a.programs, p)
	if k := a.shell.keeps; k != nil {
		k.alone = false
	}
}

func (a *agent) spawnProgram(m agentwire.Start) (p *program, err error) {
	// Of each pipe: the agent's end and the program's.
	var ends [4][2]int
	made := 0
	defer func() {
		for i := range made {
			unix.Close(ends[i][1])
			if err != nil || i == 3 { // the last one held it back
				unix.Close(ends[i][0])
			}
		}
	}()
	for i := range ends {
		var fds [2]int
		if err := unix.Pipe(fds[:]); err != nil {
			return nil, fail("make a pipe", err)
		}
		unix.CloseOnExec(fds[0])
		unix.CloseOnExec(fds[1])
		ends[i] = fds
		if i == 0 || i == 3 { // these the program reads
			ends[i] = [2]int{fds[1], fds[0]}
		}
		made++
		if err := unix.SetNonblock(ends[i][0], true); err != nil {
			return nil, fail("make a pipe", err)
		}
	}
	args := append([]string{"bash", "--noprofile", "--norc", "-c", programScript, "bash", a.boot.Workdir}, m.Args...)
	pid, err := syscall.ForkExec(a.boot.Bash, args, &syscall.ProcAttr{
		Dir: "/", Env: mergeEnv(a.boot.Env, m.Env),
		Files: []uintptr{uintptr(ends[0][1]), uintptr(ends[1][1]), uintptr(ends[2][1]), uintptr(ends[3][1])},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, fail("start "+m.Args[0], err)
	}
	if err := bindShell(pid, a.boot.OpenFiles); err != nil {
		kill(pid)
		return nil, err
	}
	return &program{num: m.Num, pid: pid, in: ends[0][0], out: ends[1][0], errs: ends[2][0]}, nil
}

// mergeEnv is env with more in the place of what has the same names.
func mergeEnv(env, more []string) []string {
	all := append([]string(nil), more...)
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		taken := false
		for _, m := range more {
			taken = taken || strings.HasPrefix(m, name+"=")
		}
		if !taken {
			all = append(all, kv)
		}
	}
	return all
}

// program finds one by its number, nil for none.
func (a *agent) program(num uint64) *program {
	for _, p := range a.programs {
		if p.num == num {
			return p
		}
	}
	return nil
}

// spares says whether a process is none of the shell's.
func (a *agent) spares(pid int) bool {
	for _, p := range a.programs {
		if p.pid == pid {
			return true
		}
	}
	return a.forward.is(pid)
}

// collected notes that a child was collected. A program's session ends with it,
// before its number can be another's.
func (a *agent) collected(pid int, ws unix.WaitStatus) {
	a.forward.ended(pid)
	for _, p := range a.programs {
		if p.pid == pid {
			p.pid, p.code = 0, exitCode(ws)
			sweepTree(pid)
		}
	}
}

// watchPrograms adds three places to polls for each program.
func (a *agent) watchPrograms() {
	for _, p := range a.programs {
		in, out := -1, -1
		if len(p.unread) > 0 || p.last {
			in = p.in
		}
		if p.granted > 0 && len(a.out) <= maxBehind {
			out = p.out
		}
		a.polls = append(a.polls, unix.PollFd{Fd: int32(in), Events: unix.POLLOUT},
			unix.PollFd{Fd: int32(out), Events: unix.POLLIN}, unix.PollFd{Fd: int32(p.errs), Events: unix.POLLIN})
	}
}

// servePrograms does what their descriptors ask for.
func (a *agent) servePrograms(polls []unix.PollFd) {
	programs := a.programs
	for i := 0; i < len(programs) && 3*i+2 < len(polls); i++ {
		p := programs[i]
		if polls[3*i].Revents != 0 && !p.gone {
			p.write()
		}
		if polls[3*i+1].Revents != 0 && !p.gone {
			a.readProgram(p)
		}
		if polls[3*i+2].Revents != 0 && !p.gone {
			p.readErrors(a.room())
		}
	}
}

// settlePrograms lets go of those that have ended and said all.
func (a *agent) settlePrograms() {
	for _, p := range a.programs {
		if !p.gone && p.pid == 0 && (p.out < 0 || waiting(p.out) == 0) {
			a.dropProgram(p)
		}
	}
}

func (a *agent) readProgram(p *program) {
	n, err := unix.Read(p.out, a.room()[:min(p.granted, agentwire.MaxData)])
	switch {
	case n > 0:
		p.granted -= n
		a.send(agentwire.KindData, agentwire.Data{Num: p.num, Data: a.buf[:n]}.Encode())
	case err != unix.EAGAIN && err != unix.EINTR:
		unix.Close(p.out)
		p.out = -1
	}
}

// readErrors reads once; false when there is nothing more now.
func (p *program) readErrors(buf []byte) bool {
	if p.errs < 0 {
		return false
	}
	n, err := unix.Read(p.errs, buf)
	switch {
	case n > 0:
		p.tail = append(p.tail, buf[:n]...)
		if over := len(p.tail) - agentwire.MaxErrors; over > 0 {
			p.tail = append(p.tail[:0], p.tail[over:]...)
		}
		return true
	case err != unix.EAGAIN && err != unix.EINTR:
		unix.Close(p.errs)
		p.errs = -1
	}
	return false
}

// write gives the program what it has not read yet.
func (p *program) write() {
	for len(p.unread) > 0 {
		n, err := unix.Write(p.in, p.unread)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return
		case err != nil: // it reads no more
			p.unread, p.last = nil, true
		default:
			p.unread = p.unread[n:]
		}
	}
	p.unread = nil
	if p.last {
		unix.Close(p.in)
		p.in, p.last = -1, false
	}
}

// feed serves an Input.
func (a *agent) feed(m agentwire.Input) {
	p := a.program(m.Num)
	if p == nil || p.in < 0 || p.last {
		return
	}
	if p.last = len(m.Data) == 0; !p.last {
		p.unread = append(p.unread, m.Data...)
	}
	if len(p.unread) > agentwire.MaxUnread {
		a.quit(p, "it does not read its input")
		return
	}
	p.write()
}

// quit ends a program with what it has started, but not what was left to the
// agent in a session of its own.
func (a *agent) quit(p *program, why string) {
	p.kill()
	p.reason = why
	a.dropProgram(p)
}

func (p *program) kill() {
	if p.pid == 0 {
		return
	}
	_ = unix.Kill(p.pid, unix.SIGSTOP) // it starts no more
	sweepTree(p.pid)
	kill(p.pid)
	var ws unix.WaitStatus
	for {
		if _, err := unix.Wait4(p.pid, &ws, 0, nil); err != unix.EINTR {
			break
		}
	}
	sweepTree(p.pid) // what it had begun to start
	p.pid, p.code = 0, exitCode(ws)
}

// dropProgram lets go of a program that has ended, and says so.
func (a *agent) dropProgram(p *program) {
	for range 64 { // pipes hold no more; a writer may go on
		if !p.readErrors(a.room()) {
			break
		}
	}
	a.forgetProgram(p)
	a.send(agentwire.KindEnded, agentwire.Ended{Num: p.num, Code: p.code, Reason: p.reason, Errors: p.tail}.Encode())
}

func (a *agent) forgetProgram(p *program) {
	for _, fd := range []int{p.in, p.out, p.errs} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	p.gone, p.in, p.out, p.errs = true, -1, -1, -1
	var left []*program
	for _, o := range a.programs {
		if o != p {
			left = append(left, o)
		}
	}
	a.programs = left
}

// endPrograms ends all of them without a word.
func (a *agent) endPrograms() {
	for _, p := range a.programs {
		p.kill()
		a.forgetProgram(p)
	}
}
