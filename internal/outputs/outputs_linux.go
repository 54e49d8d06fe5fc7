package outputs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/sandbox/removal"
)

// replace puts a directory in another's place in one step, and removes the
// other.
func replace(dir, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
	switch {
	case err == nil:
		return removal.All(dir)
	case errors.Is(err, unix.ENOENT):
		return os.Rename(dir, to)
	}
	return replaceInTwo(dir, to)
}

// version names the state of a file at a time by what the session cannot set,
// or is "" when a change could follow that does not show.
func version(info fs.FileInfo, now time.Time) string {
	var ino uint64
	var changed unix.Timespec
	switch st := info.Sys().(type) {
	case *unix.Stat_t:
		ino, changed = st.Ino, st.Ctim
	case *syscall.Stat_t:
		ino, changed = st.Ino, unix.Timespec(st.Ctim)
	default:
		return ""
	}
	if now.Sub(time.Unix(changed.Unix())) < settled {
		return ""
	}
	return fmt.Sprintf("%d-%d.%09d-%d", ino, changed.Sec, changed.Nsec, info.Size())
}
