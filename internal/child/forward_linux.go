package child

import (
	"errors"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
)

// forwarder is the agent's helper for a session's way out: a process of its
// own that takes connections on loopback and pumps their bytes to the proxy's
// socket. The agent holds the listener, so connections wait while there is no
// helper, and starts another when somebody inside has killed it. What moves
// through it does not hold up the shell.
type forwarder struct {
	path   string // of the proxy's socket
	listen int
	pid    int       // 0 when there is none
	again  time.Time // when to start the next, if there is none
}

const (
	forwardWord = "forward" // the argument that makes an agent's program a forwarder
	// forwardPause bounds how often a helper that keeps dying is started.
	forwardPause = 500 * time.Millisecond
)

// startForwarder makes the listener and the first helper.
func (a *agent) startForwarder() error {
	if a.boot.Egress == "" {
		return nil
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail("offer the proxy", err)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: agentwire.ProxyPort})
	}
	if err == nil {
		err = unix.Listen(fd, 512)
	}
	if err != nil {
		unix.Close(fd)
		return fail("offer the proxy on 127.0.0.1:"+strconv.Itoa(agentwire.ProxyPort), err)
	}
	a.forward = &forwarder{path: a.boot.Egress, listen: fd}
	if err := a.forward.start(); err != nil {
		return fail("start the forwarder", err)
	}
	return nil
}

func (f *forwarder) start() error {
	f.again = time.Now().Add(forwardPause)
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(null)
	n := uintptr(null)
	f.pid, err = syscall.ForkExec("/proc/self/exe", []string{AgentName, forwardWord, f.path}, &syscall.ProcAttr{
		Dir: "/", Env: []string{"GOMAXPROCS=1"}, Files: []uintptr{n, n, n, uintptr(f.listen)},
		Sys: &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL},
	})
	if err != nil {
		f.pid = 0
	}
	return err
}

// is says whether a process is the helper. There may be no forwarder.
func (f *forwarder) is(pid int) bool { return f != nil && pid > 0 && f.pid == pid }

// ended notes that a child was collected.
func (f *forwarder) ended(pid int) {
	if f.is(pid) {
		f.pid = 0
	}
}

// tend starts a helper when there is none and its time has come. One that
// cannot be started, since the session has all the processes it may have, is
// tried again later.
func (f *forwarder) tend(now time.Time) {
	if f != nil && f.pid == 0 && !now.Before(f.again) {
		_ = f.start()
	}
}

// due is when tend has something to do; zero for never.
func (f *forwarder) due() time.Time {
	if f == nil || f.pid != 0 {
		return time.Time{}
	}
	return f.again
}

// stop ends the helper for good.
func (f *forwarder) stop() {
	if f != nil && f.pid > 0 {
		kill(f.pid)
	}
}

// forwardingTo gives the socket of a process that is to be a forwarder.
func forwardingTo() (path string, ok bool) {
	if len(os.Args) == 3 && os.Args[1] == forwardWord {
		return os.Args[2], true
	}
	return "", false
}

const (
	maxForwards = 256
	dialTime    = 10 * time.Second
	dialPause   = 50 * time.Millisecond
	// drainTime is how long a client that still sends may read an answer that
	// is complete.
	drainTime = 2 * time.Second
)

// forward is the helper's main. It inherits the agent's seal.
func forward(path string) int {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	unix.CloseOnExec(listenFD)
	if err := unix.SetNonblock(listenFD, true); err != nil {
		return 1
	}
	listener, err := os.NewFile(listenFD, "listener").SyscallConn()
	if err != nil {
		return 1
	}
	most := maxForwards
	var files unix.Rlimit
	if unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &files) == nil && files.Cur < 2*maxForwards+16 {
		most = max(1, int(files.Cur)/2-8)
	}
	room := make(chan struct{}, most)
	for {
		room <- struct{}{}
		fd, err := acceptOn(listener)
		if err != nil {
			<-room
			if err == unix.ECONNABORTED || err == unix.EINTR {
				continue
			}
			time.Sleep(dialPause) // no descriptors or no memory, for now
			continue
		}
		go func() { // it ends with its connection
			defer func() { <-room }()
			carry(fd, path)
		}()
	}
}

func acceptOn(listener syscall.RawConn) (fd int, err error) {
	errRead := listener.Read(func(l uintptr) bool {
		fd, _, err = unix.Accept4(int(l), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		return err != unix.EAGAIN
	})
	if errRead != nil {
		return -1, errRead
	}
	return fd, err
}

// carry pumps a connection's bytes both ways until both sides are done.
func carry(fd int, path string) {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	client := os.NewFile(uintptr(fd), "client")
	defer client.Close()
	up, err := reach(path)
	if err != nil {
		return
	}
	proxy := os.NewFile(uintptr(up), "proxy")
	defer proxy.Close()
	done := make(chan struct{})
	go func() { // carry waits for it
		defer close(done)
		if pour(proxy, client) != nil {
			_ = client.SetReadDeadline(time.Now().Add(drainTime))
			_, _ = io.Copy(io.Discard, struct{ io.Reader }{client})
			return
		}
		hang(proxy, unix.SHUT_WR)
	}()
	if pour(client, proxy) != nil {
		hang(client, unix.SHUT_RD)
	}
	hang(client, unix.SHUT_WR)
	<-done
}

// pour copies until from ends; an error is to's.
func pour(to, from *os.File) error {
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
	}
}

func hang(f *os.File, how int) {
	c, err := f.SyscallConn()
	if err == nil {
		_ = c.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), how) })
	}
}

// reach connects to the proxy; one that is just being started again is waited
// for.
func reach(path string) (int, error) {
	for end := time.Now().Add(dialTime); ; time.Sleep(dialPause) {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return -1, err
		}
		// It connects at once or waits for room in the backlog, so long.
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: int64(dialTime / time.Second)})
		if err = unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err == nil {
			if err = unix.SetNonblock(fd, true); err == nil {
				return fd, nil
			}
		}
		unix.Close(fd)
		gone := errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EINTR)
		if !gone || time.Now().After(end) {
			return -1, err
		}
	}
}
