package child

import (
	"time"

	"golang.org/x/sys/unix"
)

const (
	// readSize is the largest single read of output.
	readSize = 256 << 10
	// maxBehind is how far a reader of streamed output may be behind before
	// the command has to wait for it.
	maxBehind = 1 << 20
	// maxRest is how many reads take all that a FIFO can hold.
	maxRest = 5
)

// loop serves until it is told to end, nobody has come for too long, or nobody
// can come any more. An error means that no shell can be had any more.
func (a *agent) loop() error {
	for {
		now := a.now
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
		a.watch(now)
		err := a.pause(now)
		a.now = a.began.Add(time.Since(a.began)) // asks one clock, and not two
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
		if now.Before(a.call.quiet) && a.call.quiet.Before(until) {
			until = a.call.quiet
		}
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
func (a *agent) watch(now time.Time) {
	reply := unix.PollFd{Fd: -1, Events: unix.POLLOUT}
	if len(a.out) > 0 {
		reply.Fd = int32(a.reply)
	}
	a.polls = append(a.polls[:0],
		unix.PollFd{Fd: int32(a.wake), Events: unix.POLLIN},
		unix.PollFd{Fd: int32(a.listen), Events: unix.POLLIN},
		unix.PollFd{Fd: int32(a.conn), Events: unix.POLLIN},
		unix.PollFd{Fd: int32(a.shell.bell()), Events: unix.POLLIN},
		reply)
	for i, o := range a.shell.out {
		fd := o.fd
		if o.busy && a.call != nil && a.call.out == i && a.leaves(now) || a.shell.deserted(i) {
			fd = -1
		}
		a.polls = append(a.polls, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	for _, fd := range a.drains {
		a.polls = append(a.polls, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	a.watchPrograms()
}

// leaves says that the running command's output is to stay where it is.
func (a *agent) leaves(now time.Time) bool {
	c := a.call
	if c.stream {
		return c.hung || len(a.out) > maxBehind
	}
	return c.hung || now.Before(c.quiet)
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
	n, err := quickRead(fd, a.room())
	return n > 0 || err == unix.EAGAIN || err == unix.EINTR
}

func (a *agent) room() []byte {
	if a.buf == nil {
		a.buf = make([]byte, readSize)
	}
	return a.buf
}
