package child

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// process is a line of the process table.
type process struct {
	parent  int
	session int    // the process that made it
	start   uint64 // in ticks since boot
	dead    bool   // a zombie, and no thread of it lives
}

// A sweep that does not come to its end has had this much time, and this many
// looks at the process table: on a busy machine one may take most of a second.
const (
	sweepTime  = 2 * time.Second
	sweepLooks = 10
)

// sweep kills what a shell has started since a moment, and what that has
// started in turn; since 0 means everything but the agent. What is spared, and
// what descends from it or is of its session, stays. It comes back when it finds nothing more to
// kill, or gives up.
func sweep(shell int, since uint64, spared func(pid int) bool) {
	me := os.Getpid()
	end := time.Now().Add(sweepTime)
	for looks := 1; ; looks++ {
		table := processes()
		killed := 0
		for pid, p := range table {
			if pid == me || p.dead || !ours(table, pid, me, shell, since, spared, 0) {
				continue
			}
			kill(pid)
			killed++
		}
		if killed == 0 {
			return
		}
		if looks >= sweepLooks && time.Now().After(end) {
			if me == 1 {
				_ = unix.Kill(-1, unix.SIGKILL) // all of the namespace at once
			}
			return
		}
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 300_000}, nil) // the killed need a moment to go
	}
}

// ours says whether a process descends from the shell or was left to the
// agent, with every generation between younger than since.
func ours(table map[int]process, pid, me, shell int, since uint64, spared func(int) bool, depth int) bool {
	p, ok := table[pid]
	if !ok || depth > 1000 || spared(pid) || p.session > 0 && spared(p.session) {
		return false
	}
	if pid == shell {
		return true
	}
	if p.start < since {
		return false
	}
	if p.parent == me {
		return true
	}
	return ours(table, p.parent, me, shell, since, spared, depth+1)
}

// sweepTree kills what descends from the leader of a session or is of it, until
// it finds nothing more, or gives up.
func sweepTree(root int) {
	end := time.Now().Add(sweepTime)
	for looks := 0; looks < sweepLooks || time.Now().Before(end); looks++ {
		table := processes()
		killed := 0
		for pid, p := range table {
			if pid != root && !p.dead && (p.session == root || descends(table, pid, root)) {
				kill(pid)
				killed++
			}
		}
		if killed == 0 {
			return
		}
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 300_000}, nil)
	}
}

func descends(table map[int]process, pid, root int) bool {
	for range 1000 {
		p, ok := table[pid]
		if !ok {
			return false
		}
		if pid == root {
			return true
		}
		pid = p.parent
	}
	return false
}

// processes reads /proc.
func processes() map[int]process {
	names, err := entries("/proc")
	if err != nil {
		return nil
	}
	table := make(map[int]process, len(names))
	var buf [512]byte
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		fd, err := unix.Open("/proc/"+name+"/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		n, err := unix.Read(fd, buf[:])
		unix.Close(fd)
		if err != nil || n <= 0 {
			continue
		}
		if p, ok := parseStat(buf[:n]); ok {
			table[pid] = p
		}
	}
	return table
}

// entries gives the names in a directory, as many as it could read. It is no
// os.File's work: with the first of those Go's runtime begins to poll, and wakes
// threads to do so for as long as the agent lives.
func entries(dir string) (names []string, err error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for err == unix.EINTR {
		fd, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var buf [8 << 10]byte
	for {
		n, err := unix.ReadDirent(fd, buf[:])
		if err == unix.EINTR { // a storm's end is a storm of signals
			continue
		}
		if n <= 0 || err != nil {
			return names, err
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// parseStat reads a /proc/PID/stat line. The name in parentheses may hold
// anything.
func parseStat(b []byte) (process, bool) {
	at := bytes.LastIndexByte(b, ')')
	if at < 0 {
		return process{}, false
	}
	f := bytes.Fields(b[at+1:])
	if len(f) < 20 {
		return process{}, false
	}
	parent, err1 := strconv.Atoi(string(f[1]))
	session, err2 := strconv.Atoi(string(f[3]))
	threads, err3 := strconv.Atoi(string(f[17]))
	start, err4 := strconv.ParseUint(string(f[19]), 10, 64)
	dead := (f[0][0] == 'Z' || f[0][0] == 'X') && threads <= 1 // the first thread may end before the others
	return process{parent: parent, session: session, start: start, dead: dead}, errors.Join(err1, err2, err3, err4) == nil
}
