//go:build !linux

package sandboxtest

// memfdCreate is no system call here.
var memfdCreate string
