package stage

import (
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// nobody runs git where this process is root.
const nobody = 65534

// dropped gives git's folder to the user that git runs as.
func dropped(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return err
	}
	return os.Chown(dir, nobody, nobody)
}

// confine gives a command a user with nothing, and a group of processes.
func confine(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
}

// wait waits for a confined command and ends its group, before its number can
// be another's.
func wait(cmd *exec.Cmd) error {
	for unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	return cmd.Wait()
}

// memoryBound is gitMemory, or an eighth of a small machine's.
func memoryBound() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return gitMemory
	}
	return max(min(gitMemory, int64(info.Totalram)*int64(info.Unit)/8), 128<<20)
}
