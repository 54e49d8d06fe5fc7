package child

import (
	"bytes"
	"errors"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
)

const (
	// defaultLimit is the limit of a command that names none.
	defaultLimit = 120 * time.Second
	// maxDrains is how many outputs of jobs of earlier shells are drained.
	maxDrains = 64
	// maxSeen is how many ids are remembered after their results are gone.
	maxSeen = 8192
	// crowdedTries bounds the tries to start a shell among too many processes,
	// 10 ms apart and each after a sweep of up to two seconds.
	crowdedTries = 20
	// spares is how many threads are kept ready.
	spares = 3
	// readSize is the largest single read of output.
	readSize = 256 << 10
	// maxBehind is how far a reader of streamed output may be behind before
	// the command has to wait for it.
	maxBehind = 1 << 20
)

// agent is the whole state. Everything but the signal forwarder happens in
// one loop on one thread.
type agent struct {
	boot   agentwire.Boot
	listen int    // -1 when nobody else can come
	conn   int    // -1 when nobody is connected
	reply  int    // where answers go; conn itself but for a pipe
	guard  bool   // who comes from inside is turned away
	door   int    // the socket's directory, where the agent made the socket
	home   string // goes with the agent, "" for none
	wake   int    // readable after a signal

	in  []byte // from the connection, not yet a frame
	out []byte // to the connection, not yet written

	shell    *shell
	forward  *forwarder // nil without a way out
	call     *call
	programs []*program
	last     *agentwire.Result // kept until it is acknowledged
	seen     map[string]bool   // ids that ran and whose results are gone
	order    []string          // of seen
	turn     int
	drains   []int

	orphanAt time.Time // when to end, unless somebody connects
	heard    time.Time // when the connection last said something
	buf      []byte
	report   []byte // from the report FIFO, not yet a line
	polls    []unix.PollFd
}

// call is the running command.
type call struct {
	id       string
	limit    time.Duration
	nonce    string
	checking bool
	stream   bool
	text     string
	out      int // its output FIFO
	hung     bool
	got      *collector
	began    time.Time
	ticks    uint64 // boot time in clock ticks when it began
	deadline time.Time
}

func agentMain() int {
	// Credentials belong to threads, and children get those of the thread
	// that makes them: everything that matters happens on this one.
	runtime.LockOSThread()
	a := &agent{listen: -1, conn: -1, reply: -1, wake: -1, seen: map[string]bool{}}
	stage, err := a.begin()
	if a.home != "" {
		defer os.RemoveAll(a.home)
	}
	if err != nil {
		if a.conn < 0 {
			_, _ = os.Stderr.WriteString(AgentName + ": " + err.Error() + "\n")
		}
		a.send(agentwire.KindFailed, agentwire.EncodeText(err.Error()))
		a.flushAll()
		return 1
	}
	if stage == doneStage {
		return 0
	}
	spareThreads()
	a.orphanAt = time.Now().Add(a.boot.OrphanTTL)
	a.heard = time.Now()
	a.send(agentwire.KindReady, agentwire.EncodeReady(os.Getpid()))
	err = a.loop()
	a.endPrograms()
	a.killAll()
	a.forward.stop()
	if err != nil {
		return 1
	}
	return 0
}

// watchSignals turns signals into bytes to poll for. Deadly ones are taken so
// that none sent from inside ends the agent; children get the defaults back.
func (a *agent) watchSignals() error {
	var p [2]int
	if err := unix.Pipe(p[:]); err != nil {
		return err
	}
	for _, fd := range p {
		unix.CloseOnExec(fd)
		if err := unix.SetNonblock(fd, true); err != nil {
			return err
		}
	}
	a.wake = p[0]
	c := make(chan os.Signal, 16)
	signal.Notify(c, append(deadly, unix.SIGCHLD)...)
	signal.Ignore(unix.SIGTTOU, unix.SIGTTIN, unix.SIGTSTP)
	go func() { // it lives as long as the process
		for s := range c {
			if s == unix.SIGCHLD {
				_, _ = unix.Write(p[1], []byte{1}) // full is as good
			}
		}
	}()
	return nil
}

