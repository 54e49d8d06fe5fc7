package child

import "golang.org/x/sys/unix"

// bearing is what processes inherit from the thread that makes them and anybody
// with the right can change from outside: prlimit, renice, taskset and their like
// take any process.
type bearing struct {
	limits [16]unix.Rlimit
	sched  unix.SchedAttr
	cpus   unix.CPUSet
	io     uintptr
	slack  int
	files  [len(bearingFiles)]string // their content
}

var bearingFiles = [...]string{"oom_score_adj", "cgroup"}

// bearer looks at this thread's bearing. Its files stay open: a session may cover
// /proc.
type bearer struct {
	files [len(bearingFiles)]int
	was   bearing
}

func newBearer() (b *bearer, err error) {
	b = &bearer{}
	for i, name := range bearingFiles {
		path := "/proc/thread-self/" + name
		if b.files[i], err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return nil, fail("open "+path, err)
		}
	}
	b.was, err = b.look()
	return b, fail("look at what processes inherit", err)
}

// same says that it is what it was at first.
func (b *bearer) same() bool {
	now, err := b.look()
	return err == nil && now == b.was
}

func (b *bearer) look() (now bearing, err error) {
	for i := range now.limits {
		if err := unix.Prlimit(0, i, nil, &now.limits[i]); err != nil {
			return now, err
		}
	}
	sched, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return now, err
	}
	now.sched = *sched
	if err := unix.SchedGetaffinity(0, &now.cpus); err != nil {
		return now, err
	}
	const process = 1 // IOPRIO_WHO_PROCESS
	now.io, _, _ = unix.Syscall(unix.SYS_IOPRIO_GET, process, 0, 0)
	if now.slack, err = unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil {
		return now, err
	}
	var text [4096]byte
	for i, fd := range b.files {
		n, err := unix.Pread(fd, text[:], 0)
		if err != nil {
			return now, err
		}
		now.files[i] = string(text[:n])
	}
	return now, nil
}
