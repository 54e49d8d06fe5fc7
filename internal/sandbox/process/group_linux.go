package process

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/sandbox"
)

// group is a cgroup around everything that a shell starts, where this process
// may make one. It is what finds a process that hides from its parents. The
// zero of every method is a group that is none.
type group struct {
	dir  string // "" for none
	fd   int    // until the agent has started in it, else -1
	mark string // is in the environment of all that the shell starts
}

// groupHome is the cgroup of this process in the v2 hierarchy, "" where there is
// none or where it lacks cgroup.kill.
var groupHome = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	own := ""
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "0::"); ok {
			own = strings.TrimSpace(rest)
		}
	}
	if own == "" {
		return ""
	}
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		dir := filepath.Join(root, own)
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
				removeLeftovers(dir)
				return dir
			}
		}
	}
	return ""
})

// removeLeftovers removes the groups of sandboxes that outlived their worker
// and then ended by themselves. The kernel removes none that is in use; one
// that is young may be about to be.
func removeLeftovers(home string) {
	dirs, _ := filepath.Glob(filepath.Join(home, "berth-*"))
	for _, dir := range dirs {
		if st, err := os.Stat(dir); err == nil && time.Since(st.ModTime()) > leftoverAge {
			_ = unix.Rmdir(dir)
		}
	}
}

const leftoverAge = 10 * time.Minute

// newGroup makes a group, or none where that is not possible.
func newGroup(session string) *group {
	none := &group{fd: -1, mark: mark(session)}
	home := groupHome()
	if home == "" {
		return none
	}
	dir, err := os.MkdirTemp(home, "berth-"+sandbox.Folder(session)+"-")
	if err != nil {
		return none
	}
	g := &group{dir: dir, fd: -1}
	if _, err := os.Stat(filepath.Join(dir, "cgroup.kill")); err != nil {
		g.remove()
		return none
	}
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		g.remove()
		return none
	}
	g.fd = fd
	return g
}

func oldGroup(dir, session string) *group { return &group{dir: dir, fd: -1, mark: mark(session)} }

// mark is a variable that the session's processes have and no other's.
func mark(session string) string { return "BERTH_SANDBOX=" + session }

// started gives up what was needed to start in the group.
func (g *group) started() {
	if g.fd >= 0 {
		unix.Close(g.fd)
		g.fd = -1
	}
}

// kill kills all that is in the group. Where there is none it kills what bears
// the session's mark: all but what has taken the trouble to hide.
func (g *group) kill() {
	if g.dir != "" {
		_ = os.WriteFile(filepath.Join(g.dir, "cgroup.kill"), []byte("1"), 0)
		return
	}
	for end := time.Now().Add(2 * time.Second); g.killMarked() && time.Now().Before(end); {
	}
}

// killMarked makes one pass and says whether it found anything.
func (g *group) killMarked() bool {
	found := false
	names, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, name := range names {
		pid, err := strconv.Atoi(strings.Split(name, "/")[2])
		if err != nil || pid == os.Getpid() {
			continue
		}
		// The descriptor is of the process whose environment is then read.
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		b, err := os.ReadFile(name)
		if err == nil && strings.Contains("\x00"+string(b), "\x00"+g.mark+"\x00") {
			found = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil || found
		}
		unix.Close(fd)
	}
	return found
}

// remove removes the group, for which the killed must have gone; it waits for
// them for up to five seconds.
func (g *group) remove() {
	g.started()
	if g.dir == "" {
		return
	}
	events, err := os.Open(filepath.Join(g.dir, "cgroup.events"))
	if err == nil {
		defer events.Close()
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if err := unix.Rmdir(g.dir); err == nil || err == unix.ENOENT || events == nil {
			break
		}
		// The kernel says by POLLPRI that the group has become empty.
		b := make([]byte, 128)
		_, _ = events.ReadAt(b, 0)
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}, 20)
	}
	g.dir = ""
}
