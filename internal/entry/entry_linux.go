package entry

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Hide returns in a process whose environment block and command line hold no
// credential; env is the environment it was started with, and is this
// process's again when Hide returns. flags are the flags that hold
// credentials, with the variables that mean the same. On the way it execs
// itself, and where it is a container's first process it stays behind as its
// init and does not return.
func Hide(env []string, flags map[string]string) error {
	fd, told, err := marker(env)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if !told {
		args, all := takeFlags(os.Args, env, flags)
		fd, err := carry(all)
		if err != nil {
			return err
		}
		return fmt.Errorf("exec %s again without its environment: %w", self, unix.Exec(self, args, block(all, fd)))
	}
	unix.CloseOnExec(fd)
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("keep this process's memory from others: %w", err)
	}
	if os.Getpid() == 1 {
		status, err := initial(self, env, fd)
		if err != nil {
			return err
		}
		os.Exit(status)
	}
	f := os.NewFile(uintptr(fd), "environment")
	defer f.Close()
	carried, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<31))
	if err != nil {
		return fmt.Errorf("read the environment that was carried over: %w", err)
	}
	os.Clearenv()
	for kv := range strings.SplitSeq(string(carried), "\x00") {
		if name, value, ok := strings.Cut(kv, "="); ok && name != "" {
			os.Setenv(name, value)
		}
	}
	return nil
}

// marker is the descriptor that a re-exec was told of.
func marker(env []string) (fd int, told bool, err error) {
	for _, kv := range env {
		if value, ok := strings.CutPrefix(kv, Marker+"="); ok {
			if fd, err = strconv.Atoi(value); err != nil || fd < 3 {
				return 0, false, fmt.Errorf("%s is %q: unset it, it is this program's own", Marker, value)
			}
			return fd, true, nil
		}
	}
	return 0, false, nil
}

// carry puts an environment into a file in memory that an exec inherits.
func carry(env []string) (int, error) {
	fd, err := unix.MemfdCreate("environment", 0)
	if err != nil {
		return 0, fmt.Errorf("carry the environment over: %w", err)
	}
	b := []byte(strings.Join(env, "\x00"))
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err != nil {
			unix.Close(fd)
			return 0, fmt.Errorf("carry the environment over: %w", err)
		}
		b = b[n:]
	}
	return fd, nil
}

// block is the environment that anybody may see.
func block(env []string, fd int) []string {
	seen := []string{Marker + "=" + strconv.Itoa(fd)}
	for _, kv := range env {
		if keep(kv) {
			seen = append(seen, kv)
		}
	}
	return seen
}

// initial is the first process of a container: it starts this program once
// more, hands signals on, reaps whatever is left to it, and gives the status
// to end with when the child has ended.
func initial(self string, env []string, fd int) (int, error) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	// In a group of its own a terminal's interrupt reaches it once, from here.
	child, err := syscall.ForkExec(self, os.Args, &syscall.ProcAttr{
		Env: block(env, 3), Files: []uintptr{0, 1, 2, uintptr(fd)}, Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("start the worker below this init: %w", err)
	}
	unix.Close(fd)
	go func() {
		for s := range signals {
			_ = unix.Kill(child, s.(syscall.Signal))
		}
	}()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, fmt.Errorf("wait for the worker: %w", err)
		case pid == child && ws.Signaled():
			return 128 + int(ws.Signal()), nil
		case pid == child && ws.Exited():
			return ws.ExitStatus(), nil
		}
	}
}
