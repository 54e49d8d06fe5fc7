package child

import "golang.org/x/sys/unix"

const machine = unix.AUDIT_ARCH_X86_64

var deniedHere = []uint32{unix.SYS_IOPL, unix.SYS_IOPERM, unix.SYS_USELIB, unix.SYS_MODIFY_LDT}
