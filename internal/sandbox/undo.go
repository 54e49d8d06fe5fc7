package sandbox

import "errors"

// Undo are the ways back of the steps that a start has made so far. The zero
// value is ready.
type Undo []func() error

// Add notes the way back of a step that was made.
func (u *Undo) Add(back func() error) { *u = append(*u, back) }

// Run goes back, the last step first, when *err is set, and adds what fails to
// it. To be deferred.
func (u *Undo) Run(err *error) {
	if *err == nil {
		return
	}
	for i := len(*u) - 1; i >= 0; i-- {
		*err = errors.Join(*err, (*u)[i]())
	}
}
