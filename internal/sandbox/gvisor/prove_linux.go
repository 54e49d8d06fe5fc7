package gvisor

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/cgroup"
)

// Prove is this driver's part of the proof: that the kernel inside is the
// sentry, what is mounted in it, as whom the host sees it, behind which filter,
// and that the cgroup holds.
func (b *box) Prove(_ context.Context, found agentwire.Posture) ([]sandbox.Check, error) {
	var checks []sandbox.Check
	add := func(name, promised, found string) {
		checks = append(checks, sandbox.Check{Name: name, Promised: promised, Found: found, OK: found == promised})
	}
	add("name of the host", hostname, found.Hostname)
	kernel := "the host's"
	for _, m := range found.Mounts {
		if m.Target == "/" && m.Type == "9p" {
			kernel = "gVisor's"
		}
	}
	add("kernel", "gVisor's", kernel)
	spec := b.Record().Spec
	checks = append(checks, agent.MountCheck(spec, found.Mounts))
	status, err := os.ReadFile("/proc/" + strconv.Itoa(b.h.PID) + "/status")
	if err != nil {
		return nil, err
	}
	add("user on the host", strconv.Itoa(b.h.sentry()), field(status, "Uid"))
	add("filter on the host", "2", field(status, "Seccomp"))
	asked := slices.DeleteFunc(spec.Limits.Of(cgroup.Enforces()...), func(l sandbox.Limit) bool { return slices.Contains(own, l) })
	if len(asked) == 0 {
		return checks, nil
	}
	held, in := b.group.Held(spec.Limits, b.h.PID)
	for _, l := range asked {
		add("limit "+string(l), "true", strconv.FormatBool(slices.Contains(held, l)))
	}
	add("cgroup", "true", strconv.FormatBool(in))
	return checks, nil
}

// field is the first value of a line of a process's status.
func field(status []byte, name string) string {
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			if f := strings.Fields(v); len(f) > 0 {
				return f[0]
			}
		}
	}
	return "unknown"
}
