package docker

import "time"

// SetClock turns the driver's clock, until undo is called.
func SetClock(f func() time.Time) (undo func()) {
	now = f
	return func() { now = time.Now }
}

// CloseIdle closes the connections to the daemon that wait for their next use.
func (d *Driver) CloseIdle() {
	d.daemon.mu.Lock()
	defer d.daemon.mu.Unlock()
	if d.daemon.api != nil {
		_ = d.daemon.api.Close()
	}
}
