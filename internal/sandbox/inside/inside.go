// Package inside says what the drivers that need no image show a session of
// this machine: its programs, read-only, under an /etc that names nobody; and
// who the session is there.
package inside

import (
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

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

// Root is how a root of the host's programs is built for a session: directories,
// files, links, and what is shown of the host, read-only.
func Root(spec sandbox.Spec) ([]agentwire.Step, error) {
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
	lookup := "files"
	if spec.Network.Mode == sandbox.NetworkHost {
		lookup = "files dns"
	}
	add(file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: "+lookup+"\n"))
	steps = append(steps, names(spec, nil, nil)...)
	for _, dir := range []string{spec.User.Filled().Home(), "/var/lib", "/opt"} {
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

// Sized are the mount options of a memory file system of a size. Its inodes
// bound extended attributes too, which the size does not count: the kernel gives
// each inode 1 KiB for them.
func Sized(bytes int64) string {
	return "size=" + strconv.FormatInt(bytes, 10) + ",nr_inodes=" + strconv.FormatInt(max(bytes>>12, 1024), 10)
}

// names are the files that say who and where one is. passwd and group are what
// an image has of its own.
func names(spec sandbox.Spec, passwd, group []byte) []agentwire.Step {
	u := spec.User.Filled()
	if passwd == nil {
		passwd = []byte("root:x:0:0:root:/root:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n")
	}
	if group == nil {
		group = []byte("root:x:0:\nnogroup:x:65534:\n")
	}
	hosts, resolv := "127.0.0.1\tlocalhost sandbox\n::1\tlocalhost\n", "# there is no network here\n"
	if spec.Network.Mode == sandbox.NetworkHost {
		hosts, resolv = hostFile("/etc/hosts", hosts), hostFile("/etc/resolv.conf", resolv)
	}
	id := strconv.Itoa(u.UID)
	return []agentwire.Step{
		file("/etc/passwd", with(passwd, u.Name+":x:"+id+":"+id+":"+u.Name+":"+u.Home()+":/bin/bash")),
		file("/etc/group", with(group, u.Name+":x:"+id+":")),
		file("/etc/hosts", hosts),
		file("/etc/hostname", "sandbox\n"),
		file("/etc/resolv.conf", resolv),
	}
}

// with puts a line of passwd or group in the place of those with its name or
// its number.
func with(lines []byte, line string) string {
	own := strings.Split(line, ":")
	var out strings.Builder
	for l := range strings.Lines(string(lines)) {
		if f := strings.Split(strings.TrimSpace(l), ":"); len(f) < 3 || f[0] == own[0] || f[2] == own[2] {
			continue
		}
		out.WriteString(strings.TrimSuffix(l, "\n") + "\n")
	}
	return out.String() + line + "\n"
}

// hostFile is a small file of the host, or what to use instead.
func hostFile(path, instead string) string {
	f, err := os.Open(path)
	if err != nil {
		return instead
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return instead
	}
	return string(b)
}

func file(path, text string) agentwire.Step {
	return agentwire.Step{Kind: agentwire.StepFile, Target: path, Data: []byte(text), Mode: 0o644}
}
