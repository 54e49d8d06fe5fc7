// Package cgroup puts a session's processes into control groups of their own,
// on machines with cgroup v2, with v1, and with both ("hybrid": the limits are
// v1's, killing and freezing are v2's). It bounds processors, memory and
// processes where this process may do so, and ends everything that is inside.
//
// A group lies below this process's own, or below the one that was delegated
// to it. Where v2 holds the limits and this process stands in its way (no group
// may hold both processes and groups with limits), it moves itself into a group
// "berth-self" beside the sessions'.
package cgroup

import (
	"slices"
	"time"
)

// Prefix begins the name of every group, as it does every sandbox.Label.
const Prefix = "berth-"

// Dirs is where a group is, for a record.
type Dirs struct {
	// Unified is its directory in the v2 hierarchy, "" for none.
	Unified string `json:"unified,omitempty"`
	// Legacy are its directories in v1 hierarchies, by controller.
	Legacy map[string]string `json:"legacy,omitempty"`
}

// None says that there is no group.
func (d Dirs) None() bool { return d.Unified == "" && len(d.Legacy) == 0 }

// V1 are its directories in v1 hierarchies, each once.
func (d Dirs) V1() (dirs []string) {
	for _, dir := range d.Legacy {
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// Usage is what a group uses and has used. What the kernel does not count is
// zero.
type Usage struct {
	CPU        time.Duration `json:"cpu"`
	Memory     int64         `json:"memory"` // bytes, page cache and memory file systems included
	MemoryPeak int64         `json:"memory_peak"`
	PIDs       int           `json:"pids"` // processes and threads
	PIDsPeak   int           `json:"pids_peak"`
}
