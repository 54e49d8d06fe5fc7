package agent

import (
	"path"
	"slices"
	"strings"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
)

// Writable are the places inside at which a session may change files of the
// host. What Parts have read-only among them is checked by the proof.
func Writable(s sandbox.Spec) []string {
	open := Places(s)
	if s.Share != "" {
		open = append(open, s.Workdir)
	}
	for _, m := range s.Mounts {
		if !m.ReadOnly {
			open = append(open, path.Clean(m.Target))
		}
	}
	return open
}

// kernels are kinds of mounts that hold no files of the host's disks.
var kernels = []string{"tmpfs", "proc", "devpts", "mqueue", "dev", "cgroup", "cgroup2"}

// Exposed names a mount by which a session could change more than Writable and
// own: "" for none. What is the kernel's or in memory does not count.
func Exposed(s sandbox.Spec, mounts []agentwire.Mount, own ...string) string {
	open := append(Writable(s), own...)
	for _, m := range mounts {
		device := m.Type == "devtmpfs" && strings.HasPrefix(m.Target, "/dev/")
		if !slices.Contains(strings.Split(m.Options, ","), "ro") && !slices.Contains(kernels, m.Type) && !device && !slices.Contains(open, m.Target) {
			return m.Target
		}
	}
	return ""
}

// ownMounts is what a proof promises of mounts.
const ownMounts = "its own alone are writable"

// MountCheck is Exposed as a line of a receipt. A posture without a root says
// nothing of mounts.
func MountCheck(s sandbox.Spec, mounts []agentwire.Mount, own ...string) sandbox.Check {
	c := sandbox.Check{Name: "mounts", Promised: ownMounts, Found: ownMounts, OK: true}
	at := Exposed(s, mounts, own...)
	switch {
	case !slices.ContainsFunc(mounts, func(m agentwire.Mount) bool { return m.Target == "/" }):
		c.Found, c.OK = "no root", false
	case at != "":
		c.Found, c.OK = at+" is writable", false
	}
	return c
}
