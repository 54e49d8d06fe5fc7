package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/sandbox"
)

// host is where groups can be made.
type host struct {
	unified     string            // parent of groups in v2, "" for none
	controllers []string          // that such groups have
	legacy      map[string]string // parents in v1, by controller
}

// bound are the controllers that hold limits.
var bound = []string{"cpu", "memory", "pids"}

// selfName is the group of this process where v2 wants it out of the way.
const selfName = Prefix + "self"

func discover() *host {
	mounts, err1 := os.ReadFile("/proc/self/mountinfo")
	own, err2 := os.ReadFile("/proc/self/cgroup")
	if err1 != nil || err2 != nil {
		return &host{}
	}
	h := survey(string(mounts), string(own))
	h.tidy()
	return h
}

// tidyAge is the age from which an empty group is nobody's: a sandbox that is
// starting is younger, and one that runs has its agent in it.
const tidyAge = 10 * time.Minute

// tidy removes the empty groups of sandboxes that outlived workers which never
// came back. The kernel removes none that is in use.
func (h *host) tidy() {
	var homes []string
	if h.unified != "" {
		homes = append(homes, h.unified)
	}
	for _, home := range h.legacy {
		homes = append(homes, home)
	}
	for _, home := range homes {
		dirs, _ := filepath.Glob(filepath.Join(home, Prefix+"*"))
		for _, dir := range dirs {
			if st, err := os.Stat(dir); err == nil && st.IsDir() && time.Since(st.ModTime()) > tidyAge && filepath.Base(dir) != selfName {
				_ = unix.Rmdir(dir)
			}
		}
	}
}

// Of gives the group that a process is in, one that something else has made;
// nil when that cannot be found out.
func Of(pid int) *Group {
	mounts, err1 := os.ReadFile("/proc/self/mountinfo")
	of, err2 := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err1 != nil || err2 != nil {
		return nil
	}
	g := Open(Dirs{Legacy: map[string]string{}})
	paths := ownPaths(string(of))
	for _, m := range cgroupMounts(string(mounts)) {
		if path, ok := paths[""]; ok && m.unified && g.Dirs.Unified == "" && path != "/" {
			g.Dirs.Unified = m.dir(path)
		}
		for _, c := range m.controllers {
			if path, ok := paths[c]; ok && slices.Contains(bound, c) && path != "/" {
				g.Dirs.Legacy[c] = m.dir(path)
			}
		}
	}
	return g
}

// survey finds the parents of groups by what the kernel says of this process.
func survey(mountinfo, self string) *host {
	h := &host{legacy: map[string]string{}}
	own := ownPaths(self)
	for _, m := range cgroupMounts(mountinfo) {
		if m.unified {
			if path, ok := own[""]; ok && h.unified == "" {
				h.unified, h.controllers = parentOf(m, path)
			}
			continue
		}
		for _, c := range m.controllers {
			switch c {
			case "cpu", "memory", "pids", "freezer", "cpuacct":
			default:
				continue
			}
			path, ok := own[c]
			if dir := m.dir(path); ok && h.legacy[c] == "" && writable(dir) {
				h.legacy[c] = dir
			}
		}
	}
	if h.unified != "" {
		// v2 counts and freezes already.
		delete(h.legacy, "cpuacct")
		delete(h.legacy, "freezer")
	}
	for _, c := range h.controllers {
		delete(h.legacy, c)
	}
	return h
}

func (h *host) enforces() []sandbox.Limit {
	var all []sandbox.Limit
	for _, c := range bound {
		if h.legacy[c] != "" || slices.Contains(h.controllers, c) {
			all = append(all, sandbox.Limit(c))
		}
	}
	return all
}

// mount is a mounted hierarchy.
type mount struct {
	root, at    string // the group that is shown, and where
	unified     bool
	controllers []string // of v1
}

// dir is the directory of a group, "" when the mount does not show it.
func (m mount) dir(path string) string {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(m.root, "/"))
	if !ok || rest != "" && rest[0] != '/' {
		return ""
	}
	return filepath.Join(m.at, rest)
}

