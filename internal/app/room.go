package app

import (
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/namespaces"
	"github.com/berthdev/berth/internal/sandbox/process"
)

// capacity is what all sessions of a machine have together; 0 is unknown.
type capacity struct {
	memory, disk int64 // bytes
	pids         int64
}

// What the worker and the machine keep for themselves.
const (
	ownMemory = 256 << 20
	ownPIDs   = 256
)

// ready is how many sandboxes to keep ready: as many as were asked for, or
// where that is left open, by what one costs.
func ready(asked int, way string, promised sandbox.Limits) int {
	switch {
	case asked >= 0:
		return asked
	case (way == process.Name || way == namespaces.Name) && len(promised.Asked()) == 0:
		return 8
	}
	return 2
}

// room is how many sessions of these promises fit beside the sandboxes that
// are kept ready, at least one; 0 when nothing that is known is promised.
func room(promised sandbox.Limits, has capacity, warm int, log *slog.Logger) int {
	fits := int64(-1)
	for _, p := range []struct{ each, all int64 }{
		{promised.Memory, has.memory}, {promised.Disk, has.disk}, {int64(promised.PIDs), has.pids},
	} {
		if p.each <= 0 || p.all <= 0 {
			continue
		}
		if n := p.all / p.each; fits < 0 || n < fits {
			fits = n
		}
	}
	switch {
	case fits < 0:
		return 0
	case fits < 1:
		log.Warn("the policy promises a session more than this machine has; sessions are taken one at a time",
			"memory", has.memory, "disk", has.disk, "pids", has.pids)
	}
	n := int(max(1, fits-int64(warm)))
	log.Info("sessions that fit beside the sandboxes kept ready", "room", n)
	return n
}

// machineHere is what this machine has for a worker's sessions.
func machineHere(state string) capacity {
	c := capacity{memory: machineMemory(), pids: least(number("/proc/sys/kernel/pid_max"), number("/proc/sys/kernel/threads-max"))}
	for _, dir := range ownGroups() {
		c.memory = least(c.memory, number(filepath.Join(dir, "memory.max")), number(filepath.Join(dir, "memory.limit_in_bytes")))
		c.pids = least(c.pids, number(filepath.Join(dir, "pids.max")))
	}
	c.memory, c.pids = max(c.memory-ownMemory, 0), max(c.pids-ownPIDs, 0)
	var fs unix.Statfs_t
	if unix.Statfs(state, &fs) == nil {
		c.disk = int64(fs.Bavail) * int64(fs.Bsize)
	}
	return c
}

// ownGroups are the directories of this process's control groups and of those
// above them, where they can be: a container often shows its own as the root.
func ownGroups() []string {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	var dirs []string
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for _, root := range []string{filepath.Join("/sys/fs/cgroup", parts[1]), "/sys/fs/cgroup/unified"} {
			for dir := filepath.Join("/", parts[2]); ; dir = filepath.Dir(dir) {
				dirs = append(dirs, filepath.Join(root, dir))
				if dir == "/" {
					break
				}
			}
		}
	}
	return dirs
}

// number is what a file of the kernel's says, 0 for none or no bound.
func number(file string) int64 {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// least is the smallest number above 0, 0 for none.
func least(of ...int64) int64 {
	var l int64
	for _, n := range of {
		if n > 0 && (l == 0 || n < l) {
			l = n
		}
	}
	return l
}
