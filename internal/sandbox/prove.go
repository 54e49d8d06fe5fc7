package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox/disk"
)

// Examined is a sandbox that can say what a tool's process in it is.
type Examined interface {
	Posture(ctx context.Context, q agentwire.Probe) (agentwire.Posture, error)
}

// ErrUnproven is in the error of a sandbox that is not what was promised.
var ErrUnproven = errors.New("the sandbox is not what was promised")

// proofTime bounds a proof.
const proofTime = 30 * time.Second

// Prove compares what a driver promises and a spec asks for with what is found
// in the live sandbox and what the host sees of it. fresh says that no tool has
// run in it yet. The receipt has every check; the error names the first that
// failed. The version is the caller's to add.
func Prove(ctx context.Context, d Driver, sb Sandbox, fresh bool) (Receipt, error) {
	ctx, cancel := context.WithTimeout(ctx, proofTime)
	defer cancel()
	spec, promised := sb.Record().Spec, d.Capabilities()
	p := proof{promised: promised, spec: spec, fresh: fresh, r: Receipt{
		Session: spec.SessionID, Driver: d.Name(), Policy: spec.Policy, At: time.Now().UTC(),
	}}
	if err := Fault("prove"); err != nil {
		return p.r, err
	}
	q := agentwire.Probe{Hidden: hidden(spec), Fixed: []string{"/", "/usr", "/etc"}}
	if spec.Image != nil { // its files may be the session's
		q.Fixed = nil
	}
	var found agentwire.Posture
	if e, ok := sb.(Examined); ok {
		var err error
		if found, err = e.Posture(ctx, q); err != nil {
			return p.r, fmt.Errorf("%w: it cannot be examined: %w", ErrUnproven, err)
		}
		p.inside(found)
	} else {
		p.check("examined", isolates(promised), false, "what it is like inside", "it has no way to say")
	}
	if pr, ok := sb.(Prover); ok {
		checks, err := pr.Prove(ctx, found)
		if err != nil {
			return p.r, fmt.Errorf("%w: the host's side: %w", ErrUnproven, err)
		}
		p.r.Checks = append(p.r.Checks, checks...)
	}
	held := promised.Limits
	if l, ok := sb.(Limited); ok {
		held = slices.Clone(l.Enforced())
	}
	if p.disk() {
		held = append(held, LimitDisk)
	}
	p.limits(held)
	for _, c := range p.r.Checks {
		if !c.OK {
			return p.r, fmt.Errorf("%w: %s: promised %s, found %s", ErrUnproven, c.Name, c.Promised, c.Found)
		}
	}
	return p.r, nil
}

// isolates says whether anything is promised that the proof could find missing.
func isolates(c Capabilities) bool {
	return c.Files || c.Processes || c.Network || c.Privileges || c.Syscalls
}

// proof is a receipt in the making.
type proof struct {
	promised Capabilities
	spec     Spec
	fresh    bool
	r        Receipt
}

// check notes a check. What is not promised is noted as it is found.
func (p *proof) check(name string, promised, ok bool, promise, found string) {
	if !promised {
		promise, ok = "nothing", true
	}
	if len(found) > maxFound {
		found = found[:maxFound] + "…"
	}
	p.r.Checks = append(p.r.Checks, Check{Name: name, Promised: promise, Found: found, OK: ok})
}

// maxFound is how much of a finding is kept.
const maxFound = 500

// hidden are paths of the host that show whether its files are seen.
func hidden(s Spec) []string {
	paths := []string{filepath.Join(s.Dir, recordName), "/proc/1/root/etc/shadow", "/etc/shadow", "/var/run/docker.sock", "/run/docker.sock"}
	if s.Image != nil { // it may have a shadow of its own
		return []string{paths[0], paths[3], paths[4]}
	}
	return paths
}

