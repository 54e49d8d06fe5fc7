package images

import (
	"os"

	"golang.org/x/sys/unix"
)

// flush has a directory's file system write down what it holds.
func flush(dir *os.File) error { return os.NewSyscallError("syncfs", unix.Syncfs(int(dir.Fd()))) }
