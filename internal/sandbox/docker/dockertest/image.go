package dockertest

import (
	"archive/tar"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Programs are what Image puts in when nothing is named: a shell and what the
// tests' commands use.
var Programs = []string{
	"bash", "cat", "chmod", "cut", "dd", "env", "find", "getent", "grep", "head", "hostname", "id", "kill", "ls", "mkdir", "mkfifo", "mknod", "mount", "mv",
	"nohup", "nsenter", "perl", "printf", "pwd", "readlink", "rm", "sed", "seq", "setsid", "sh", "sleep", "sort", "stat", "su", "tail", "tee", "touch", "tr", "true",
	"umount", "unshare", "wc", "xargs", "yes",
}

// Image makes an image of some of this machine's programs and their libraries,
// with change, if any, made to its configuration.
func Image(t testing.TB, change func(*v1.Config), programs ...string) v1.Image {
	t.Helper()
	if len(programs) == 0 {
		programs = Programs
	}
	path := filepath.Join(t.TempDir(), "layer.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	l := layer{t: t, w: tar.NewWriter(f), have: map[string]bool{}}
	for _, dir := range []string{"usr", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "home"} {
		l.put(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, nil)
	}
	l.put(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil)
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		l.put(&tar.Header{Typeflag: tar.TypeSymlink, Name: dir, Linkname: "usr/" + dir, Mode: 0o777}, nil)
	}
	l.put(&tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/bash\nwww:x:33:33:www:/var/www:/usr/sbin/nologin\n"))
	l.put(&tar.Header{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\nwww:x:33:\n"))
	l.put(&tar.Header{Typeflag: tar.TypeReg, Name: "etc/made-by", Mode: 0o644}, []byte("dockertest\n"))
	for _, p := range programs {
		at, err := exec.LookPath(p)
		if err != nil {
			continue
		}
		l.file(at)
	}
	if slices.Contains(programs, "perl") {
		parts, _ := exec.Command("perl", "-e", `use Time::HiRes; print join "\n", values %INC, @DynaLoader::dl_shared_objects`).Output()
		for _, at := range strings.Fields(string(parts)) {
			l.file(at)
		}
	}
	if err := l.w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	made, err := tarball.LayerFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	im, err := mutate.AppendLayers(empty.Image, made)
	if err != nil {
		t.Fatal(err)
	}
	cfg := v1.Config{Entrypoint: []string{"/bin/sh", "-c", "echo this is the entrypoint"}, Env: []string{"PATH=/usr/bin:/usr/sbin:/bin:/opt/bin", "FROM_IMAGE=yes", "PERL_BADLANG=0"}}
	if change != nil {
		change(&cfg)
	}
	if im, err = mutate.Config(im, cfg); err != nil {
		t.Fatal(err)
	}
	return im
}

// Tarball writes an image as docker save does, and gives its path.
func Tarball(t testing.TB, im v1.Image) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := tarball.WriteToFile(path, name.MustParseReference("berth.test/image:1"), im); err != nil {
		t.Fatal(err)
	}
	return path
}

// Layout writes an image as an OCI layout directory, and gives its path.
func Layout(t testing.TB, im v1.Image) string {
	t.Helper()
	path, err := layout.Write(filepath.Join(t.TempDir(), "layout"), empty.Index)
	if err == nil {
		err = path.AppendImage(im)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(path)
}

// layer writes the files of a layer.
type layer struct {
	t    testing.TB
	w    *tar.Writer
	have map[string]bool
}

func (l *layer) put(h *tar.Header, data []byte) {
	l.t.Helper()
	if l.have[h.Name] {
		return
	}
	l.have[h.Name] = true
	h.Size = int64(len(data))
	if err := l.w.WriteHeader(h); err != nil {
		l.t.Fatal(err)
	}
	if _, err := l.w.Write(data); err != nil {
		l.t.Fatal(err)
	}
}

var library = regexp.MustCompile(`/[^ ()\n]+`)

// file puts a program in, the program that it is a link to, and its libraries.
func (l *layer) file(at string) {
	l.t.Helper()
	in := at
	for _, dir := range []string{"/bin/", "/sbin/", "/lib/", "/lib64/"} {
		if len(at) > len(dir) && at[:len(dir)] == dir {
			in = "/usr" + at
		}
	}
	if l.have[in[1:]] {
		return
	}
	st, err := os.Lstat(at)
	if err != nil {
		l.t.Fatal(err)
	}
	if st.Mode()&fs.ModeSymlink != 0 {
		real, err := filepath.EvalSymlinks(at)
		if err != nil {
			l.t.Fatal(err)
		}
		l.put(&tar.Header{Typeflag: tar.TypeSymlink, Name: in[1:], Linkname: real, Mode: 0o777}, nil)
		l.file(real)
		return
	}
	b, err := os.ReadFile(at)
	if err != nil {
		l.t.Fatal(err)
	}
	l.put(&tar.Header{Typeflag: tar.TypeReg, Name: in[1:], Mode: 0o755}, b)
	out, err := exec.Command("ldd", at).Output()
	if err != nil {
		return // a script, or static
	}
	for _, lib := range library.FindAllString(string(out), -1) {
		l.file(lib)
	}
}