// inside judges what was found inside.
func (p *proof) inside(f agentwire.Posture) {
	c := p.promised
	any := isolates(c)
	p.check("whole", any, !f.Cut, "a posture that is whole", say(!f.Cut, "whole", "cut"))
	p.check("user", c.Privileges, !slices.Contains(f.UIDs[:], 0) && !slices.Contains(f.GIDs[:], 0) && !slices.Contains(f.Groups, 0),
		"not root", "user "+numbers(f.UIDs[:])+", group "+numbers(append(f.GIDs[:], f.Groups...)))
	caps := f.Inheritable | f.Permitted | f.Effective | f.Ambient
	p.check("capabilities", c.Privileges, caps == 0, "none", say(caps == 0, "none", fmt.Sprintf("%#x", caps)))
	p.check("bounding set", c.Privileges, f.Bounding == 0, "empty", say(f.Bounding == 0, "empty", fmt.Sprintf("%#x", f.Bounding)))
	p.check("no_new_privs", c.Privileges, f.NoNewPrivs, "set", say(f.NoNewPrivs, "set", "not set"))
	p.check("descriptors", any, len(f.Inherited) == 0, "none passed on", say(len(f.Inherited) == 0, "none passed on", strings.Join(f.Inherited, ", ")))
	p.check("core dumps", c.Privileges, most(f, syscall.RLIMIT_CORE) <= 1, "none", rlimit(f, syscall.RLIMIT_CORE))
	p.check("system call filter", c.Syscalls, f.Seccomp == 2, "on", say(f.Seccomp == 2, "on", "mode "+strconv.Itoa(int(f.Seccomp))))
	p.namespaces(f)
	if n := p.spec.Limits.OpenFiles; n > 0 {
		p.check("open files", slices.Contains(c.Limits, LimitOpenFiles), most(f, syscall.RLIMIT_NOFILE) <= uint64(n),
			"at most "+strconv.Itoa(n), rlimit(f, syscall.RLIMIT_NOFILE))
	}
	p.check("host name", false, true, "", f.Hostname)
	if !any { // the agent may not have looked
		return
	}
	p.tries(f)
	unseen, fixed := say(len(f.Seen) == 0, "unseen", strings.Join(f.Seen, ", ")), say(len(f.Writable) == 0, "read-only", "writable: "+strings.Join(f.Writable, ", "))
	if len(f.Mounts) == 0 { // an agent that is not sealed does not look
		unseen, fixed = "not looked for", "not looked at"
	}
	p.check("the host's files", c.Files, unseen == "unseen", "unseen", unseen)
	p.check("programs", c.Files, fixed == "read-only", "read-only", fixed)
	p.parts(f)
	p.network(f)
	few := !p.fresh || f.Processes > 0 && f.Processes <= maxFresh
	p.check("processes", c.Processes, few, "its own alone", strconv.Itoa(int(f.Processes))+" seen")
}

// maxFresh is how many processes a fresh sandbox may show: the agent, the
// shell, and what a driver puts around them.
const maxFresh = 8

// kernelDoors are tries that only a filter, or a kernel of its own, refuses.
var kernelDoors = []string{"unshare", "bpf", "perf_event_open", "io_uring_setup", "keyctl", "vsock"}

// privileges are tries that want one.
var privileges = []string{"mount", "raw socket", "packet socket", setuid, "mknod"}

const setuid = "setuid"

func (p *proof) tries(f agentwire.Posture) {
	how := map[string]syscall.Errno{}
	for _, t := range f.Tries {
		how[t.Name] = syscall.Errno(t.Errno)
	}
	note := func(name string, promised bool, refused ...syscall.Errno) {
		e, tried := how[name]
		found := "allowed"
		switch {
		case !tried:
			found = "not tried"
		case e != 0:
			found = e.Error()
		}
		p.check("try: "+name, promised, tried && slices.Contains(refused, e), "refused", found)
	}
	for _, name := range kernelDoors {
		note(name, p.promised.Syscalls, syscall.EPERM, syscall.EACCES, syscall.ENOSYS, syscall.EAFNOSUPPORT)
	}
	for _, name := range privileges {
		no := []syscall.Errno{syscall.EPERM, syscall.EACCES, syscall.ENOSYS, syscall.EAFNOSUPPORT}
		if name == setuid { // there may be no such user inside
			no = append(no, syscall.EINVAL)
		}
		note(name, p.promised.Privileges, no...)
	}
	alone := p.promised.Network && p.spec.Network.Mode != NetworkHost
	for _, name := range []string{"metadata address", "a public address"} {
		note(name, alone, syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.EPERM, syscall.EACCES, syscall.EAFNOSUPPORT)
	}
}

