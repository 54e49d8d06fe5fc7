package process

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// markTime is how long marks are looked for.
const markTime = 2 * time.Second

// killMarked kills what bears a session's mark: all but what has taken the
// trouble to hide. It is for machines where a session has no cgroup.
func killMarked(mark string) {
	const least = 10 // passes: a busy machine may take most of a second for one
	end := time.Now().Add(markTime)
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
		if strings.Contains("\x00"+environ(filepath.Dir(name)), "\x00"+mark+"\x00") {
			found = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil || found
		}
		unix.Close(fd)
	}
	return found
}

// environ reads the environment of the process with a directory of /proc, "" for
// one that cannot be read. Amid an exec a process has none for a moment.
func environ(dir string) string {
	const looks = 10 // the moment may be over when it is asked for
	end := time.Now().Add(markTime)
	for n := 0; n < looks && time.Now().Before(end); n++ {
		b, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil || len(b) > 0 {
			return string(b)
		}
		if becoming(dir) {
			n = 0
			time.Sleep(time.Millisecond)
		}
	}
	return ""
}

// becoming says that a process is about to be another program: it has that, and
// no place for an environment yet.
func becoming(dir string) bool {
	if _, err := os.Readlink(filepath.Join(dir, "exe")); err != nil {
		return false // it has ended, or is the kernel's
	}
	const envEnd = 48 // after the name
	b, err := os.ReadFile(filepath.Join(dir, "stat"))
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	return err == nil && len(f) > envEnd && f[envEnd] == "0"
}
