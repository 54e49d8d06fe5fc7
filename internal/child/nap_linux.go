package child

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// nap is how an agent waits where each system call is dear. Go's runtime has a
// thread that watches the others (sysmon); whenever one of them comes back from
// a call that took long, it wakes and looks around for a millisecond, some
// twenty calls each time. It sleeps on where a goroutine that waits by the
// runtime's own poller is woken and makes its calls past the runtime (raw).
//
// The poller is told of one descriptor, a set with those that matter to an agent
// with nothing else to do. The set's members tell of what comes, not of what is
// there: whoever takes a ring has to empty what rang.
type nap struct {
	set   int
	rings chan struct{} // something has come
	fresh bool          // something that matters may not be in the set yet
	look  bool          // something may be there that will not ring any more
	timer *time.Timer
}

// Places in polls, and in the set.
const (
	wakePlace = iota
	listenPlace
	connPlace
	bellPlace
	fixedPlaces
)

func newNap() (*nap, error) {
	set, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fail("make an epoll", err)
	}
	if err := unix.SetNonblock(set, true); err != nil {
		return nil, fail("make an epoll", err)
	}
	raw, err := os.NewFile(uintptr(set), "set").SyscallConn()
	if err != nil {
		return nil, fail("watch an epoll", err)
	}
	n := &nap{set: set, rings: make(chan struct{}), fresh: true, timer: time.NewTimer(0)}
	go func() { // it lives as long as the process
		_ = raw.Read(func(uintptr) bool {
			n.rings <- struct{}{}
			return false
		})
	}()
	return n, nil
}

// again has the next nap look what is there. There may be no nap.
func (n *nap) again() {
	if n != nil {
		n.look = true
	}
}

// changed says that one of the descriptors is another. There may be no nap.
func (n *nap) changed() {
	if n != nil {
		n.fresh = true
	}
}

// join puts what is new in the set. What was closed has left it.
func (n *nap) join(fixed []unix.PollFd) error {
	for place, p := range fixed {
		if p.Fd < 0 {
			continue
		}
		e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(place)}
		if err := unix.EpollCtl(n.set, unix.EPOLL_CTL_ADD, int(p.Fd), &e); err != nil && err != unix.EEXIST {
			return fail("watch a descriptor", err)
		}
	}
	n.fresh, n.look = false, true
	return nil
}

// pause waits until polls have something to say.
func (a *agent) pause(now time.Time) error {
	n, patience := a.nap, a.patience(now)
	if n == nil || !a.onlyFixed() {
		n.again()
		_, err := unix.Poll(a.polls, patience)
		return err
	}
	if n.fresh {
		if err := n.join(a.polls[:fixedPlaces]); err != nil {
			return err
		}
	}
	if n.look || a.shell.keeps.more {
		got, err := unix.Poll(a.polls, 0)
		if got > 0 || err != nil {
			return err
		}
		n.look = false
	}
	if a.call != nil && now.Before(a.call.quiet) {
		return n.take(a.polls[:fixedPlaces], min(patience, int(quietTime/time.Millisecond)))
	}
	return n.wait(a.polls[:fixedPlaces], patience)
}

// onlyFixed says that only the fixed places are to be watched.
func (a *agent) onlyFixed() bool {
	for _, p := range a.polls[fixedPlaces:] {
		if p.Fd >= 0 {
			return false
		}
	}
	return true
}

// wait waits for a ring, so many milliseconds; -1 is for ever.
func (n *nap) wait(fixed []unix.PollFd, patience int) error {
	var late <-chan time.Time
	if patience >= 0 {
		n.timer.Reset(time.Duration(patience) * time.Millisecond)
		late = n.timer.C
	}
	select {
	case <-late:
		n.look = true
		return nil
	case <-n.rings:
	}
	n.timer.Stop()
	return n.take(fixed, 0)
}

// take takes what the set has, or what it gets within so many milliseconds,
// in which nothing else happens in this process: to wait by the poller takes
// three calls, and most commands are over by then. A ring may stay for what it
// took.
func (n *nap) take(fixed []unix.PollFd, patience int) error {
	var events [fixedPlaces]unix.EpollEvent
	got, err := quickEvents(n.set, events[:], patience)
	for _, e := range events[:max(got, 0)] {
		if e.Fd < connPlace { // rare, and they are not emptied
			n.look = true
			continue
		}
		fixed[e.Fd].Revents = unix.POLLIN
	}
	return err
}
