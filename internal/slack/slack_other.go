//go:build !linux

package slack

import "time"

// Allow does nothing: only Linux has it.
func Allow(int, int, time.Duration) {}

// Reset does nothing.
func Reset() {}
