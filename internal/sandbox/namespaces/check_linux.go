package namespaces

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/cgroup"
	"github.com/berthdev/berth/internal/sandbox/inside"
)

// Prove is this driver's part of the proof: every namespace, every mount, and
// whom the host takes the agent for.
func (b *box) Prove(_ context.Context, found agentwire.Posture) ([]sandbox.Check, error) {
	var checks []sandbox.Check
	add := func(name, promised, found string) {
		checks = append(checks, sandbox.Check{Name: name, Promised: promised, Found: found, OK: found == promised})
	}
	for _, name := range []string{"user", "cgroup"} {
		add(name+" namespace", "its own", whose(name, found.Namespaces))
	}
	add("name of the host", hostname, found.Hostname)
	add("mounts", "as planned", oddMounts(b.Record().Spec, found.Mounts))
	b.proveLimits(add)
	if b.memory != nil { // which was looked at when it was opened
		limit := b.Record().Spec.Limits.Disk
		checks = append(checks, sandbox.Check{Name: "disk", Promised: "at most " + strconv.FormatInt(limit, 10) + " bytes, in memory", Found: strconv.FormatInt(b.memory.Size(), 10) + " bytes", OK: b.memory.Size() <= limit})
	}
	uid, err := hostUser(b.h.PID)
	if err != nil {
		return nil, err
	}
	add("user on the host", strconv.Itoa(b.h.UID), uid)
	return checks, nil
}

// proveLimits reads the cgroup back.
func (b *box) proveLimits(add func(name, promised, found string)) {
	spec := b.Record().Spec
	asked := spec.Limits.Of(cgroup.Enforces()...)
	if len(asked) == 0 {
		return
	}
	held, in := b.group.Held(spec.Limits, b.h.PID)
	for _, l := range asked {
		found := "set"
		if !slices.Contains(held, l) {
			found = "not set"
		}
		add("limit "+string(l), "set", found)
	}
	found := "inside"
	if !in {
		found = "outside"
	}
	add("cgroup", "inside", found)
}

func whose(name string, found []agentwire.Namespace) string {
	var ours unix.Stat_t
	if err := unix.Stat("/proc/self/ns/"+name, &ours); err != nil {
		return err.Error()
	}
	for _, n := range found {
		if n.Name == name && n.Inode != ours.Ino {
			return "its own"
		} else if n.Name == name {
			return "the host's"
		}
	}
	return "unknown"
}

// hostUser is the user of a process as the host sees it.
func hostUser(pid int) (string, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if ids, ok := strings.CutPrefix(line, "Uid:"); ok {
			f := strings.Fields(ids)
			if slices.ContainsFunc(f, func(id string) bool { return id != f[0] }) {
				return strings.Join(f, " "), nil
			}
			return f[0], nil
		}
	}
	return "unknown", nil
}

// oddMounts names a mount that is not as the plan has it: outside of what the
// session may write to all is read-only, setuid bits count nowhere, and device
// files work in /dev alone.
func oddMounts(spec sandbox.Spec, mounts []agentwire.Mount) string {
	open := append([]string{"/run", inside.RunDir, "/home", "/dev/shm", "/dev/pts", "/proc"}, agent.Writable(spec)...)
	there := map[string]bool{}
	for _, m := range mounts {
		there[m.Target] = true
		has := func(option string) bool { return slices.Contains(strings.Split(m.Options, ","), option) }
		device := strings.HasPrefix(m.Target, "/dev/") || m.Target == "/proc/keys"
		switch {
		case !has("ro") && !device && !slices.Contains(open, m.Target):
			return m.Target + " is writable"
		case !has("nosuid"):
			return m.Target + " allows setuid"
		case !has("nodev") && !device:
			return m.Target + " allows devices"
		}
	}
	if _, err := os.Lstat("/proc/keys"); err == nil && !there["/proc/keys"] {
		return "/proc/keys is shown"
	}
	if !there["/"] || !there["/proc"] {
		return "the root or /proc is missing"
	}
	return "as planned"
}
