// Package slack lets a Go program's own timers be late. The thread of the
// runtime's that watches the others (sysmon) sleeps for 20 µs at a time while
// anything runs, and to wake it was a fifth of what an agent and a sentry cost
// for a command. What waits for it, such as another goroutine while a system call
// takes long, waits as long. It opens no os.File: with the first of those a
// program begins to poll.
package slack

import "time"

// Late is how late they may be where goroutines wait for each other.
const Late = time.Millisecond
