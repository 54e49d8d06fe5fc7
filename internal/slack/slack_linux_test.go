package slack

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAllow sets all threads but this one, and this one back; where the kernel
// lets only root set other threads, none.
func TestAllow(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	me := unix.Gettid()
	before, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	Allow(os.Getpid(), me, Late)
	set := 0
	for _, th := range threads {
		if b, err := os.ReadFile("/proc/" + th.Name() + "/timerslack_ns"); err == nil && string(b) == "1000000\n" {
			set++
		}
	}
	if root := os.Getuid() == 0; root && (set < len(threads)-1 || set == 0) || !root && set != 0 {
		t.Errorf("%d of %d threads", set, len(threads))
	}
	if now, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || now != before {
		t.Errorf("this thread has %d, %v; before %d", now, err, before)
	}
	Allow(os.Getpid(), 0, Late)
	Reset()
	if now, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || now != usual {
		t.Errorf("after that %d, %v", now, err)
	}
}
