package sandbox

import (
	"errors"
	"sync/atomic"
)

// ErrSkip is what a test answers for a step that shall be left out without a
// word, as a kernel or a bug might leave it out: the proof has to find it.
var ErrSkip = errors.New("sandbox: the step is left out")

var faults atomic.Pointer[func(step string) error]

// Fault stands before every step of enforcement and gives the error with which
// it shall fail: nil, except where a test has it fail.
func Fault(step string) error {
	if f := faults.Load(); f != nil {
		return (*f)(step)
	}
	return nil
}

// SetFault has steps fail, until undo is called. For tests alone, one at a time.
func SetFault(f func(step string) error) (undo func()) {
	faults.Store(&f)
	return func() { faults.Store(nil) }
}