// namespaces compares the sandbox's with this process's own.
func (p *proof) namespaces(f agentwire.Posture) {
	c := p.promised
	found := map[string]uint64{}
	for _, n := range f.Namespaces {
		found[n.Name] = n.Inode
	}
	for _, n := range []struct {
		name     string
		promised bool
	}{{"pid", c.Processes}, {"ipc", c.Processes}, {"uts", c.Processes}, {"mnt", c.Files}, {"net", c.Network && p.spec.Network.Mode != NetworkHost}} {
		ours, err := inode("/proc/self/ns/" + n.name)
		theirs, there := found[n.name]
		differ := err == nil && there && ours != theirs
		p.check(n.name+" namespace", n.promised, differ, "its own", say(differ, "its own", say(there, "the host's", "unknown")))
	}
}

// parts looks whether those that are to be read only are: what is mounted there
// last counts.
func (p *proof) parts(f agentwire.Posture) {
	for _, part := range p.spec.Parts {
		if !part.ReadOnly {
			continue
		}
		found := "no mount of its own"
		for _, m := range f.Mounts {
			if m.Target == part.Path {
				found = say(slices.Contains(strings.Split(m.Options, ","), "ro"), "read-only", "writable")
			}
		}
		p.check("the directory "+part.Path, p.promised.Files, found == "read-only", "read-only", found)
	}
}

func inode(path string) (uint64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	return uint64(st.Ino), nil
}

func (p *proof) network(f agentwire.Posture) {
	if p.spec.Network.Mode == NetworkHost {
		p.check("network", true, true, "the host's", strings.Join(f.Interfaces, ", "))
		return
	}
	alone := !slices.ContainsFunc(f.Interfaces, func(name string) bool { return name != "lo" })
	p.check("network", p.promised.Network, alone, "loopback alone", say(alone, "loopback alone", strings.Join(f.Interfaces, ", ")))
}

// disk looks whether the tree is a disk of its own, no larger than allowed.
func (p *proof) disk() bool {
	limit := p.spec.Limits.Disk
	if limit <= 0 {
		return false
	}
	n, mounted, err := disk.Size(p.spec.Dir)
	if err != nil || !mounted {
		return false
	}
	p.check("disk", true, n <= limit, "at most "+strconv.FormatInt(limit, 10)+" bytes", strconv.FormatInt(n, 10)+" bytes")
	return n <= limit
}

// limits sorts the limits that were asked for: enforced, left, or required
// and not to be had.
func (p *proof) limits(held []Limit) {
	for _, l := range p.spec.Limits.Asked() {
		switch {
		case slices.Contains(held, l):
			p.r.Enforced = append(p.r.Enforced, l)
		case slices.Contains(p.spec.Limits.Required, l):
			p.check("limit "+string(l), true, false, "enforced", p.r.Driver+" cannot enforce it here")
		default:
			p.r.Left = append(p.r.Left, l)
		}
	}
}

// Asked lists the limits that are not zero.
func (l Limits) Asked() []Limit {
	var asked []Limit
	for _, x := range []struct {
		limit Limit
		set   bool
	}{
		{LimitCPU, l.CPU > 0}, {LimitMemory, l.Memory > 0}, {LimitPIDs, l.PIDs > 0}, {LimitDisk, l.Disk > 0},
		{LimitOpenFiles, l.OpenFiles > 0}, {LimitCallTime, l.CallTime > 0}, {LimitSessionTime, l.SessionTime > 0},
	} {
		if x.set {
			asked = append(asked, x.limit)
		}
	}
	return asked
}

func most(f agentwire.Posture, resource uint32) uint64 {
	for _, r := range f.Rlimits {
		if r.Resource == resource {
			return r.Max
		}
	}
	return 1<<64 - 1
}

func rlimit(f agentwire.Posture, resource uint32) string {
	if n := most(f, resource); n != 1<<64-1 {
		return "at most " + strconv.FormatUint(n, 10)
	}
	return "no limit"
}

func numbers(list []uint32) string {
	var b []string
	for _, n := range list {
		b = append(b, strconv.FormatUint(uint64(n), 10))
	}
	return strings.Join(b, " ")
}

func say(ok bool, yes, no string) string {
	if ok {
		return yes
	}
	return no
}
