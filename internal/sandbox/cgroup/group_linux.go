package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/sandbox"
)

// Group is one session's control group. Its methods may be called at once, but
// for FD and Close.
type Group struct {
	Dirs Dirs
	fd   int // of Dirs.Unified, -1 when closed

	counting sync.Mutex
	looked   bool
	ooms     *os.File // where the kernel counts; nil for nowhere
}

var here = sync.OnceValue(discover)

// Enforces says which limits a group of this process can hold.
func Enforces() []sandbox.Limit { return here().enforces() }

// New makes a group whose name begins with name, in as many hierarchies as it
// can, and says which of the limits that are asked for hold in it. A group in
// no hierarchy is no error: its Dirs are None, and all it does is nothing. An
// error means that a limit which should hold could not be set; nothing is left
// then.
func New(name string, l sandbox.Limits) (*Group, []sandbox.Limit, error) {
	return here().make(name, l)
}

// Open gives the group that a record names.
func Open(d Dirs) *Group { return &Group{Dirs: d, fd: -1} }

func (h *host) make(name string, l sandbox.Limits) (_ *Group, enforced []sandbox.Limit, err error) {
	name += "." + suffix()
	g := &Group{fd: -1}
	defer func() {
		if err != nil {
			g.Close()
			err = errors.Join(err, g.rmdir())
		}
	}()
	if h.unified != "" {
		dir := filepath.Join(h.unified, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, nil, fmt.Errorf("cgroup: %w", err)
		}
		g.Dirs.Unified = dir
		held, err := write(dir, unifiedSettings(l), h.controllers)
		if err != nil {
			return nil, nil, err
		}
		enforced = append(enforced, held...)
		if g.fd, err = unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			g.fd = -1
			return nil, nil, fmt.Errorf("cgroup: open %s: %w", dir, err)
		}
	}
	for c, home := range h.legacy {
		if !h.needs(c, l) {
			continue
		}
		dir := filepath.Join(home, name)
		// Controllers may share a hierarchy.
		if err := os.Mkdir(dir, 0o755); err != nil && !(errors.Is(err, fs.ErrExist) && g.Dirs.has(dir)) {
			return nil, nil, fmt.Errorf("cgroup: %w", err)
		}
		if g.Dirs.Legacy == nil {
			g.Dirs.Legacy = map[string]string{}
		}
		g.Dirs.Legacy[c] = dir
		held, err := write(dir, legacySettings(l), []string{c})
		if err != nil {
			return nil, nil, err
		}
		enforced = append(enforced, held...)
	}
	slices.Sort(enforced)
	return g, slices.Compact(enforced), nil
}

// needs says whether a v1 controller is of use: for a limit, or to find, stop
// and count processes where v2 does not.
func (h *host) needs(c string, l sandbox.Limits) bool {
	switch c {
	case "cpu":
		return l.CPU > 0
	case "memory":
		return l.Memory > 0
	case "pids":
		return l.PIDs > 0 || h.unified == ""
	}
	return h.unified == ""
}

func (d Dirs) has(dir string) bool {
	for _, have := range d.Legacy {
		if have == dir {
			return true
		}
	}
	return false
}

// all are the group's directories, each once.
func (d Dirs) all() []string {
	var dirs []string
	if d.Unified != "" {
		dirs = append(dirs, d.Unified)
	}
	return append(dirs, d.V1()...)
}

// FD is the group's descriptor for a process that is to start inside
// (CLONE_INTO_CGROUP), or -1 where v2 is missing. It is good until Close.
func (g *Group) FD() int { return g.fd }

// Close gives up FD and what OOMs holds. Twice is fine; the group stays.
func (g *Group) Close() {
	g.counting.Lock()
	defer g.counting.Unlock()
	if g.ooms != nil {
		g.ooms.Close()
	}
	g.looked, g.ooms = false, nil
	if g.fd >= 0 {
		unix.Close(g.fd)
		g.fd = -1
	}
}

// Add moves a process into the group, in every hierarchy. What it starts from
// then on is inside from its first moment.
func (g *Group) Add(pid int) error {
	for _, dir := range g.Dirs.all() {
		if err := put(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("cgroup: put the process in its group: %w", err)
		}
	}
	return nil
}