// stage says how far begin has come.
type stage int

const (
	runStage  stage = iota // the agent is to run
	doneStage              // there is nothing to run
)

// begin takes the first connection and its Boot, and does what Boot says.
func (a *agent) begin() (stage, error) {
	resumed, err := a.resume()
	if err != nil {
		return 0, err
	}
	if !resumed {
		if err := a.station(); err != nil {
			return 0, err
		}
		if err := a.firstConnection(); err != nil {
			return 0, err
		}
		f, err := a.firstFrame()
		if err != nil || f.Kind != agentwire.KindBoot {
			return doneStage, nil // nobody to tell
		}
		if a.boot, err = agentwire.DecodeBoot(f.Body); err != nil {
			return 0, err
		}
		body := bytes.Clone(f.Body)
		if err := build(a.boot.Steps); err != nil {
			return 0, err
		}
		if a.boot.Seal {
			if err := a.seal(body); err != nil {
				return 0, err
			}
		}
	}
	if a.boot.OutputBytes <= 0 {
		a.boot.OutputBytes = 100 << 10
	}
	if a.boot.OrphanTTL <= 0 {
		a.boot.OrphanTTL = 120 * time.Second
	}
	if err := a.watchSignals(); err != nil {
		return 0, err
	}
	if err := adoptOrphans(); err != nil {
		return 0, err
	}
	if err := a.startForwarder(); err != nil {
		return 0, err
	}
	return runStage, a.freshShell()
}

// firstConnection waits a minute for the supervisor that started us.
func (a *agent) firstConnection() error {
	for a.conn < 0 {
		if err := wait(a.listen, time.Minute); err != nil {
			return err
		}
		if err := a.accept(); err != nil {
			return err
		}
	}
	return nil
}

func (a *agent) firstFrame() (agentwire.Frame, error) {
	end := time.Now().Add(time.Minute)
	for {
		f, n, err := agentwire.Next(a.in)
		if err != nil {
			return f, err
		}
		if n > 0 {
			a.in = a.in[n:]
			return f, nil
		}
		if err := wait(a.conn, time.Until(end)); err != nil {
			return f, err
		}
		if !a.receive() {
			return f, errors.New("the connection went away")
		}
	}
}

// wait waits until a descriptor is readable.
func wait(fd int, d time.Duration) error {
	end := time.Now().Add(d)
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, int(max(time.Until(end), 0)/time.Millisecond))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return unix.ETIMEDOUT
		default:
			return nil
		}
	}
}

func (a *agent) freshShell() error {
	if a.shell != nil {
		for i, o := range a.shell.out {
			if o.fd >= 0 && !o.busy {
				a.drains = append(a.drains, o.fd)
				a.shell.out[i].fd = -1
			}
		}
		for len(a.drains) > maxDrains {
			unix.Close(a.drains[0])
			a.drains = a.drains[1:]
		}
		a.shell.close()
		a.shell = nil
	}
	a.report = a.report[:0]
	for try := 0; ; try++ {
		s, err := startShell(a.boot)
		if err == nil {
			a.shell = s
			return nil
		}
		if err != errCrowded || try == crowdedTries {
			return err
		}
		// A storm of processes that outlived its shell has every place.
		sweep(0, 0, a.forward.is)
		a.bury()
		time.Sleep(10 * time.Millisecond)
	}
}

// bury collects what has ended while there is no shell.
func (a *agent) bury() {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if pid <= 0 {
			return
		}
		a.collected(pid, ws)
	}
}

// spareThreads has the runtime make the threads that it may come to need:
// later a storm may have taken every place, and it does not live without.
func spareThreads() {
	made, leave := make(chan struct{}), make(chan struct{})
	for range spares {
		go func() {
			runtime.LockOSThread()
			made <- struct{}{}
			<-leave
			runtime.UnlockOSThread()
		}()
	}
	for range spares {
		<-made
	}
	close(leave)
}

