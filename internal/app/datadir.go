package app

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// dirLock keeps a second process off a directory of ours.
type dirLock struct{ file *os.File }

// lockDir makes dir if it is missing and locks it. flag is the command-line
// flag that names another one.
func lockDir(dir, flag string) (*dirLock, error) {
	if err := makeDir(dir, flag); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, cannotWrite(dir, flag, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &Error{Problem: fmt.Sprintf("cannot lock %s: %v", dir, err), Cure: "choose a directory on a local file system with " + flag, Err: err}
		}
		who, _ := io.ReadAll(io.LimitReader(f, 32)) // best effort: it only names the holder
		holder := "another berth process"
		if pid := strings.TrimSpace(string(who)); pid != "" {
			holder = "berth process " + pid
		}
		return nil, &Error{Problem: fmt.Sprintf("%s is in use by %s", dir, holder), Cure: "stop it, or choose another directory with " + flag, Err: err}
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	if err != nil {
		f.Close()
		return nil, cannotWrite(dir, flag, err)
	}
	return &dirLock{f}, nil
}

// locked says whether a process holds the lock of dir. It makes nothing.
func locked(dir string) bool {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer f.Close() // with its lock
	return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

// Release gives the directory free.
func (l *dirLock) Release() {
	l.file.Truncate(0) // so that nobody is told of a process that is gone
	l.file.Close()
}

// makeDir makes a directory of ours that only its owner can read.
func makeDir(dir, flag string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return cannotWrite(dir, flag, err)
	}
	return nil
}

func cannotWrite(dir, flag string, err error) error {
	why := err
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		why = pe.Err
	}
	return &Error{Problem: fmt.Sprintf("cannot write to %s: %v", dir, why), Cure: "make it writable, or choose another directory with " + flag, Err: err}
}