// Enter is Add for a process that was started with FD, which is in the v2
// hierarchy already; FD is given up.
func (g *Group) Enter(pid int) error {
	if g.fd < 0 {
		return g.Add(pid)
	}
	g.Close()
	return (&Group{Dirs: Dirs{Legacy: g.Dirs.Legacy}}).Add(pid)
}

// OOMs is how many processes of the group the kernel has killed because its
// memory was used up; 0 where that is not counted. The file it reads stays open
// until Close.
func (g *Group) OOMs() int64 {
	g.counting.Lock()
	defer g.counting.Unlock()
	if !g.looked {
		g.looked, g.ooms = true, g.counter()
	}
	if g.ooms == nil {
		return 0
	}
	b := make([]byte, 512)
	n, err := unix.Pread(int(g.ooms.Fd()), b, 0)
	if err != nil {
		return 0
	}
	return fieldOf(b[:n], "oom_kill")
}

// counter opens what OOMs reads, nil where there is nothing.
func (g *Group) counter() *os.File {
	path := filepath.Join(g.Dirs.Unified, "memory.events")
	if dir := g.Dirs.Legacy["memory"]; dir != "" {
		path = filepath.Join(dir, "memory.oom_control")
	} else if g.Dirs.Unified == "" {
		return nil
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), path)
}

// Usage reads what the group uses.
func (g *Group) Usage() Usage {
	var u Usage
	if dir := g.Dirs.Unified; dir != "" {
		u.CPU = time.Duration(field(filepath.Join(dir, "cpu.stat"), "usage_usec")) * time.Microsecond
		u.Memory, u.MemoryPeak = number(filepath.Join(dir, "memory.current")), number(filepath.Join(dir, "memory.peak"))
		u.PIDs, u.PIDsPeak = int(number(filepath.Join(dir, "pids.current"))), int(number(filepath.Join(dir, "pids.peak")))
	}
	if dir := g.Dirs.Legacy["memory"]; dir != "" {
		u.Memory, u.MemoryPeak = number(filepath.Join(dir, "memory.usage_in_bytes")), number(filepath.Join(dir, "memory.max_usage_in_bytes"))
	}
	if dir := g.Dirs.Legacy["pids"]; dir != "" {
		u.PIDs, u.PIDsPeak = int(number(filepath.Join(dir, "pids.current"))), int(number(filepath.Join(dir, "pids.peak")))
	}
	if dir := g.Dirs.Legacy["cpuacct"]; dir != "" && u.CPU == 0 {
		u.CPU = time.Duration(number(filepath.Join(dir, "cpuacct.usage")))
	}
	return u
}

// Freeze stops every process of the group, or lets them go on. It does not
// wait until all have stopped.
func (g *Group) Freeze(stop bool) error {
	if g.Dirs.Unified != "" {
		value := "0"
		if stop {
			value = "1"
		}
		err := put(filepath.Join(g.Dirs.Unified, "cgroup.freeze"), value)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return wrap(err)
		}
	}
	if dir := g.Dirs.Legacy["freezer"]; dir != "" {
		value := "THAWED"
		if stop {
			value = "FROZEN"
		}
		return wrap(put(filepath.Join(dir, "freezer.state"), value))
	}
	return errors.New("cgroup: there is nothing here to freeze a group with")
}

// Kill kills every process of the group. One that forks at the same time does
// not escape. It does not wait until they are gone; see Remove.
func (g *Group) Kill() error {
	if g.Dirs.None() {
		return nil
	}
	if g.Dirs.Unified != "" {
		err := put(filepath.Join(g.Dirs.Unified, "cgroup.kill"), "1")
		if err == nil {
			g.killEach()
			return nil
		}
		if errors.Is(err, unix.ENODEV) || g.gone() {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return wrap(err)
		}
	}
	for end := time.Now().Add(killTime); ; {
		// Frozen, none of them can make another; thawed, each dies at once.
		frozen := g.Freeze(true) == nil && g.waitFrozen()
		pids := g.pids()
		for _, pid := range pids {
			kill(pid)
		}
		if frozen {
			_ = g.Freeze(false)
		}
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("cgroup: %d processes of %s do not end", len(pids), g.Dirs.all()[0])
		}
		time.Sleep(time.Millisecond)
	}
}

