// Package app wires the halves: configuration in, running program out. It is
// the only room that knows the control plane and the worker, and it lists
// database engines, models and sandbox drivers by name; nothing registers
// itself.
//
// Everything that runs for long takes two contexts, the two ways to stop: when
// taking ends, no more work is taken and what runs may finish; when working
// ends, it is cut off.
package app

// Error is a failure that its reader can do something about.
type Error struct {
	Problem string
	Cure    string
	Err     error // the cause, nil when Problem says it all
}

func (e *Error) Error() string { return e.Problem + "; " + e.Cure }

func (e *Error) Unwrap() error { return e.Err }

// undo is a stack of what must be undone, run in reverse.
type undo []func()

func (u *undo) push(f func()) { *u = append(*u, f) }

func (u *undo) run() {
	for len(*u) > 0 {
		last := (*u)[len(*u)-1]
		*u = (*u)[:len(*u)-1]
		last()
	}
}
