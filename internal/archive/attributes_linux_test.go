package archive

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// read gives an attribute of a file, or what there is in its place.
func read(t *testing.T, path, name string) string {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := syscall.Getxattr(path, name, buf)
	if err == syscall.ENODATA {
		return "none"
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// TestLayerAttributes: a user's attributes of files and directories come to the
// disk, and those of a layer's directory are all that it has. What an overlay, the
// kernel or a policy would heed does not come.
func TestLayerAttributes(t *testing.T) {
	probe := filepath.Join(t.TempDir(), "probe")
	if err := os.WriteFile(probe, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setxattr(probe, "user.plain", []byte("x"), 0); err != nil {
		t.Skipf("by design: the file system has no such attributes: %v", err)
	}
	all := map[string]string{"SCHILY.xattr.user.plain": "a\x00b", "SCHILY.xattr.user.overlay.redirect": "/etc", "SCHILY.xattr.user.overlay.opaque": "y",
		"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.security.capability": "x", "SCHILY.xattr.security.selinux": "x", "SCHILY.xattr.system.posix_acl_access": "x"}
	dir, err := layers(t,
		[]member{{name: "a", body: "1", pax: all}, {name: "d/", kind: tar.TypeDir, pax: all}, {name: "e/", kind: tar.TypeDir, pax: all}, {name: "s", kind: tar.TypeSymlink, body: "a", pax: all}},
		[]member{{name: "d/", kind: tar.TypeDir, pax: map[string]string{"SCHILY.xattr.user.other": "2"}}})
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"a": "user.plain", "d": "user.other", "e": "user.plain"} {
		buf := make([]byte, 1024)
		n, err := syscall.Listxattr(filepath.Join(dir, file), buf)
		if got := strings.TrimSuffix(string(buf[:max(n, 0)]), "\x00"); err != nil || got != want {
			t.Errorf("%s has %q, %v, not %q", file, got, err, want)
		}
	}
	if got := read(t, filepath.Join(dir, "a"), "user.plain"); got != "a\x00b" {
		t.Errorf("its value is %q", got)
	}
	if got := read(t, filepath.Join(dir, "d"), "user.other"); got != "2" {
		t.Errorf("the directory's is %q", got)
	}
	many := map[string]string{}
	for i := range maxAttributes + 1 {
		many[fmt.Sprint("SCHILY.xattr.user.", i)] = ""
	}
	for name, c := range map[string]struct {
		pax  map[string]string
		says string
	}{
		"many":      {many, "more than 64 extended attributes"},
		"long name": {map[string]string{"SCHILY.xattr.user." + strings.Repeat("x", 255): ""}, "a name that no file can have"},
		"large":     {map[string]string{"SCHILY.xattr.user.large": strings.Repeat("x", 100_000)}, "no room"},
	} {
		_, err := layers(t, []member{{name: "a", body: "1", pax: c.pax}})
		check(t, name, err, c.says)
	}
}
