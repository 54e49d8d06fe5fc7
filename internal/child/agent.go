package child

import (
	"errors"
	"os"
	"os/signal"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/slack"
)

// agent is the whole state. Everything but the signal forwarder happens in
// one loop, on one thread unless all are alike (see seal).
type agent struct {
	boot   agentwire.Boot
	next   *agentwire.Boot // ends this one
	ground *ground         // what a Boot that Renews begins from
	bearer *bearer         // and what it must find
	listen int             // -1 when nobody else can come
	conn   int             // -1 when nobody is connected
	reply  int             // where answers go; conn itself but for a pipe
	guard  bool            // who comes from inside is turned away
	door   int             // the socket's directory, where the agent made the socket
	home   string          // goes with the agent, "" for none
	wake   int             // readable after a signal
	nap    *nap            // nil where system calls are cheap

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

	began    time.Time // when the loop did; its clock counts from there
	now      time.Time // when something last happened
	orphanAt time.Time // when to end, unless somebody connects
	heard    time.Time // when the connection last said something
	buf      []byte
	report   []byte // from the report FIFO, not yet a line
	random   []byte // not yet used
	idle     int    // how many tasks there are without jobs, 0 before the first command and -1 for who knows
	polls    []unix.PollFd
}

func agentMain() int {
	// Credentials belong to threads, and children get those of the thread
	// that makes them: everything that matters happens on this one.
	runtime.LockOSThread()
	slack.Reset() // the tools' is not the worker's
	a := &agent{listen: -1, conn: -1, reply: -1, wake: -1, seen: map[string]bool{}}
	stage, err := a.begin()
	if a.home != "" {
		defer os.RemoveAll(a.home)
	}
	switch {
	case err != nil:
		return a.fails(err)
	case stage == doneStage:
		return 0
	case a.boot.Renews:
		return a.succession()
	}
	return a.live(stage)
}

// succession lives one Boot after the other.
func (a *agent) succession() int {
	var err error
	calm()
	if a.bearer, err = newBearer(); err == nil {
		a.ground, err = newGround() // where there is no /proc
	}
	if err != nil {
		return a.fails(err)
	}
	for {
		code := a.live(bootStage)
		if a.next == nil {
			return code
		}
		a = &agent{
			boot: *a.next, ground: a.ground, bearer: a.bearer, listen: a.listen, conn: a.conn, reply: a.reply, guard: a.guard, door: a.door,
			wake: a.wake, out: a.out, buf: a.buf, seen: map[string]bool{},
		}
	}
}

// live makes of the agent what its Boot says, and serves.
func (a *agent) live(from stage) int {
	var err error
	if from == bootStage {
		err = a.steps()
	}
	if err == nil {
		err = a.furnish()
	}
	if err != nil {
		return a.fails(err)
	}
	if a.boot.OwnKernel {
		if a.nap, err = newNap(); err != nil {
			return a.fails(err)
		}
		a.settle()
		runtime.UnlockOSThread() // they are all sealed
	}
	a.began = time.Now()
	a.now, a.heard, a.orphanAt = a.began, a.began, a.began.Add(a.boot.OrphanTTL)
	a.send(agentwire.KindReady, agentwire.EncodeReady(os.Getpid()))
	err = a.loop()
	a.endPrograms()
	a.killAll()
	a.forward.stop()
	if err != nil {
		return 1
	}
	if a.next != nil {
		return a.clear()
	}
	return 0
}

// clear leaves nothing to the next Boot, or fails.
func (a *agent) clear() int {
	var err error
	switch {
	case !a.alone():
		err = errors.New("what the last session has started does not end")
	case !a.bearer.same():
		err = errors.New("the last session has changed the agent's limits, priorities or control groups")
	}
	if err != nil {
		a.next = nil
		return a.fails(err)
	}
	for _, fd := range a.drains {
		unix.Close(fd)
	}
	a.shell.close()
	return 0
}

// fails says why there is no agent.
func (a *agent) fails(err error) int {
	if a.conn < 0 {
		_, _ = os.Stderr.WriteString(AgentName + ": " + err.Error() + "\n")
	}
	a.send(agentwire.KindFailed, agentwire.EncodeText(err.Error()))
	a.flushAll()
	return 1
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
	bootStage   stage = iota // there is a Boot, of which nothing is done
	sealedStage              // its steps are done
	doneStage                // there is nothing to run
)

// begin takes the first connection and its Boot.
func (a *agent) begin() (stage, error) {
	if resumed, err := a.resume(); resumed {
		return sealedStage, err
	}
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
	a.boot, err = agentwire.DecodeBoot(f.Body)
	return bootStage, err
}

// steps does those of the Boot, and seals.
func (a *agent) steps() error {
	if a.ground != nil {
		if err := a.ground.stand(); err != nil {
			return err
		}
	}
	if err := build(a.boot.Steps, a.ground); err != nil {
		return err
	}
	if a.boot.Seal {
		return a.seal()
	}
	return nil
}

// furnish gets what it takes to serve, the shell last.
func (a *agent) furnish() error {
	if a.boot.OutputBytes <= 0 {
		a.boot.OutputBytes = 100 << 10
	}
	if a.boot.OrphanTTL <= 0 {
		a.boot.OrphanTTL = 120 * time.Second
	}
	first := a.wake < 0
	if first {
		if err := a.watchSignals(); err != nil {
			return err
		}
		if err := adoptOrphans(); err != nil {
			return err
		}
	}
	if err := a.startForwarder(); err != nil {
		return err
	}
	if err := a.freshShell(); err != nil {
		return err
	}
	if first {
		spareThreads()
	}
	return a.shell.warm(a.nonce)
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

// spares is how many threads are kept ready.
const spares = 3

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
