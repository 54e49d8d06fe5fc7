package slack

import (
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const usual = 50_000 // nanoseconds, the kernel's for a process that asks for none

// Allow lets the timers of a process's threads be so late, but not those of the
// thread with the number but, whose children have its slack. Without the right to
// it, and on a kernel that has no such setting, nothing changes.
func Allow(pid, but int, late time.Duration) {
	dir, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/task", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(dir)
	var threads []string // those to come have it from them
	var buf [4 << 10]byte
	for {
		n, err := unix.ReadDirent(dir, buf[:])
		if n <= 0 || err != nil {
			break
		}
		_, _, threads = unix.ParseDirent(buf[:n], -1, threads)
	}
	text := strconv.AppendInt(nil, int64(late), 10)
	for _, t := range threads {
		if t == strconv.Itoa(but) {
			continue
		}
		if fd, err := unix.Open("/proc/"+t+"/timerslack_ns", unix.O_WRONLY|unix.O_CLOEXEC, 0); err == nil {
			_, _ = unix.Write(fd, text)
			unix.Close(fd)
		}
	}
}

// Reset gives this thread, and what it starts, what is usual.
func Reset() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, usual, 0, 0, 0) }
