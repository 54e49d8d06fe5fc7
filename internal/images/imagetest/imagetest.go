// Package imagetest makes images for tests, of this machine's own programs.
package imagetest

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// File is a member of a layer: a file, or with Link a symbolic link, or with a
// name that ends in a slash a directory. Kind, when set, is a tar type flag.
type File struct {
	Name string
	Body string
	Link string
	Mode int64
	Kind byte
}

// Layer packs files.
func Layer(t testing.TB, files ...File) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.Name, Linkname: f.Link, Mode: f.Mode, Typeflag: f.Kind, Format: tar.FormatPAX}
		if f.Mode == 0 {
			h.Mode = 0o755
		}
		if f.Kind == 0 {
			switch {
			case strings.HasSuffix(f.Name, "/"):
				h.Typeflag = tar.TypeDir
			case f.Link != "":
				h.Typeflag = tar.TypeSymlink
			default:
				h.Typeflag, h.Size = tar.TypeReg, int64(len(f.Body))
			}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := io.WriteString(w, f.Body); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Image puts layers over each other, for this machine, with variables.
func Image(t testing.TB, env []string, layers ...[]byte) v1.Image {
	t.Helper()
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, Config: v1.Config{Env: env}})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range layers {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

// Programs are files with programs of this machine, and the libraries that
// they need, at their own places.
func Programs(t testing.TB, names ...string) []File {
	t.Helper()
	seen := map[string]bool{}
	var files []File
	add := func(path string) {
		if seen[path] {
			return
		}
		seen[path] = true
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, File{Name: path[1:], Body: string(b)})
	}
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if path, err = filepath.EvalSymlinks(path); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, File{Name: "usr/bin/" + name, Body: string(b)})
		libs, _ := exec.Command("ldd", path).Output() // none of a static one
		for word := range strings.FieldsSeq(string(libs)) {
			if filepath.IsAbs(word) {
				add(word)
			}
		}
	}
	return files
}

// Bash is an image with bash and a few programs, as small ones are: /bin leads
// to /usr/bin.
func Bash(t testing.TB, more ...[]byte) v1.Image {
	t.Helper()
	base := []File{{Name: "usr/bin/"}, {Name: "bin", Link: "usr/bin"}, {Name: "etc/passwd", Body: "root:x:0:0:root:/root:/bin/bash\nwww:x:33:33::/var/www:/bin/false\n", Mode: 0o644},
		{Name: "etc/shadow", Body: "root:*:1::::::\n", Mode: 0o640}, {Name: "etc/os-release", Body: "ID=berth-test\n", Mode: 0o644}}
	names := []string{"bash", "cat", "ls", "id", "env", "touch", "mkdir", "rm", "stat", "sleep", "head", "yes", "seq", "mkfifo", "ln", "chmod", "readlink"}
	return Image(t, []string{"PATH=/opt/bin:/usr/bin:/bin", "FROM_IMAGE=yes", "HOME=/root"}, append([][]byte{Layer(t, base...), Layer(t, Programs(t, names...)...)}, more...)...)
}
