package sandboxtest

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
	"github.com/berthdev/berth/internal/sandbox/cgroup"
)

// testProof has a driver's promises proven on a live sandbox, and sees that
// the proof costs nothing to speak of.
func testProof(t *testing.T, d sandbox.Driver) {
	promised := d.Capabilities()
	limits := sandbox.Limits{CPU: 1, Memory: 256 << 20, PIDs: 100, OpenFiles: 100, CallTime: time.Minute, SessionTime: time.Hour}
	limits.Required = limits.Of(promised.Limits...)
	w := Start(t, d, func(s *sandbox.Spec) { s.Limits = limits })
	r, err := sandbox.Prove(t.Context(), d, w.Sandbox, true)
	for _, c := range r.Checks {
		if err != nil || testing.Verbose() {
			t.Logf("%-22s promised %-16s found %s", c.Name, c.Promised, c.Found)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if r.Session != w.Spec.SessionID || r.Driver != d.Name() || len(r.Checks) < 10 {
		t.Errorf("the receipt: %+v", r)
	}
	for _, name := range readBack(promised) {
		if !slices.ContainsFunc(r.Checks, func(c sandbox.Check) bool { return c.Name == name && c.Promised != "nothing" }) {
			t.Errorf("the receipt does not hold the driver to %q", name)
		}
	}
	if slices.Sort(r.Enforced); !slices.Equal(r.Enforced, slices.Sorted(slices.Values(limits.Required))) {
		t.Errorf("%v are enforced, of %v", r.Enforced, limits.Required)
	}
	held(t, w, promised)
	t.Run("a promise too many", func(t *testing.T) { testOverstated(t, d, w) })
	if promised.Mounts && promised.Files {
		t.Run("a mount too many", func(t *testing.T) { testMountTooMany(t, d) })
	}
	var took []time.Duration
	for range 20 {
		began := time.Now()
		if _, err := sandbox.Prove(t.Context(), d, w.Sandbox, true); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("a proof takes %v (median of %d)", took[len(took)/2], len(took))
}

// readBack are the lines that the receipt of a driver with these promises has.
func readBack(c sandbox.Capabilities) (names []string) {
	for _, part := range []struct {
		promised bool
		names    []string
	}{
		{c.Privileges, []string{"user", "capabilities", "bounding set", "no_new_privs", "core dumps", "try: mount", "try: raw socket", "try: setuid"}},
		{c.Syscalls, []string{"system call filter", "try: unshare", "try: bpf", "try: io_uring_setup"}},
		{c.Processes, []string{"pid namespace", "ipc namespace", "uts namespace", "processes"}},
		{c.Files, []string{"mnt namespace", "mounts", "the host's files", "programs"}},
		{c.Network, []string{"net namespace", "network", "try: metadata address"}},
		{c.Processes || c.Files, []string{"whole", "descriptors"}},
		{c.Files && slices.Contains(c.Limits, sandbox.LimitMemory), []string{"cgroup", "limit memory", "limit cpu"}},
		{c.Files, []string{"open files"}},
	} {
		if part.promised {
			names = append(names, part.names...)
		}
	}
	return names
}

// held reads the cgroup of a sandbox's first process, past the driver.
func held(t *testing.T, w *World, c sandbox.Capabilities) {
	t.Helper()
	f, ok := w.Sandbox.(forgetter)
	if !ok || f.Process() == nil || !c.Tree || !slices.Contains(c.Limits, sandbox.LimitMemory) {
		return
	}
	pid := f.Process().Handle.PID
	g := cgroup.Of(pid)
	if g == nil {
		t.Fatal("its first process is in no group")
	}
	want := w.Spec.Limits.Of(sandbox.LimitCPU, sandbox.LimitMemory, sandbox.LimitPIDs)
	if w.Kernel { // it counts the session's processes itself
		want = w.Spec.Limits.Of(sandbox.LimitCPU, sandbox.LimitMemory)
	}
	got, in := g.Held(w.Spec.Limits, pid)
	for _, l := range want {
		if !in || !slices.Contains(got, l) {
			t.Errorf("the group of its first process (inside: %v) holds %v, of %v", in, got, want)
		}
	}
}

// boastful is a driver that promises something else than it does.
type boastful struct {
	sandbox.Driver
	promises sandbox.Capabilities
}

func (b boastful) Capabilities() sandbox.Capabilities { return b.promises }

// testOverstated has each promise that the driver does not make proven of its
// sandbox: the proof finds that it does not hold.
func testOverstated(t *testing.T, d sandbox.Driver, w *World) {
	c := d.Capabilities()
	for name, claim := range map[string]struct {
		made bool
		set  func(*sandbox.Capabilities)
	}{
		"processes":  {c.Processes, func(c *sandbox.Capabilities) { c.Processes = true }},
		"files":      {c.Files, func(c *sandbox.Capabilities) { c.Files = true }},
		"network":    {c.Network, func(c *sandbox.Capabilities) { c.Network = true }},
		"privileges": {c.Privileges, func(c *sandbox.Capabilities) { c.Privileges = true }},
		"syscalls":   {c.Syscalls, func(c *sandbox.Capabilities) { c.Syscalls = true }},
	} {
		if claim.made {
			continue
		}
		more := c
		claim.set(&more)
		if _, err := sandbox.Prove(t.Context(), boastful{d, more}, w.Sandbox, true); !errors.Is(err, sandbox.ErrUnproven) {
			t.Errorf("%s: a promise that does not hold is proven: %v", name, err)
		}
	}
}

// testMountTooMany looks at a live sandbox with a directory of the host that may
// be written to as if it had been asked for read-only.
func testMountTooMany(t *testing.T, d sandbox.Driver) {
	const at = "/data"
	source := t.TempDir()
	w := Start(t, d, func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Source: source, Target: at}} })
	found, err := w.Sandbox.(sandbox.Examined).Posture(t.Context(), agentwire.Probe{})
	if err != nil {
		t.Fatal(err)
	}
	asked := w.Spec
	if asked.Workdir == "" {
		asked.Workdir = w.Workdir()
	}
	asked.Mounts = []sandbox.Mount{{Source: source, Target: at, ReadOnly: true}}
	if got := agent.Exposed(asked, found.Mounts, "/run/agent"); got != at { // where docker's agent listens
		t.Errorf("the mount that is writable is %q", got)
	}
}
