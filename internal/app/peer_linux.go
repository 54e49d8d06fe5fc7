package app

import (
	"syscall"

	"golang.org/x/sys/unix"
)

func peerOf(raw syscall.RawConn) (uid int, err error) {
	e := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			uid = int(cred.Uid)
		}
	})
	if e != nil {
		err = e
	}
	return uid, err
}
