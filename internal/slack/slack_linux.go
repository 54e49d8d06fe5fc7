package slack

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	late  = "1000000" // nanoseconds
	usual = 50_000    // the kernel's for a process that asks for none
)

// Allow lets the timers of a process's threads be a millisecond late, but not
// those of the thread with the number but, whose children have its slack. Without
// the right to it, and on a kernel that has no such setting, nothing changes.
func Allow(pid, but int) {
	threads, _ := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task")
	for _, t := range threads { // those to come have it from them
		if t.Name() != strconv.Itoa(but) {
			_ = os.WriteFile("/proc/"+t.Name()+"/timerslack_ns", []byte(late), 0)
		}
	}
}

// Reset gives this thread, and what it starts, what is usual.
func Reset() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, usual, 0, 0, 0) }
