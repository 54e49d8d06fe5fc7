package sandbox

import (
	"cmp"
	"slices"
)

// Limited is a sandbox that knows which limits hold in it. Of others those hold
// that their driver enforces.
type Limited interface {
	Enforced() []Limit
}

// Or is l with what it leaves open taken from defaults.
func (l Limits) Or(defaults Limits) Limits {
	l.CPU = cmp.Or(l.CPU, defaults.CPU)
	l.Memory = cmp.Or(l.Memory, defaults.Memory)
	l.PIDs = cmp.Or(l.PIDs, defaults.PIDs)
	l.Disk = cmp.Or(l.Disk, defaults.Disk)
	l.OpenFiles = cmp.Or(l.OpenFiles, defaults.OpenFiles)
	l.CallTime = cmp.Or(l.CallTime, defaults.CallTime)
	l.SessionTime = cmp.Or(l.SessionTime, defaults.SessionTime)
	return l
}

// Bounds of a session for which nobody has set any.
const (
	defaultPIDs      = 2048
	defaultOpenFiles = 4096
)

// DefaultLimits hold where nobody has set others, as far as they can be
// enforced: half of the machine's memory, 2,048 processes and threads, 4,096
// open files. Processors, disk and time are not bounded. memory is the
// machine's, in bytes; 0 for unknown.
func DefaultLimits(memory int64) Limits {
	return Limits{Memory: memory / 2, PIDs: defaultPIDs, OpenFiles: defaultOpenFiles}
}

// Of keeps those limits that are asked for, sorted and each once.
func (l Limits) Of(limits ...Limit) []Limit {
	var kept []Limit
	for _, x := range l.Asked() {
		if slices.Contains(limits, x) {
			kept = append(kept, x)
		}
	}
	return kept
}
