package tree

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever name a model gives and wherever links lead, what the name resolves
// to lies in one of the places, has no "..", and reading it gives what is
// inside.
func FuzzResolve(f *testing.F) {
	base := f.TempDir()
	root := filepath.Join(base, "tree")
	if err := os.Mkdir(root, 0o755); err != nil {
		f.Fatal(err)
	}
	t, err := Open(Config{Root: root, UID: -1, GID: -1})
	if err != nil {
		f.Fatal(err)
	}
	secret := filepath.Join(base, "secret")
	for name, content := range map[string]string{secret: "top secret", root + "/workspace/in": "in"} {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			f.Fatal(err)
		}
	}
	link := root + "/workspace/l"
	for _, s := range [][2]string{{"l", "/workspace/in"}, {"l", "../../../secret"}, {"l/secret", ".."}, {"l", secret}, {"/workspace/../etc", "x"},
		{"l/l/l/in", "."}, {"a\x00b", "l"}, {"/proc/self/root", "/proc/self/root/"}, {"l/..", "/tmp/../mnt"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(tt *testing.T, name, target string) {
		os.Remove(link)
		if os.Symlink(target, link) != nil {
			tt.Skip("no such link can be made")
		}
		rel, exists, err := t.resolve(name)
		if err == nil {
			if !within("/"+rel, t.places) || strings.Contains("/"+rel+"/", "/../") {
				tt.Errorf("%q with a link to %q resolves to %q", name, target, rel)
			}
			if info, err := os.Lstat(filepath.Join(root, rel)); exists && (err != nil || info.Mode()&os.ModeSymlink != 0) {
				tt.Errorf("%q with a link to %q resolves to %q: %v, %v", name, target, rel, info, err)
			}
		}
		w := world{Tree: t}
		if got, err := w.read(name); err == nil && got != "in" {
			tt.Errorf("%q with a link to %q reads %q", name, target, got)
		}
	})
}
