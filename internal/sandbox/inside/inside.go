// Package inside says what the drivers that need no image show a session of
// this machine: its programs, read-only, under an /etc that names nobody; and
// who the session is there.
package inside

import (
	"io/fs"
	"os"

	"github.com/berthdev/berth/internal/agentwire"
	"github.com/berthdev/berth/internal/sandbox"
)

// Who and where one is inside.
const (
	UserID = 1000
	User   = "agent"
	Home   = "/home/agent"
	// RunDir is the agent's own, for its shell's pipes.
	RunDir = "/run/berth"
)

// etc are the parts of the host's /etc that its programs do not work without.
// They say nothing of the host's people or services.
var etc = []string{"alternatives", "ld.so.cache", "ssl/certs", "ssl/openssl.cnf", "pki", "fonts", "localtime"}

// Root is how a root of the host's programs is built: directories, files,
// links, and what is shown of the host, read-only.
func Root() ([]agentwire.Step, error) {
	var steps []agentwire.Step
	add := func(s agentwire.Step) { steps = append(steps, s) }
	link := func(path, to string) { add(agentwire.Step{Kind: agentwire.StepLink, Target: path, Source: to}) }
	show := func(path string) {
		add(agentwire.Step{Kind: agentwire.StepBind, Source: path, Target: path, ReadOnly: true})
	}
	show("/usr")
	for _, name := range []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"} {
		st, err := os.Lstat(name)
		switch {
		case err != nil:
		case st.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(name)
			if err != nil {
				return nil, err
			}
			link(name, to)
		case st.IsDir():
			show(name)
		}
	}
	add(agentwire.Step{Kind: agentwire.StepDir, Target: "/etc/ssl", Mode: 0o755})
	for _, name := range etc {
		if st, err := os.Lstat("/etc/" + name); err == nil {
			if to, err := os.Readlink("/etc/" + name); err == nil && st.Mode()&fs.ModeSymlink != 0 {
				link("/etc/"+name, to)
				continue
			}
			show("/etc/" + name)
		}
	}
	for _, f := range [][2]string{
		{"/etc/passwd", "root:x:0:0:root:/root:/usr/sbin/nologin\nagent:x:1000:1000:agent:/home/agent:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"},
		{"/etc/group", "root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n"},
		{"/etc/hosts", "127.0.0.1\tlocalhost sandbox\n::1\tlocalhost\n"},
		{"/etc/hostname", "sandbox\n"},
		{"/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"},
		{"/etc/resolv.conf", "# there is no network here\n"},
	} {
		add(agentwire.Step{Kind: agentwire.StepFile, Target: f[0], Data: []byte(f[1]), Mode: 0o644})
	}
	for _, dir := range []string{Home, "/var/lib", "/opt"} {
		add(agentwire.Step{Kind: agentwire.StepDir, Target: dir, Mode: 0o755})
	}
	link("/var/tmp", "/tmp")
	link("/var/run", "/run")
	return steps, nil
}

// Scratch is the size of what a sandbox has of memory file systems. They stay
// full when what has filled them is killed, so they leave half of the memory to
// processes.
func Scratch(l sandbox.Limits) int64 {
	const most = 512 << 20
	if l.Memory > 0 {
		return min(most, l.Memory/2)
	}
	return most
}
