//go:build !linux

package slack

// Allow does nothing: only Linux has it.
func Allow(int, int) {}

// Reset does nothing.
func Reset() {}
