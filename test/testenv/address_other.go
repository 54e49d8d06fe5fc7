//go:build !linux

package testenv

import "testing"

// address is an address of this machine. Elsewhere than on Linux its port may
// become another's while nobody listens there.
func address(testing.TB) string { return "127.0.0.1:0" }