// killEach kills what cgroup.kill passes over: a process whose first thread has
// ended while others run, and what such a one has started meanwhile.
func (g *Group) killEach() {
	seen := map[int]bool{}
	for found := true; found; {
		found = false
		for _, pid := range g.pids() {
			if !seen[pid] {
				seen[pid], found = true, true
				kill(pid)
			}
		}
	}
}

// kill kills a process of a group, unless it has no number here.
func kill(pid int) {
	if pid > 0 {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

// waitFrozen waits a moment for all of a group to have stopped.
func (g *Group) waitFrozen() bool {
	for range 100 {
		if dir := g.Dirs.Legacy["freezer"]; dir != "" {
			if state := words(filepath.Join(dir, "freezer.state")); len(state) == 1 && state[0] == "FROZEN" {
				return true
			}
		} else if field(filepath.Join(g.Dirs.Unified, "cgroup.events"), "frozen") == 1 {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return true // a process that cannot stop cannot fork either
}

const (
	killTime   = 20 * time.Second
	removeTime = 20 * time.Second
)

// Empty says that no process is in the group.
func (g *Group) Empty() bool { return len(g.pids()) == 0 }

// pids are the processes of the group and of those in it.
func (g *Group) pids() []int {
	var all []int
	for _, top := range g.Dirs.all() {
		for _, dir := range tree(top) {
			for _, f := range words(filepath.Join(dir, "cgroup.procs")) {
				if pid, err := strconv.Atoi(f); err == nil && !slices.Contains(all, pid) {
					all = append(all, pid)
				}
			}
		}
	}
	return all
}

func (g *Group) gone() bool {
	for _, dir := range g.Dirs.all() {
		if _, err := os.Lstat(dir); err == nil {
			return false
		}
	}
	return true
}

// Remove removes the group, for which the killed must have gone; it waits for
// them for up to twenty seconds, which a busy machine may take. Twice is fine.
func (g *Group) Remove() error {
	g.Close()
	var events *os.File
	for end := time.Now().Add(removeTime); ; {
		if events != nil {
			// What is read here is what POLLPRI tells the next change from.
			_, _ = events.ReadAt(make([]byte, 128), 0)
		}
		err := g.rmdir()
		switch {
		case err == nil || time.Now().After(end):
			if events != nil {
				events.Close()
			}
			return err
		case events != nil:
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}, 20)
		case g.Dirs.Unified == "":
			time.Sleep(time.Millisecond)
		default:
			if events, err = os.Open(filepath.Join(g.Dirs.Unified, "cgroup.events")); err != nil {
				events = nil
				time.Sleep(time.Millisecond)
			}
		}
	}
}

func (g *Group) rmdir() error {
	var errs []error
	for _, dir := range g.Dirs.all() {
		if err := unix.Rmdir(dir); err == nil || err == unix.ENOENT {
			continue
		}
		// A session that is root may have made groups in its own.
		for _, sub := range slices.Backward(tree(dir)) {
			if err := unix.Rmdir(sub); err != nil && err != unix.ENOENT {
				errs = append(errs, fmt.Errorf("cgroup: remove %s: %w", sub, err))
			}
		}
	}
	return errors.Join(errs...)
}

// tree is a group's directory and those of all groups in it, each after the one
// that it is in.
func tree(dir string) []string {
	dirs := []string{dir}
	for at := 0; at < len(dirs); at++ {
		if inner(dirs[at]) <= 0 {
			continue
		}
		entries, _ := os.ReadDir(dirs[at])
		for _, e := range entries {
			if e.IsDir() {
				dirs = append(dirs, filepath.Join(dirs[at], e.Name()))
			}
		}
	}
	return dirs
}

// Leftovers gives the groups here whose names begin with prefix: those in use,
// too.
func Leftovers(prefix string) ([]*Group, error) { return here().find(prefix) }

func (h *host) find(prefix string) ([]*Group, error) {
	if !strings.HasPrefix(prefix, Prefix) {
		return nil, fmt.Errorf("cgroup: %q is no prefix of groups of ours", prefix)
	}
	found := map[string]*Group{}
	look := func(home string, note func(g *Group, dir string)) error {
		entries, err := os.ReadDir(home)
		if err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
		for _, e := range entries {
			if !e.IsDir() || !strings.HasPrefix(e.Name(), prefix) || e.Name() == selfName {
				continue
			}
			g := found[e.Name()]
			if g == nil {
				g = Open(Dirs{Legacy: map[string]string{}})
				found[e.Name()] = g
			}
			note(g, filepath.Join(home, e.Name()))
		}
		return nil
	}
	var errs []error
	if h.unified != "" {
		errs = append(errs, look(h.unified, func(g *Group, dir string) { g.Dirs.Unified = dir }))
	}
	for c, home := range h.legacy {
		errs = append(errs, look(home, func(g *Group, dir string) { g.Dirs.Legacy[c] = dir }))
	}
	var all []*Group
	for _, g := range found {
		all = append(all, g)
	}
	slices.SortFunc(all, func(a, b *Group) int { return strings.Compare(a.Name(), b.Name()) })
	return all, errors.Join(errs...)
}

// Name is the group's, without what New has added to tell it from others of
// that name; "" when it is none.
func (g *Group) Name() string {
	if g.Dirs.None() {
		return ""
	}
	base := filepath.Base(g.Dirs.all()[0])
	if at := strings.LastIndexByte(base, '.'); at > 0 {
		base = base[:at]
	}
	return base
}

// Held reads back which limits are set in the group, each as low as l has it,
// and whether a process is in it as it should be.
func (g *Group) Held(l sandbox.Limits, pid int) (held []sandbox.Limit, in bool) {
	check := func(dir string, settings []setting) {
		for _, s := range settings {
			b, err := get(filepath.Join(dir, s.file))
			if err != nil || s.limit == "" {
				continue
			}
			// The kernel rounds memory down to pages.
			got, want := strings.TrimSpace(string(b)), s.value
			n, err1 := strconv.ParseInt(got, 10, 64)
			most, err2 := strconv.ParseInt(want, 10, 64)
			if got == want || err1 == nil && err2 == nil && n > 0 && n <= most {
				held = append(held, s.limit)
			}
		}
	}
	if g.Dirs.Unified != "" {
		check(g.Dirs.Unified, unifiedSettings(l))
	}
	for _, dir := range g.Dirs.Legacy {
		check(dir, legacySettings(l))
	}
	slices.Sort(held)
	for _, dir := range g.Dirs.all() {
		if !slices.Contains(words(filepath.Join(dir, "cgroup.procs")), strconv.Itoa(pid)) {
			return held, false
		}
	}
	return slices.Compact(held), true
}

// Stale gives, as leftovers, the groups here of sandboxes that are not live.
func Stale(live func(name string) bool) ([]sandbox.Leftover, error) {
	groups, err := Leftovers(Prefix)
	var stale []sandbox.Leftover
	for _, g := range groups {
		if live(g.Name()) {
			continue
		}
		stale = append(stale, sandbox.Leftover{Kind: "cgroup", Name: g.Dirs.all()[0], Remove: func(context.Context) error {
			return errors.Join(g.Kill(), g.Remove())
		}})
	}
	return stale, err
}

// Unused gives, as leftovers, the groups here, whosever, in which nothing has
// run for so long. The kernel removes none that is in use.
func Unused(age time.Duration) ([]sandbox.Leftover, error) {
	groups, err := Leftovers(Prefix)
	var unused []sandbox.Leftover
	for _, g := range groups {
		dir := g.Dirs.all()[0]
		if st, err := os.Stat(dir); err != nil || time.Since(st.ModTime()) < age || !g.Empty() {
			continue
		}
		unused = append(unused, sandbox.Leftover{Kind: "cgroup", Name: dir, Remove: func(context.Context) error { return g.Remove() }})
	}
	return unused, err
}

func wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("cgroup: %w", err)
}
