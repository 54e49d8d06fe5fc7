package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/config"
)

// How a worker gives way to the next one on its state directory; see
// docs/design/0010-worker.md. One JSON object a line, each way one.
type (
	leaveRequest struct {
		Leave   int    `json:"leave"` // the protocol's version
		Version string `json:"version,omitempty"`
	}
	leaveAnswer struct {
		Left     int    `json:"left,omitempty"` // the protocol's version
		Sessions int    `json:"sessions,omitempty"`
		Refused  string `json:"refused,omitempty"`
	}
)

const (
	leaveVersion = 1
	leaveLine    = 4096             // bytes of a line, at most
	leaveTime    = 90 * time.Second // of all: calls in the worker itself may have to end
)

const controlName = "control.sock"

// atControl calls fn with a name of the state directory's control socket that
// is short enough for a socket, whatever the directory is called.
func atControl(state string, fn func(name string) error) error {
	path := filepath.Join(state, controlName)
	if len(path) < 100 || runtime.GOOS != "linux" {
		return fn(path)
	}
	dir, err := os.Open(state)
	if err != nil {
		return err
	}
	defer dir.Close()
	return fn(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), controlName))
}

// control listens for the worker that comes next. leave is asked to make way;
// what it returned nil for is over when the answer has been sent.
type control struct {
	listener *net.UnixListener
	left     chan struct{} // closed when this process has to end
}

// listenControl needs the lock of the state directory.
func listenControl(state string, leave func(context.Context) (sessions int, err error), log *slog.Logger) (*control, error) {
	c := &control{left: make(chan struct{})}
	err := atControl(state, func(name string) (err error) {
		if err = os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if c.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"}); err != nil {
			return err
		}
		c.listener.SetUnlinkOnClose(false) // the next one may have made its own
		return os.Chmod(name, 0o600)
	})
	if err != nil {
		return nil, fmt.Errorf("listen for a worker that comes next: %w", err)
	}
	go func() {
		for {
			conn, err := c.listener.AcceptUnix()
			if err != nil {
				return
			}
			if c.serve(conn, leave, log) {
				close(c.left)
				return
			}
		}
	}()
	return c, nil
}

func (c *control) Close() { c.listener.Close() }

// serve answers one connection and says whether this process has to end.
func (c *control) serve(conn *net.UnixConn, leave func(context.Context) (int, error), log *slog.Logger) bool {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(leaveTime))
	answer := func(a leaveAnswer) { _ = json.NewEncoder(conn).Encode(a) }
	if uid, err := peer(conn); err != nil || uid != 0 && uid != os.Geteuid() {
		answer(leaveAnswer{Refused: "only the worker's own user may replace it"})
		return false
	}
	var ask leaveRequest
	if err := json.NewDecoder(io.LimitReader(conn, leaveLine)).Decode(&ask); err != nil || ask.Leave != leaveVersion {
		answer(leaveAnswer{Refused: fmt.Sprintf("this worker speaks version %d of the hand-over", leaveVersion)})
		return false
	}
	log.Info("another worker takes this one's place", "version", ask.Version)
	ctx, cancel := context.WithTimeout(context.Background(), leaveTime-15*time.Second)
	defer cancel()
	go func() { // who asks says nothing more: whatever comes is its end
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			cancel()
		}
	}()
	sessions, err := leave(ctx)
	if err != nil {
		log.Warn("not replaced: going on", "error", err)
		answer(leaveAnswer{Refused: "a call runs in the worker itself and does not end; try again later"})
		return false
	}
	answer(leaveAnswer{Left: leaveVersion, Sessions: sessions})
	return true
}

// peer is the user on the other end.
func peer(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	return peerOf(raw)
}

// busyPause lies between two tries to reach a worker that has the directory
// and does not listen yet, or not any more.
const busyPause = 50 * time.Millisecond

// takeOver locks the state directory, from the worker that has it if there is
// one.
func takeOver(ctx context.Context, state string, log *slog.Logger) (*dirLock, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*leaveTime)
	defer cancel()
	for asked := false; ; {
		lock, err := lockDir(state, "--state-dir")
		if err == nil {
			if !asked {
				log.Info("no worker runs here that could be replaced")
			}
			return lock, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, err
		}
		there, aerr := askToLeave(ctx, state, log)
		if aerr != nil {
			return nil, aerr
		}
		asked = asked || there
		select {
		case <-time.After(busyPause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// askToLeave asks the worker that listens in the state directory to make way,
// and comes back when it has; there is false where none listens.
func askToLeave(ctx context.Context, state string, log *slog.Logger) (there bool, err error) {
	fail := func(why string) (bool, error) {
		return false, &Error{Problem: "the running worker does not make way: " + why, Cure: "stop it by SIGTERM, or try again later"}
	}
	var conn net.Conn
	err = atControl(state, func(name string) (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, "unix", name)
		return err
	})
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return false, nil
	}
	if err != nil {
		return fail(err.Error())
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := json.NewEncoder(conn).Encode(leaveRequest{Leave: leaveVersion, Version: config.Version}); err != nil {
		return fail(err.Error())
	}
	var a leaveAnswer
	if err := json.NewDecoder(io.LimitReader(conn, leaveLine)).Decode(&a); err != nil {
		return fail(err.Error())
	}
	if a.Left != leaveVersion {
		return fail(a.Refused)
	}
	log.Info("took the place of a worker", "sessions", a.Sessions)
	return true, nil
}
