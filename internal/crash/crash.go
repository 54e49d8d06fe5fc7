// Package crash marks the lines at which the program may be killed, so that
// tests can end it exactly there. Unarmed, a mark costs one atomic load.
package crash

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

type trap struct {
	label string
	left  atomic.Int64
}

var armed atomic.Pointer[trap]

// die ends the process as SIGKILL from outside would; tests of this package
// replace it.
var die = func() {
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way; nothing after the mark may run
}

// At ends the process with SIGKILL when spec armed this label and it is the
// Nth time. Safe for concurrent use.
func At(label string) {
	t := armed.Load()
	if t == nil || t.label != label {
		return
	}
	if t.left.Add(-1) == 0 {
		die()
	}
}

// Arm sets the label to die at: "label", or "label:N" for the Nth time it is
// reached. An empty spec disarms.
func Arm(spec string) error {
	if spec == "" {
		armed.Store(nil)
		return nil
	}
	t := &trap{label: spec}
	n := int64(1)
	if label, count, ok := strings.Cut(spec, ":"); ok {
		var err error
		if n, err = strconv.ParseInt(count, 10, 64); err != nil || n < 1 {
			return fmt.Errorf("crash point %q: after the colon comes how often it is reached, 1 or more", spec)
		}
		t.label = label
	}
	if t.label == "" {
		return fmt.Errorf("crash point %q names no label", spec)
	}
	t.left.Store(n)
	armed.Store(t)
	return nil
}