// loop serves until it is told to end, nobody has come for too long, or nobody
// can come any more. An error means that no shell can be had any more.
func (a *agent) loop() error {
	for {
		now := time.Now()
		if a.conn < 0 && (a.listen < 0 || now.After(a.orphanAt)) {
			return nil
		}
		if a.listen < 0 && now.After(a.heard.Add(a.boot.OrphanTTL)) {
			return nil // a pipe that leads nowhere may never say so
		}
		if a.call != nil && now.After(a.call.deadline) {
			if err := a.cut("timed_out"); err != nil {
				return err
			}
			continue
		}
		a.forward.tend(now)
		a.watch()
		_, err := unix.Poll(a.polls, a.patience(now))
		if err != nil && err != unix.EINTR {
			return err
		}
		if err == unix.EINTR {
			continue
		}
		if end, err := a.serve(); end || err != nil {
			return err
		}
	}
}

// patience is how long the loop may sleep, in milliseconds.
func (a *agent) patience(now time.Time) int {
	var until time.Time
	if a.call != nil {
		until = a.call.deadline
	}
	if a.conn < 0 && (until.IsZero() || a.orphanAt.Before(until)) {
		until = a.orphanAt
	}
	if due := a.forward.due(); !due.IsZero() && (until.IsZero() || due.Before(until)) {
		until = due
	}
	if quiet := a.heard.Add(a.boot.OrphanTTL); a.listen < 0 && (until.IsZero() || quiet.Before(until)) {
		until = quiet
	}
	if until.IsZero() {
		return -1
	}
	return int(min(max(until.Sub(now), 0)/time.Millisecond+1, 1<<30))
}

