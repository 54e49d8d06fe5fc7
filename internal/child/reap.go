package child

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
)

const (
	// maxDrains is how many outputs of jobs of earlier shells are drained.
	maxDrains = 64
	// crowdedTries bounds the tries to start a shell among too many processes,
	// 10 ms apart and each after a sweep of up to two seconds.
	crowdedTries = 20
)

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
			a.nap.changed()
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

// reap collects every child that has ended. When the shell is among them, the
// running command ended it. A shell that is stopped goes on: nobody else would
// see to that.
func (a *agent) reap() error {
	var junk [64]byte
	for {
		if n, _ := unix.Read(a.wake, junk[:]); n < len(junk) {
			break
		}
	}
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG|unix.WUNTRACED, nil)
		if err == unix.EINTR {
			continue
		}
		if pid <= 0 {
			return nil
		}
		if ws.Stopped() {
			if pid == a.shell.pid {
				_ = unix.Kill(pid, unix.SIGCONT)
			}
			continue
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
		if pid > 0 {
			a.collected(pid, ws)
		} else if err != unix.EINTR {
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
