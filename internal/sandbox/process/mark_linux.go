package process

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// killMarked kills what bears a session's mark: all but what has taken the
// trouble to hide. It is for machines where a session has no cgroup.
func killMarked(mark string) {
	const least = 10 // passes: a busy machine may take most of a second for one
	end := time.Now().Add(2 * time.Second)
	for n := 1; killPass(mark) && (n < least || time.Now().Before(end)); n++ {
	}
}

// killPass makes one pass and says whether it found anything.
func killPass(mark string) bool {
	found := false
	names, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, name := range names {
		pid, err := strconv.Atoi(strings.Split(name, "/")[2])
		if err != nil || pid == os.Getpid() {
			continue
		}
		// The descriptor is of the process whose environment is then read.
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		b, err := os.ReadFile(name)
		if err == nil && strings.Contains("\x00"+string(b), "\x00"+mark+"\x00") {
			found = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil || found
		}
		unix.Close(fd)
	}
	return found
}