// watch fills polls: five fixed places, then outputs in order, then drains,
// then programs.
func (a *agent) watch() {
	reply := unix.PollFd{Fd: -1, Events: unix.POLLOUT}
	if len(a.out) > 0 {
		reply.Fd = int32(a.reply)
	}
	a.polls = append(a.polls[:0],
		unix.PollFd{Fd: int32(a.wake), Events: unix.POLLIN},
		unix.PollFd{Fd: int32(a.listen), Events: unix.POLLIN},
		unix.PollFd{Fd: int32(a.conn), Events: unix.POLLIN},
		unix.PollFd{Fd: int32(a.shell.report), Events: unix.POLLIN},
		reply)
	for i, o := range a.shell.out {
		fd := o.fd
		if o.busy && a.call != nil && a.call.out == i && (a.call.hung || a.call.stream && len(a.out) > maxBehind) {
			fd = -1
		}
		a.polls = append(a.polls, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	for _, fd := range a.drains {
		a.polls = append(a.polls, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	a.watchPrograms()
}

// serve does what the descriptors ask for. The command's output is read
// before anything that may end it.
func (a *agent) serve() (end bool, err error) {
	polls := a.polls
	rest := 5 + outputs + len(a.drains)
	a.servePrograms(polls[rest:])
	defer a.settlePrograms()
	for i, p := range polls[5+outputs : rest] {
		if p.Revents != 0 && !a.drain(a.drains[i]) {
			unix.Close(a.drains[i])
			a.drains[i] = -1
		}
	}
	kept := a.drains[:0]
	for _, fd := range a.drains {
		if fd >= 0 {
			kept = append(kept, fd)
		}
	}
	a.drains = kept
	for i, p := range polls[5 : 5+outputs] {
		if p.Revents == 0 || a.shell.out[i].fd != int(p.Fd) {
			continue
		}
		if a.shell.out[i].busy {
			a.collect()
		} else if !a.drain(int(p.Fd)) {
			a.shell.dropOutput(i)
		}
	}
	shell := a.shell
	if polls[3].Revents != 0 {
		if err := a.readReport(); err != nil {
			return false, err
		}
	}
	if polls[0].Revents != 0 {
		if err := a.reap(); err != nil {
			return false, err
		}
	}
	if a.shell != shell {
		return false, nil // the other descriptors are looked at next time
	}
	if polls[1].Revents != 0 {
		if err := a.accept(); err != nil && err != unix.EAGAIN {
			return false, err
		}
		return false, nil
	}
	if polls[4].Revents != 0 {
		a.flush()
	}
	if polls[2].Revents != 0 && a.conn >= 0 {
		if !a.receive() {
			a.hangUp()
			return false, nil
		}
		return a.frames()
	}
	return false, nil
}

// drain throws away what a job of an earlier command has written. false
// means that nobody writes any more.
func (a *agent) drain(fd int) bool {
	n, err := unix.Read(fd, a.room())
	return n > 0 || err == unix.EAGAIN || err == unix.EINTR
}

func (a *agent) room() []byte {
	if a.buf == nil {
		a.buf = make([]byte, readSize)
	}
	return a.buf
}

// collect reads once from the running command's output.
func (a *agent) collect() {
	c := a.call
	n, err := unix.Read(a.shell.out[c.out].fd, a.room())
	if n > 0 {
		if c.got.total == 0 || n >= 64<<10 {
			if n >= 32<<10 {
				widen(a.shell.out[c.out].fd)
			}
		}
		a.take(a.buf[:n])
		return
	}
	if n == 0 && err == nil {
		c.hung = true // everybody has closed it; the report is on its way
	}
}

// take takes output of the running command.
func (a *agent) take(b []byte) {
	a.call.got.write(b)
	if a.call.stream {
		a.send(agentwire.KindOutput, agentwire.Output{ID: a.call.id, Data: b}.Encode())
	}
}

// readReport reads what bash says about the running command.
func (a *agent) readReport() error {
	n, _ := unix.Read(a.shell.report, a.room())
	if n <= 0 || a.call == nil {
		return nil
	}
	a.report = append(a.report, a.buf[:n]...)
	c := a.call
	// The report is a mark, "CODE NONCE" and a new line.
	at := bytes.Index(a.report, []byte(" "+c.nonce+"\n"))
	if at < 0 {
		if len(a.report) > 64<<10 { // somebody else writes there
			a.report = append(a.report[:0], a.report[len(a.report)-1024:]...)
		}
		return nil
	}
	from := bytes.LastIndexByte(a.report[:at], '\037') + 1
	word, said := string(a.report[from:at]), a.report[:max(from-1, 0)]
	a.report = append([]byte(nil), a.report[at+len(c.nonce)+2:]...)
	if c.checking {
		c.checking = false
		if why := unfinished(said); why != "" {
			c.got.write([]byte(why))
			a.finish("incomplete", 0)
			return nil
		}
		return a.evaluate()
	}
	code, err := strconv.Atoi(word)
	if err != nil {
		return nil
	}
	a.readRest()
	a.finish("exited", code)
	return nil
}

// unfinished gives bash's own words when it missed the end of something, ""
// when it found another fault or none: those show when the text is run.
func unfinished(said []byte) string {
	for _, mark := range []string{"unexpected EOF while looking for", "unexpected end of file", "delimited by end-of-file"} {
		if !bytes.Contains(said, []byte(mark)) {
			continue
		}
		said = bytes.ReplaceAll(bytes.TrimSpace(said), []byte("bash: "), nil)
		return string(said[:min(len(said), 1000)])
	}
	return ""
}

// reap collects every child that has ended. When the shell is among them, the
// running command ended it.
func (a *agent) reap() error {
	var junk [64]byte
	for {
		if n, _ := unix.Read(a.wake, junk[:]); n < len(junk) {
			break
		}
	}
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if pid <= 0 {
			return nil
		}
		a.collected(pid, ws)
		if pid != a.shell.pid {
			continue
		}
		if a.call != nil {
			a.readRest()
			a.finish("shell_exited", exitCode(ws))
		}
		if err := a.freshShell(); err != nil {
			return err
		}
	}
}

func exitCode(ws unix.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// readRest takes what is in the output FIFO now. What a job writes later is
// no part of the result.
func (a *agent) readRest() {
	c := a.call
	if c.out < 0 {
		return
	}
	fd := a.shell.out[c.out].fd
	for left := waiting(fd); left > 0; {
		n, err := unix.Read(fd, a.room()[:min(left, readSize)])
		if err == unix.EINTR {
			continue
		}
		if n <= 0 {
			return
		}
		a.take(a.buf[:n])
		left -= n
	}
}

// finish makes the running command's result and sends it, if anybody is there.
func (a *agent) finish(end string, code int) {
	c := a.call
	head, dropped, tail := c.got.result()
	a.last = &agentwire.Result{
		ID: c.id, End: end, ExitCode: code, Head: head, Dropped: dropped, Tail: tail,
		Elapsed: time.Since(c.began),
	}
	if c.out >= 0 {
		a.shell.out[c.out].busy = false // drained from now on
	}
	a.call = nil
	a.send(agentwire.KindResult, a.last.Encode())
}

// cut ends the running command by force: everything it started is killed, and
// the shell is replaced.
func (a *agent) cut(end string) error {
	c := a.call
	kill(a.shell.pid)
	sweep(a.shell.pid, c.ticks, a.spares)
	a.buryShell()
	a.readRest()
	a.finish(end, 0)
	return a.freshShell()
}

// buryShell waits for the killed shell.
func (a *agent) buryShell() {
	for {
		_, err := unix.Wait4(a.shell.pid, nil, 0, nil)
		if err != unix.EINTR {
			return
		}
	}
}

// killAll ends everything that the agent's shells have started.
func (a *agent) killAll() {
	if a.shell == nil {
		return
	}
	kill(a.shell.pid)
	a.buryShell()
	// What the shell left behind is the agent's by now. The process table is
	// read only when there is something.
	if !a.alone() {
		sweep(0, 0, a.spares)
	}
}

// alone collects the ended children and says that no other process descends
// from the agent.
func (a *agent) alone() bool {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == unix.ECHILD {
			return true
		}
		a.collected(pid, ws)
		if err != unix.EINTR && pid <= 0 {
			return false
		}
	}
}

// restart replaces the shell and ends all that earlier ones have started.
func (a *agent) restart() error {
	a.killAll()
	if a.call != nil {
		a.readRest()
		a.finish("interrupted", 0)
	}
	if err := a.freshShell(); err != nil {
		return err
	}
	a.send(agentwire.KindRestarted, nil)
	return nil
}

// start begins a command.
func (a *agent) start(r agentwire.Run) error {
	if r.Limit <= 0 {
		r.Limit = defaultLimit
	}
	now := time.Now()
	nonce, err := newNonce()
	if err != nil {
		return err
	}
	a.call = &call{
		id: r.ID, limit: r.Limit, nonce: nonce, text: r.Text, stream: r.Stream, out: -1, got: newCollector(a.boot.OutputBytes),
		began: now, ticks: bootTicks(), deadline: now.Add(r.Limit),
	}
	if bytes.IndexByte([]byte(r.Text), 0) >= 0 {
		a.call.got.write([]byte("the command contains a NUL byte"))
		a.finish("incomplete", 0)
		return nil
	}
	if surelyWhole(r.Text) {
		return a.evaluate()
	}
	a.call.checking = true
	return a.shell.check(r.Text, nonce)
}

// evaluate has bash run the command.
func (a *agent) evaluate() error {
	out, err := a.shell.takeOutput(a.turn)
	if err != nil {
		return err
	}
	a.turn++
	a.call.out = out
	return a.shell.run(a.call.text, a.call.nonce)
}

// hexadecimal writes bytes as text; encoding/hex would bring fmt with it.
func hexadecimal(b []byte) string {
	const digits = "0123456789abcdef"
	s := make([]byte, 0, 2*len(b))
	for _, c := range b {
		s = append(s, digits[c>>4], digits[c&15])
	}
	return string(s)
}
