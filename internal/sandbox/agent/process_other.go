//go:build !linux

package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/berthdev/berth/internal/sandbox"
)

// Process is an agent's process.
type Process struct {
	Handle Handle
	Born   bool // false here
	p      *os.Process
	done   chan struct{} // closed when a child has been collected
}

func (p *Program) path(int) string { return p.file.Name() }

// spawner is not needed here: there are no user namespaces.
type spawner struct{}

func (p *Program) start(files []*os.File, sys *syscall.SysProcAttr, _ []string) (*Process, error) {
	return startProcess(p.path(4), files, sys)
}

func startProcess(path string, files []*os.File, sys *syscall.SysProcAttr) (*Process, error) {
	proc, err := os.StartProcess(path, []string{name, "0"}, &os.ProcAttr{Dir: "/", Env: []string{"GOMAXPROCS=1"}, Files: files, Sys: sys})
	if err != nil {
		return nil, err
	}
	p := &Process{Handle: Handle{PID: proc.Pid}, p: proc, done: make(chan struct{})}
	go func() { // it ends with the process
		_, _ = proc.Wait()
		close(p.done)
	}()
	return p, nil
}

// FindProcess gives up: without a start time a number may be anybody's.
func FindProcess(int) (*Process, error) { return nil, sandbox.ErrGone }

// findProcess gives up: without a start time a number may be anybody's.
func findProcess(Handle) (*Process, error) { return nil, sandbox.ErrGone }

// Kill kills the process. It is no error when it has ended.
func (p *Process) Kill() error {
	if err := p.p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Ended says whether the process has ended.
func (p *Process) Ended() bool { return p.Wait(0) == nil }

// Wait waits until the process has ended.
func (p *Process) Wait(d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.done:
		return nil
	case <-t.C:
		return errors.New("agent: the process does not end")
	}
}

// Release does nothing here.
func (p *Process) Release() {}

func listen(dir string) (*os.File, error) {
	path := sandbox.SocketPath(dir)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("agent: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	return l.File()
}

func dial(dir string) (net.Conn, error) {
	return net.DialTimeout("unix", sandbox.SocketPath(dir), dialTime)
}
