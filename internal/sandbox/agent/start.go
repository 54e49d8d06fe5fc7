package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
)

// Launch is an agent to start.
type Launch struct {
	Program *Program
	// Dir is where the agent's socket is made.
	Dir string
	// Boot is what the agent is told first.
	Boot agentwire.Boot
	// Mounts are detached mounts; the boot's steps name them by MountFD.
	Mounts []*os.File
	// Sys says in which namespaces and as whom.
	Sys *syscall.SysProcAttr
	// Legacy are directories of v1 cgroups for the agent to be born in, where it
	// can be; Process.Born says so.
	Legacy []string
	// Started, when set, is called with the process before it is relied on.
	Started func(*Process) error
}

// MountFD is the descriptor number of Launch.Mounts[i] in the agent.
func MountFD(i int) int { return 5 + i }

// Start starts an agent and waits until its shell can be asked. On error
// nothing of it is left.
func Start(ctx context.Context, l Launch) (*Live, error) {
	if err := faults(&l); err != nil {
		return nil, err
	}
	socket, err := listen(l.Dir)
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	defer null.Close()
	sys := l.Sys
	if sys == nil {
		sys = &syscall.SysProcAttr{}
	}
	sys.Setsid = true
	files := append([]*os.File{null, null, null, socket, l.Program.file}, l.Mounts...)
	proc, err := l.Program.start(files, sys, l.Legacy)
	if err != nil {
		return nil, fmt.Errorf("agent: start: %w", err)
	}
	live := &Live{dir: l.Dir, proc: proc, turn: make(chan struct{}, 1), late: lateTime}
	undo := func() {
		live.Close()
		_ = proc.Kill()
		_ = proc.Wait(10 * time.Second)
		proc.Release()
		os.Remove(sandbox.SocketPath(l.Dir))
	}
	if l.Started != nil {
		if err := l.Started(proc); err != nil {
			undo()
			return nil, err
		}
	}
	socket.Close() // from here on the agent's end is the only one
	if err := live.boot(ctx, l.Boot); err != nil {
		undo()
		return nil, err
	}
	return live, nil
}

func (l *Live) boot(ctx context.Context, boot agentwire.Boot) error {
	c, err := dial(l.dir)
	if err != nil {
		return fmt.Errorf("agent: it did not start: %w", err)
	}
	return l.bootOver(ctx, c, boot)
}

// Over boots an agent at the far end of a connection that is the only one it
// will ever have. On error the connection is closed.
func Over(ctx context.Context, c net.Conn, boot agentwire.Boot) (*Live, error) {
	l := &Live{pipe: true, turn: make(chan struct{}, 1), late: lateTime}
	if err := l.bootOver(ctx, c, boot); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *Live) bootOver(ctx context.Context, c net.Conn, boot agentwire.Boot) (err error) {
	// A context that ends is felt by the read that waits for Ready.
	stop := context.AfterFunc(ctx, func() { c.Close() })
	k := &conn{c: c}
	if err = k.send(agentwire.KindBoot, boot.Encode()); err == nil {
		_, err = ready(c, bootTime)
	}
	if !stop() && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
			err = errors.New("it ended while it started")
		}
		return fmt.Errorf("agent: %w", err)
	}
	l.conn = newConn(c)
	return nil
}

// Renew has the agent, whose socket has been moved to dir, end all that it has
// started and begin anew. It is for one whose Boot Renews. This Live is closed,
// whatever comes of it; on error nobody speaks to the agent any more.
func (l *Live) Renew(ctx context.Context, dir string, boot agentwire.Boot) (*Live, error) {
	l.Close()
	c, err := dial(dir)
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	if _, err := ready(c, dialTime); err != nil {
		c.Close()
		return nil, fmt.Errorf("agent: %w", err)
	}
	next := &Live{dir: dir, proc: l.proc, turn: make(chan struct{}, 1), late: l.late}
	if err := next.bootOver(ctx, c, boot); err != nil {
		return nil, err
	}
	return next, nil
}

// Attach takes an agent that something else has started and that makes its
// socket in dir, and boots it. alive is asked, while the socket is not there
// yet, whether waiting makes sense; proc is the agent's process here, or nil.
// On error the agent is left to whoever started it.
func Attach(ctx context.Context, dir string, boot agentwire.Boot, proc *Process, alive func(context.Context) error) (*Live, error) {
	l := &Live{dir: dir, proc: proc, turn: make(chan struct{}, 1), late: lateTime}
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	pause := time.Millisecond
	for {
		err := l.boot(ctx, boot)
		if err == nil {
			return l, nil
		}
		if !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, err
		}
		if err := alive(ctx); err != nil {
			return nil, err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("agent: it does not come up: %w", context.Cause(ctx))
		}
		pause = min(2*pause, 50*time.Millisecond)
	}
}

// Recover gives the agent that an earlier process started. ErrGone when it is
// not there any more.
func Recover(dir string, h Handle) (*Live, error) {
	proc, err := findProcess(h)
	if err != nil {
		return nil, err
	}
	l := &Live{dir: dir, proc: proc, turn: make(chan struct{}, 1), late: lateTime}
	if _, err := l.connect(takeTime); err != nil {
		l.Close()
		if !short(err) { // it is there and does not speak: it is of no use to anybody
			_ = proc.Kill()
			_ = proc.Wait(10 * time.Second)
		}
		proc.Release()
		return nil, err
	}
	return l, nil
}

// Dead gives an agent whose process has ended, for what is left to clear away.
func Dead(p *Process) *Live {
	return &Live{proc: p, turn: make(chan struct{}, 1), late: lateTime, stopped: true}
}

// Handle names an agent's process on the host beyond its number, which may be
// given to another.
type Handle struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start,omitempty"` // its start, in ticks since boot
	Boot  string `json:"boot,omitempty"`  // the host's boot
}

// OpenHandle gives the process of a handle, if it is still the same one; else
// ErrGone.
func OpenHandle(h Handle) (*Process, error) { return findProcess(h) }

func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
