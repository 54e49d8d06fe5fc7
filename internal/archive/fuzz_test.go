package archive

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzUntar reads noise as archives of somebody's files.
func FuzzUntar(f *testing.F) {
	f.Add(packTar(f, member{name: "a/b", body: "x"}, member{name: "l", kind: tar.TypeSymlink, body: "a/b"}, member{name: "h", kind: tar.TypeLink, body: "a/b"}))
	f.Add(packZip(f, member{name: "a/", kind: tar.TypeDir}, member{name: "a/b", body: "x"}, member{name: "l", kind: tar.TypeSymlink, body: "a/b"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		root, dir := target(t)
		if Untar(root, bytes.NewReader(b), small) == nil {
			inspect(t, dir, true)
		}
		root, dir = target(t)
		if Unzip(root, bytes.NewReader(b), int64(len(b)), small) == nil {
			inspect(t, dir, true)
		}
	})
}

// FuzzUnlayer makes layers of a few names that get in each other's way, so
// that no checksum stands between the fuzzer and the unpacking: of each three
// bytes the first chooses a kind, the second a name, the third where it leads.
func FuzzUnlayer(f *testing.F) {
	f.Add([]byte{0, 1, 2, 2, 3, 4, 1, 1, 0})
	f.Add([]byte("a symlink then a file then a whiteout of all"))
	names := []string{"a", "b", "a/b", "b/a", "a/b/c", ".wh.a", "a/.wh.b", "a/.wh..wh..opq", ".wh..wh..opq", "b/.wh.a", "./", "/a/c", "c", "c/a", "a/../../outside/x", "b/.wh..."}
	targets := []string{"a", "b", "..", "/", "../outside", "/outside/secret", "a/b", "/a", ".", "b/../..", "../../outside", "c/a", "", "../in/a", "a/../b", "/proc/self/root"}
	kinds := []byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo, tar.TypeChar, 'n'}
	f.Fuzz(func(t *testing.T, ops []byte) {
		root, dir := target(t)
		var layer []member
		flush := func() {
			_, _ = Unlayer(root, bytes.NewReader(packTar(t, layer...)), small) // refused is fine, outside is not
			layer = nil
		}
		for ; len(ops) >= 3; ops = ops[3:] {
			m := member{kind: kinds[int(ops[0])%len(kinds)], name: names[int(ops[1])%len(names)], mode: 0o6777}
			switch m.kind {
			case 'n':
				flush()
				continue
			case tar.TypeSymlink, tar.TypeLink:
				m.body = targets[int(ops[2])%len(targets)]
				if m.body == "" {
					continue
				}
			case tar.TypeReg:
				m.body = "x"
			}
			if m.name = strings.TrimSuffix(m.name, "/"); m.kind == tar.TypeDir {
				m.name += "/"
			}
			layer = append(layer, m)
		}
		flush()
		inspect(t, dir, false)
	})
}

// inspect holds what was unpacked to what it may be.
func inspect(t *testing.T, dir string, strict bool) {
	var bytes int64
	var members int
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if members++; info.Mode().IsRegular() {
			bytes += info.Size()
		}
		switch {
		case info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket) != 0:
			t.Errorf("%s is %v", p, info.Mode())
		case strict && info.Mode().Type() == fs.ModeSymlink:
			root, err := os.OpenRoot(dir)
			if err != nil {
				return err
			}
			defer root.Close()
			rel, _ := filepath.Rel(dir, p)
			if _, err := root.Stat(rel); err != nil && strings.Contains(err.Error(), "escapes") {
				t.Errorf("%s leads out", rel)
			}
		case !strict && strings.HasPrefix(filepath.Base(p), ".wh."):
			t.Errorf("the whiteout %s is there", p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if bytes > small.Bytes || members > (small.Members+1)*(small.Depth+1) {
		t.Errorf("%d bytes in %d members", bytes, members)
	}
}
