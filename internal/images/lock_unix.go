//go:build unix

package images

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"syscall"
	"time"
)

// lock is a lock between processes, and within one.
type lock struct{ f *os.File }

var errBusy = errors.New("somebody else has the lock")

// tryLock takes a lock, alone or with others, or gives errBusy.
func tryLock(name string, alone bool) (*lock, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	how := syscall.LOCK_SH
	if alone {
		how = syscall.LOCK_EX
	}
	err = syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
	if err == nil {
		return &lock{f}, nil
	}
	f.Close()
	if err == syscall.EWOULDBLOCK {
		return nil, errBusy
	}
	return nil, os.NewSyscallError("flock", err)
}

// share waits for a lock with others.
func share(ctx context.Context, name string) (*lock, error) {
	for {
		l, err := tryLock(name, false)
		if !errors.Is(err, errBusy) {
			return l, err
		}
		if err := pause(ctx); err != nil {
			return nil, err
		}
	}
}

// pause waits before another try: the kernel wakes nobody here who waits for a
// context too.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(25*time.Millisecond + rand.N(50*time.Millisecond)):
		return nil
	}
}

func (l *lock) release() { l.f.Close() }

const errNoSpace = syscall.ENOSPC
