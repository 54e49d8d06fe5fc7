package sandboxtest

import (
	"strconv"

	"golang.org/x/sys/unix"
)

var memfdCreate = strconv.Itoa(unix.SYS_MEMFD_CREATE)
