//go:build !linux

package app

import (
	"os"
	"syscall"
)

// peerOf trusts the socket's mode: only its owner can connect.
func peerOf(syscall.RawConn) (int, error) { return os.Geteuid(), nil }
