package cgroup

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// settable are files that say what a group's processes are held to: in a v2
// group, and in a v1 one by its controller.
var (
	settable = []string{
		"cgroup.freeze", "cgroup.max.depth", "cgroup.max.descendants", "cgroup.subtree_control",
		"cpu.idle", "cpu.max", "cpu.max.burst", "cpu.weight", "cpuset.cpus", "cpuset.mems", "io.max", "io.weight",
		"memory.high", "memory.max", "memory.oom.group", "memory.swap.max", "pids.max",
	}
	settableLegacy = map[string][]string{
		"cpu":     {"cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.shares"},
		"freezer": {"freezer.state"},
		"memory":  {"memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes", "memory.swappiness"},
		"pids":    {"pids.max"},
	}
)

// Settings are all that the group's processes are held to, and how many groups
// are in it: a text to be compared with a later one.
func (g *Group) Settings() string {
	var all strings.Builder
	note := func(dir string, names []string) {
		for _, name := range names {
			value, err := get(filepath.Join(dir, name))
			if err == nil {
				all.WriteString(name + " " + string(value))
			}
		}
		all.WriteString(strconv.Itoa(inner(dir)) + " within\n")
	}
	if g.Dirs.Unified != "" {
		note(g.Dirs.Unified, settable)
	}
	for _, c := range []string{"cpu", "cpuacct", "freezer", "memory", "pids"} {
		if dir := g.Dirs.Legacy[c]; dir != "" {
			note(dir, settableLegacy[c])
		}
	}
	return all.String()
}

// inner is how many groups are in that of a directory.
func inner(dir string) int {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0
	}
	return int(st.Nlink) - 2
}

// Only says that a process and as many others as said are in the group, in each
// of its hierarchies.
func (g *Group) Only(pid, others int) bool {
	for _, dir := range g.Dirs.all() {
		if in := words(filepath.Join(dir, "cgroup.procs")); len(in) != 1+others || !slices.Contains(in, strconv.Itoa(pid)) {
			return false
		}
	}
	return true
}

// Shared is the group's memory that goes with no process, in bytes: files in
// memory, wherever they are, and System V shared memory.
func (g *Group) Shared() int64 {
	if dir := g.Dirs.Legacy["memory"]; dir != "" {
		return field(filepath.Join(dir, "memory.stat"), "total_shmem")
	}
	if g.Dirs.Unified == "" {
		return 0
	}
	return field(filepath.Join(g.Dirs.Unified, "memory.stat"), "shmem")
}
