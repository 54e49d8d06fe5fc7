//go:build !linux

package view

import "os"

// Config says what is shown where.
type Config struct {
	Lower, Tree, Workdir string
	UID, GID             int
	Lend                 func(uid, gid int) (*os.File, error)
}

// Mount fails: there are no views here.
func Mount(Config) error { return ErrImpossible }

// Unmount has nothing to do.
func Unmount(tree, workdir string) error { return nil }

// Mounted says no.
func Mounted(tree, workdir string) bool { return false }

// Left lists nothing.
func Left(string) []string { return nil }

// Release has nothing to do.
func Release(string) error { return nil }
