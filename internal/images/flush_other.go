//go:build !linux

package images

import "os"

// flush has a directory's file system write down what it holds.
func flush(dir *os.File) error { return dir.Sync() }
