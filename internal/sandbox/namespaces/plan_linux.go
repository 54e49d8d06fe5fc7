package namespaces

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
	"github.com/berthdev/berth/internal/sandbox/agent"
)

// Who and where one is inside.
const (
	userID = 1000
	user   = "agent"
	home   = "/home/agent"
	runDir = "/run/berth"
)

// etc are the parts of the host's /etc that its programs do not work without.
// They say nothing of the host's people or services.
var etc = []string{
	"alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ssl/certs", "ssl/openssl.cnf", "ca-certificates",
	"pki", "mime.types", "magic", "terminfo", "fonts", "localtime",
}

// plan is how the inside is built. The mounts are for the agent to inherit.
func (d *Driver) plan(spec sandbox.Spec, h handle) (steps []agentwire.Step, mounts []*os.File, err error) {
	add := func(s ...agentwire.Step) { steps = append(steps, s...) }
	dir := func(path string, mode uint32) {
		add(agentwire.Step{Kind: agentwire.StepDir, Target: path, Mode: mode})
	}
	file := func(path, text string) {
		add(agentwire.Step{Kind: agentwire.StepFile, Target: path, Data: []byte(text), Mode: 0o644})
	}
	link := func(path, to string) {
		add(agentwire.Step{Kind: agentwire.StepLink, Target: path, Source: to})
	}
	show := func(path string) {
		add(agentwire.Step{Kind: agentwire.StepBind, Source: path, Target: path, ReadOnly: true})
	}
	add(agentwire.Step{Kind: agentwire.StepPrivate},
		agentwire.Step{Kind: agentwire.StepRoot, Data: []byte("mode=0755,size=512m,nr_inodes=262144")})
	show("/usr")
	for _, name := range []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"} {
		st, err := os.Lstat(name)
		switch {
		case err != nil:
		case st.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(name)
			if err != nil {
				return nil, nil, err
			}
			link(name, to)
		case st.IsDir():
			show(name)
		}
	}
	dir("/etc/ssl", 0o755)
	for _, name := range etc {
		if st, err := os.Lstat("/etc/" + name); err == nil {
			if to, err := os.Readlink("/etc/" + name); err == nil && st.Mode()&fs.ModeSymlink != 0 {
				link("/etc/"+name, to)
				continue
			}
			show("/etc/" + name)
		}
	}
	file("/etc/passwd", "root:x:0:0:root:/root:/usr/sbin/nologin\nagent:x:1000:1000:agent:/home/agent:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n")
	file("/etc/group", "root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n")
	file("/etc/hosts", "127.0.0.1\tlocalhost sandbox\n::1\tlocalhost\n")
	file("/etc/hostname", "sandbox\n")
	file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")
	file("/etc/resolv.conf", "# there is no network here\n")
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		add(agentwire.Step{Kind: agentwire.StepBind, Source: "/dev/" + name, Target: "/dev/" + name, Devices: true, Optional: name == "tty"})
	}
	link("/dev/fd", "/proc/self/fd")
	link("/dev/stdin", "/proc/self/fd/0")
	link("/dev/stdout", "/proc/self/fd/1")
	link("/dev/stderr", "/proc/self/fd/2")
	link("/dev/ptmx", "pts/ptmx")
	dir("/dev/pts", 0o755)
	add(agentwire.Step{Kind: agentwire.StepPts, Target: "/dev/pts", Optional: true})
	dir("/proc", 0o755)
	add(agentwire.Step{Kind: agentwire.StepProc, Target: "/proc"})
	for path, mode := range map[string]uint32{"/dev/shm": 0o1777, "/run": 0o755, "/home": 0o755} {
		dir(path, mode)
		add(agentwire.Step{Kind: agentwire.StepSelf, Target: path})
	}
	dir(home, 0o755)
	dir("/var/lib", 0o755)
	link("/var/tmp", "/tmp")
	link("/var/run", "/run")
	dir("/opt", 0o755)
	if mounts, err = d.places(spec, h, &steps); err != nil {
		return nil, mounts, err
	}
	add(agentwire.Step{Kind: agentwire.StepFreeze}, agentwire.Step{Kind: agentwire.StepPivot},
		agentwire.Step{Kind: agentwire.StepLoopback}, agentwire.Step{Kind: agentwire.StepHostname, Source: "sandbox"},
		agentwire.Step{Kind: agentwire.StepNoUsers, Optional: true})
	return steps, mounts, nil
}

// places adds the tree's parts and the shared directory. Where the session's
// user cannot reach them by their paths, which is the rule under root, they
// are cloned here and handed over detached.
func (d *Driver) places(spec sandbox.Spec, h handle, steps *[]agentwire.Step) (mounts []*os.File, err error) {
	for _, place := range agent.Places(spec) {
		source := filepath.Join(spec.Tree, place)
		if place == spec.Workdir && spec.Share != "" {
			continue
		}
		if mounts, err = d.bind(mounts, steps, source, place, false); err != nil {
			return mounts, err
		}
	}
	if spec.Share != "" {
		return d.bind(mounts, steps, spec.Share, spec.Workdir, true)
	}
	return mounts, nil
}

func (d *Driver) bind(mounts []*os.File, steps *[]agentwire.Step, source, target string, recursive bool) ([]*os.File, error) {
	s := agentwire.Step{Kind: agentwire.StepBind, Source: source, Target: target}
	if d.power {
		flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
		if recursive {
			flags |= unix.AT_RECURSIVE
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, source, flags)
		if err != nil {
			if errors.Is(err, unix.ENOSYS) {
				return mounts, errors.New("the kernel is older than 5.12")
			}
			return mounts, fmt.Errorf("clone %s: %w", source, err)
		}
		s.FD = agent.MountFD(len(mounts))
		mounts = append(mounts, os.NewFile(uintptr(fd), strings.TrimPrefix(target, "/")))
	}
	*steps = append(*steps, s)
	return mounts, nil
}
