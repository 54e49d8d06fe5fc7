package docker

import "time"

// SetClock turns the driver's clock, until undo is called.
func SetClock(f func() time.Time) (undo func()) {
	now = f
	return func() { now = time.Now }
}