// cgroupMounts reads mountinfo: "… root mountpoint options [fields] - type
// source super-options".
func cgroupMounts(mountinfo string) []mount {
	var all []mount
	for line := range strings.Lines(mountinfo) {
		left, right, ok := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 6 || len(r) < 3 {
			continue
		}
		m := mount{root: unescape(l[3]), at: unescape(l[4]), unified: r[0] == "cgroup2"}
		switch r[0] {
		case "cgroup2":
		case "cgroup":
			m.controllers = strings.Split(r[2], ",")
		default:
			continue
		}
		all = append(all, m)
	}
	return all
}

// unescape undoes mountinfo's octal escapes.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// ownPaths reads /proc/self/cgroup: the path by controller; v2's is "".
func ownPaths(self string) map[string]string {
	paths := map[string]string{}
	for line := range strings.Lines(self) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		for _, c := range strings.Split(f[1], ",") {
			paths[c] = f[2]
		}
	}
	return paths
}

// writable says whether a group can be made in a group.
func writable(home string) bool {
	if home == "" {
		return false
	}
	try := filepath.Join(home, Prefix+"try."+suffix())
	if os.Mkdir(try, 0o755) != nil {
		return false
	}
	defer unix.Rmdir(try)
	return unix.Access(filepath.Join(try, "cgroup.procs"), unix.W_OK) == nil
}

// parentOf picks the v2 group to make groups in: one in which they have
// limits, else one in which they can be made at all.
func parentOf(m mount, path string) (home string, controllers []string) {
	for _, c := range candidates(m, path) {
		if !writable(c) {
			continue
		}
		got := enable(c, bound, c == m.dir(path), m.root == path)
		if home == "" || len(got) > len(controllers) {
			home, controllers = c, got
		}
		if len(got) == len(bound) {
			break
		}
	}
	return home, controllers
}

// candidates are this process's own group and the one above it; that one first
// where it was delegated to us, or where we have moved down from it.
func candidates(m mount, path string) []string {
	own := m.dir(path)
	if own == "" {
		return nil
	}
	above := filepath.Dir(own)
	switch {
	case own == filepath.Clean(m.at):
		return []string{own}
	case filepath.Base(own) == selfName:
		return []string{above}
	case delegated(above):
		return []string{above, own}
	}
	return []string{own, above}
}

// delegated says whether systemd has given a group away (Delegate=yes).
func delegated(dir string) bool {
	for _, name := range []string{"user.delegate", "trusted.delegate"} {
		var b [8]byte
		if n, err := unix.Getxattr(dir, name, b[:]); err == nil && string(b[:n]) == "1" {
			return true
		}
	}
	return false
}

// enable has the groups in home get controllers, and says which they have.
// Where home is this process's own it makes room by moving down; all of home
// is moved when that is a container's root.
func enable(home string, wanted []string, own, all bool) []string {
	has := words(filepath.Join(home, "cgroup.controllers"))
	moved := false
	for _, c := range wanted {
		if !slices.Contains(has, c) || slices.Contains(words(filepath.Join(home, "cgroup.subtree_control")), c) {
			continue
		}
		err := put(filepath.Join(home, "cgroup.subtree_control"), "+"+c)
		if errors.Is(err, unix.EBUSY) && own && !moved {
			moved = true
			if stepDown(home, all) == nil {
				err = put(filepath.Join(home, "cgroup.subtree_control"), "+"+c)
			}
			if err != nil {
				stepUp(home)
			}
		}
	}
	var got []string
	for _, c := range words(filepath.Join(home, "cgroup.subtree_control")) {
		if slices.Contains(wanted, c) {
			got = append(got, c)
		}
	}
	return got
}

func words(path string) []string {
	b, _ := os.ReadFile(path)
	return strings.Fields(string(b))
}

// stepDown moves this process, or all of home's, into a group of home.
func stepDown(home string, all bool) error {
	self := filepath.Join(home, selfName)
	if err := os.Mkdir(self, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	pids := []string{strconv.Itoa(os.Getpid())}
	if all {
		pids = words(filepath.Join(home, "cgroup.procs"))
	}
	for _, pid := range pids {
		if err := put(filepath.Join(self, "cgroup.procs"), pid); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// stepUp undoes stepDown for this process.
func stepUp(home string) {
	_ = put(filepath.Join(home, "cgroup.procs"), strconv.Itoa(os.Getpid()))
	_ = unix.Rmdir(filepath.Join(home, selfName))
}
